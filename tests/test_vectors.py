"""The scripted conversations of tests/vectors, which the browser client plays as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.pair import read
from wsstream import client_protocol as core
from wsstream import messages as m
from wsstream.chunks import ChatMessage, Outcome, StreamState
from wsstream.client import reconnect_delay
from wsstream.client_protocol import ClientProtocol, ClientSettings, Piece, View
from wsstream.errors import FINAL_CLOSE_CODES, CloseCode, RequestError

FOLDER = Path(__file__).parent / "vectors"
NOT_CASES = {"defaults", "closes"}
DEFAULTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "defaults.json").read_text(encoding="utf-8"))
CLOSES: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "closes.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted(FOLDER.glob("*.json"))
    if path.stem not in NOT_CASES
    for case in json.loads(path.read_text(encoding="utf-8"))
]
TOLD = {
    m.StreamStatus: "status",
    m.StreamQueued: "queued",
    m.GoingAway: "going_away",
    m.SessionChanged: "session_changed",
    m.StreamList: "stream_list",
    m.TokenRenewed: "token_renewed",
}


class Reader:
    """One view, and what its reader has taken of it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.pieces: list[Piece] = []

    def keep(self, piece: Piece) -> None:
        if piece.to is None:
            self.pieces.append(piece)
            return
        left = piece.withdrawn or 0
        while self.pieces and self.pieces[-1].first > piece.to:
            gone = self.pieces.pop()
            left -= len(gone.content) if gone.kind == "text" else 0
        if self.pieces and self.pieces[-1].last > piece.to:
            assert piece.withdrawn is not None, "a rewind into a piece that has no seams"
            batch = self.pieces.pop()
            kept = batch.content[: max(0, len(batch.content) - left)]
            self.pieces.append(batch._replace(last=piece.to, content=kept))

    def text(self, kind: str = "text") -> str:
        return "".join(piece.content for piece in self.pieces if piece.kind == kind)


class Player:
    """Plays one case against the client's core."""

    def __init__(self, session_id: str | None = None, **options: Any) -> None:
        self.end = ClientProtocol(ClientSettings(client="vectors", **options), session_id)
        self.now_ms = 1_000_000
        self.readers: dict[str, Reader] = {}
        self.sent: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.active: list[str] = []

    @property
    def now(self) -> float:
        return self.now_ms / 1000

    def play(self, step: dict[str, Any]) -> None:
        action, value = next(iter(step.items()))
        getattr(self, f"do_{action}")(value, step)
        self.end.handle_timer(self.now)
        self.sent += read(self.end.messages_to_send())
        self.events += [name for event in self.end.events_received() if (name := self.name_of(event))]

    def name_of(self, event: core.Event) -> str | None:
        match event:
            case core.Established(message):
                self.active = [info.stream_id for info in message.active_streams]
                return "connected"
            case core.Started(view):
                return f"start {self.called(view)}"
            case core.Resumed(view, _):
                return f"resumed {self.called(view)}"
            case core.Gap(view, expected, received):
                return f"gap {self.called(view)} {expected} {received}"
            case core.Ended(view):
                return f"end {self.called(view)}"
            case core.TokenWanted():
                return "token wanted"
            case core.Dead():
                return "dead"
            case core.Answered(message):
                return "answer history" if isinstance(message, m.History) else "answer error"
            case core.Told(m.Error() as error):
                return None if error.request_id or error.stream_id else "error"
            case core.Told(message):
                return TOLD[type(message)]
        return None

    def called(self, view: View) -> str:
        return next(name for name, reader in self.readers.items() if reader.view is view)

    # -- what is done

    def do_connect(self, _: Any, step: dict[str, Any]) -> None:
        self.end.connect(self.now)

    def do_lose(self, _: Any, step: dict[str, Any]) -> None:
        self.end.connection_lost()

    def do_server(self, message: dict[str, Any], step: dict[str, Any]) -> None:
        self.do_raw(json.dumps(DEFAULTS[message["type"]] | message), step)

    def do_raw(self, text: str, step: dict[str, Any]) -> None:
        self.end.receive_message(text, self.now)

    def do_wait(self, ms: int, step: dict[str, Any]) -> None:
        self.now_ms += ms

    def do_chat(self, name: str, step: dict[str, Any]) -> None:
        prompt = step["message"] if "message" in step else msgspec.convert(step["messages"], list[ChatMessage])
        config = msgspec.convert(step["config"], m.ChatConfig) if "config" in step else None
        try:
            view = self.end.chat(step["request_id"], prompt, config)
        except RequestError as error:  # the browser's client gives a stream that has ended, which says the same
            view = View(None, None)
            view.outcome = Outcome(StreamState.FAILED, 0, error_type=error.error_type, message=str(error))
            self.events.append(f"end {name}")
        self.readers[name] = Reader(view)

    def do_follow(self, name: str, step: dict[str, Any]) -> None:
        view = self.end.follow(step["stream_id"], step.get("last_chunk_id", 0), snapshot=step.get("snapshot", False))
        self.readers[name] = Reader(view)

    def do_render(self, name: str, step: dict[str, Any]) -> None:
        reader = self.readers[name]
        up_to = step.get("up_to", float("inf"))
        while reader.view.waiting and reader.view.processed < up_to:
            piece = self.end.take(reader.view, self.now)
            assert piece is not None
            reader.keep(piece)

    def do_cancel(self, name: str, step: dict[str, Any]) -> None:
        self.end.cancel(self.readers[name].view)

    def do_history(self, session_id: str | None, step: dict[str, Any]) -> None:
        self.end.get_history(session_id, step.get("before"), step.get("limit"))

    def do_token(self, token: str | None, step: dict[str, Any]) -> None:
        if token is None:
            self.end.renewal_failed(self.now)
        else:
            self.end.renew(token)

    def do_list(self, _: Any, step: dict[str, Any]) -> None:
        self.end.list_streams()

    # -- what is expected

    def do_sent(self, expected: list[dict[str, Any]], step: dict[str, Any]) -> None:
        assert self.sent == expected
        self.sent = []

    def do_events(self, expected: list[str], step: dict[str, Any]) -> None:
        assert self.events == expected
        self.events = []

    def do_active(self, expected: list[str], step: dict[str, Any]) -> None:
        assert self.active == expected

    def do_ignored(self, expected: int, step: dict[str, Any]) -> None:
        assert self.end.ignored == expected

    def do_timer(self, expected: int, step: dict[str, Any]) -> None:
        at = self.end.get_timer()
        assert at is not None
        assert round((at - self.now) * 1000) == expected

    def do_text(self, expected: dict[str, str], step: dict[str, Any]) -> None:
        for name, text in expected.items():
            assert self.readers[name].view.waiting == 0, "the case is to render first"
            assert self.readers[name].text() == text

    def do_kinds(self, expected: dict[str, dict[str, str]], step: dict[str, Any]) -> None:
        for name, kinds in expected.items():
            assert {kind: self.readers[name].text(kind) for kind in kinds} == kinds

    def do_stand(self, expected: dict[str, dict[str, int]], step: dict[str, Any]) -> None:
        for name, fields in expected.items():
            view = self.readers[name].view
            stand = {"received": view.received, "rendered": view.processed, "acked": view.acked}
            assert {field: stand[field] for field in fields} == fields

    def do_outcome(self, expected: dict[str, dict[str, Any]], step: dict[str, Any]) -> None:
        for name, fields in expected.items():
            outcome = self.readers[name].view.outcome
            assert outcome is not None
            known = {"ok": outcome.state in (StreamState.COMPLETE, StreamState.CANCELLED)}
            assert {f: known[f] if f in known else getattr(outcome, f) for f in fields} == fields


@pytest.mark.parametrize("case", CASES)
def test_a_case(case: dict[str, Any]) -> None:
    """The client says exactly what the case tells, and no more."""
    player = Player(**case.get("options", {}))
    for step in case["steps"]:
        player.play(step)
    assert (player.sent, player.events) == ([], [])


@pytest.mark.parametrize("close", CLOSES["closes"], ids=lambda close: str(close["code"]))
def test_a_close_code(close: dict[str, Any]) -> None:
    """A client stays away after the codes that another try would only repeat."""
    assert (close["code"] in FINAL_CLOSE_CODES) == (close["then"] == "stop")
    assert (close["code"] == CloseCode.UNAUTHORIZED) == (close["then"] == "renew")


@pytest.mark.parametrize("delay", CLOSES["delays"], ids=lambda delay: str(delay["name"]))
def test_a_delay(delay: dict[str, Any]) -> None:
    """The wait before the next try is the documented one."""
    told = delay["told_ms"] / 1000 if "told_ms" in delay else None
    waited = reconnect_delay(delay["attempt"], delay["jitter"], code=delay["code"], told=told)
    assert waited == delay["delay_ms"] / 1000


def test_the_cases_are_many_and_named_once() -> None:
    """No file of cases is passed over, and a failing case can be found by its name."""
    names = [case.id for case in CASES]
    assert len(names) == len(set(names)) >= 90
