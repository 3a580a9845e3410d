"""Which answers go on after a crash, as their records and logs say it, and what streams make of that."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.virtual import in_virtual_time, turns
from wsstream import restarts as module
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, StreamState
from wsstream.config import Config
from wsstream.errors import BadRequest, Capacity, ProviderError
from wsstream.messages import ChatConfig, ChatRequested
from wsstream.providers.base import Provider, Sink
from wsstream.restarts import MOST, Again, Answering, Survival, settled, switched, tried_again, unpack
from wsstream.said import Keep, Said
from wsstream.sessions import answer_message
from wsstream.stores.base import End, StoredLog, StoredMessage, StreamRecord, StreamSummary
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Stream, Streams

ASKED = ChatRequested("r", message="hi")


def survival(durability: str = "process") -> Survival:
    """As a server has it whose answers may take a minute."""
    return Survival(durability, 60.0)


def made(asked: ChatRequested = ASKED, **fields: Any) -> StreamRecord:
    """The record of an answer that has begun just now, and may go on."""
    again = survival().pack(asked, "one", [])
    usual = {"owner": "ann", "again": again, "created": time.time()}
    return StreamRecord("s_1", "ses", "r", "epoch", "model", **{**usual, **fields})


def decide(record: StreamRecord, *kinds: Kind, cancelled: bool = False, whole: bool = True, **how: Any) -> Any:
    """What becomes of it."""
    log = StoredLog(record, [b"x"] * len(kinds), bytes(kinds), None, whole)
    return survival(**how).decide(record, cancelled, log)


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run of the operating system that tests can end."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    monkeypatch.setattr(module, "BOOT_ID", path)
    return path


# -- deciding


def test_what_may_go_on_is_counted() -> None:
    """A text, with thoughts and what was withdrawn, goes on with the record it had, but for the count."""
    record = made()
    renewed = decide(record, Kind.TEXT, Kind.REASONING, Kind.REWIND)
    assert unpack(renewed).times == 1
    assert unpack(renewed) == msgspec.structs.replace(unpack(record), times=1)
    assert msgspec.structs.replace(renewed, again=record.again) == record


@pytest.mark.parametrize(
    ("kinds", "how"),
    [
        ((Kind.TEXT, Kind.TOOL_CALL), {}),
        ((Kind.DATA,), {}),
        ((Kind.TEXT,), {"whole": False}),
        ((Kind.TEXT,), {"fields": {"again": b""}}),
        ((Kind.TEXT,), {"fields": {"again": b"{}"}}),
        ((Kind.TEXT,), {"fields": {"created": 1.0}}),
    ],
)
def test_what_may_not_go_on_is_interrupted(kinds: tuple[Kind, ...], how: dict[str, Any]) -> None:
    """Calls of tools, damage, a request that is not kept or not understood, and age end an answer for good."""
    outcome, message = decide(made(**how.pop("fields", {})), *kinds, **how)
    assert (outcome.state, outcome.error_type, outcome.recoverable) == ("interrupted", "interrupted", True)
    assert outcome.final_chunk_id == len(kinds)
    assert message.stream_id == "s_1"


@pytest.mark.parametrize("fields", [{}, {"again": b""}, {"again": b"{}"}])
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_kept_of_an_answer_that_ends_there(fields: dict[str, Any], cancelled: bool) -> None:
    """No more of its reasoning than of one that ends by itself."""
    log = StoredLog(made(**fields), [b"hm"] * 3, bytes([Kind.REASONING] * 3), None, whole=False)
    _, message = Survival("process", 60.0, Keep(reasoning=5)).decide(log.record, cancelled, log)
    assert message.reasoning == "hmhmh"


def test_what_was_cancelled_does_not_go_on() -> None:
    """A cancel stands, whatever else would allow."""
    outcome, _ = decide(made(), Kind.TEXT, cancelled=True)
    assert outcome.state is StreamState.CANCELLED


def test_an_answer_goes_on_so_often_and_no_more() -> None:
    """A request that brings its server down does not do so for ever."""
    record = made()
    for _ in range(MOST):
        record = decide(record, Kind.TEXT)
    outcome, _ = decide(record, Kind.TEXT)
    assert outcome.state is StreamState.INTERRUPTED


def test_what_the_operating_system_lost_does_not_go_on(boot: Path) -> None:
    """Chunks that viewers saw may be lost with the page cache, so nothing goes on behind what is left."""
    record = made()
    powered = made(again=survival("power").pack(ASKED, "one", []))
    boot.write_text("second\n")
    assert decide(record, Kind.TEXT)[0].state is StreamState.INTERRUPTED
    assert decide(record, Kind.TEXT, durability="power")[0].state is StreamState.INTERRUPTED
    assert unpack(decide(powered, Kind.TEXT)).boot == "second"


def test_where_runs_have_no_name_nothing_goes_on(boot: Path) -> None:
    """Who cannot tell whether the operating system went down too takes it that it did."""
    boot.unlink()
    assert decide(made(), Kind.TEXT)[0].state is StreamState.INTERRUPTED
    assert (
        unpack(decide(made(again=survival("power").pack(ASKED, "one", [])), Kind.TEXT, durability="power")).times == 1
    )


def test_a_request_is_kept_as_it_was() -> None:
    """Messages and settings come back, whatever JSON they hold."""
    config = ChatConfig(temperature=0.5, fallback=["b"], on_orphan={"stop_after": 3}, options={"seed": 10**30})
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", [{"type": "text", "text": "ä😀"}])]
    record = made(ChatRequested("r", messages=messages, config=config))
    assert unpack(record) == Again("one", config, messages, [], "first")
    assert settled(record).again == b""
    assert settled(settled(record)) == settled(record)


def test_who_was_turned_to_is_kept() -> None:
    """The newest of those who were turned to counts, also behind a crash; all else stays as it was."""
    record = switched(switched(made(), "two", "large"), "three", None)
    assert unpack(record) == msgspec.structs.replace(unpack(made()), answering=Answering("three"))
    assert unpack(decide(record, Kind.TEXT)).answering == Answering("three")
    assert msgspec.structs.replace(record, again=b"") == msgspec.structs.replace(
        made(), again=b"", created=record.created
    )


def test_tries_of_all_processes_are_counted() -> None:
    """What was tried before a crash, the crash, and what was tried behind it: the sum is kept over the next crash, and
    told where there is none."""
    record = decide(tried_again(made(), 2), Kind.TEXT)
    assert unpack(record).retries == 3
    record = decide(tried_again(tried_again(record, 4), 5), Kind.TEXT)
    assert (unpack(record).retries, unpack(record).times) == (6, 2)
    for kind, cancelled in ((Kind.TOOL_CALL, False), (Kind.TEXT, True)):
        outcome, _ = decide(record, kind, cancelled=cancelled)
        assert outcome.retry_count == 6


# -- streams


class Halting:
    """Says what it is asked with and one word more, then waits."""

    continues = True

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.failing: list[str] = []
        """The models that fail at once."""
        self.end = asyncio.Event()
        self.failures = 0
        """Tries that fail, from now on."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Repeat the end of the answer so far, as some do."""
        self.requests.append(request)
        if self.failures:
            self.failures -= 1
            raise ProviderError("not now", recoverable=True, retry_after=10.0)
        if request.model in self.failing:
            raise ProviderError("not this one", recoverable=False)
        sink.put([Delta(request.prefix), Delta(" more")])
        await self.end.wait()
        return Finish()

    async def close(self) -> None:
        """Nothing is shared."""


class Crashed(MemoryStore):
    """What a crash has left."""

    durable = True

    def __init__(self, *logs: StoredLog) -> None:
        super().__init__()
        self.logs = list(logs)
        self.ends: list[str] = []
        self.records: list[StreamRecord] = []
        self.created: list[StreamRecord] = []

    async def open(self, end: End) -> list[StreamSummary]:
        return []

    def take_running(self) -> list[StoredLog]:
        return self.logs

    def create(self, record: StreamRecord, committed: Any) -> None:
        self.created.append(record)
        committed()

    def update(self, record: StreamRecord, committed: Any) -> None:
        self.records.append(record)
        committed()

    def finish(self, stream_id: str, outcome: Any, bodies: Any, kinds: Any, committed: Any) -> None:
        self.ends.append(stream_id)
        committed()


class House:
    """Streams after a crash."""

    def __init__(self, store: Crashed, **settings: Any) -> None:
        self.store = store
        self.provider = Halting()
        usual = {"store": "memory:", "provider": "one", "orphan_grace": 60.0}
        self.streams = Streams(Config(**{**usual, **settings}), store, self._provided)

    def _provided(self, name: str | None) -> Provider:
        if name not in (None, "one"):
            raise BadRequest("There is no such provider")
        return self.provider

    async def open(self) -> Stream:
        """Begin; the one stream."""
        await self.streams.open()
        await turns()
        return self.streams.get("s_1", "ann")


def crashed(asked: ChatRequested = ASKED, **fields: Any) -> Crashed:
    """A store with one stream that had said two words."""
    record = made(asked, **fields)
    store = Crashed(StoredLog(record, [b"it", b" had"], bytes(2), None))
    for message in (
        StoredMessage("m1", record.session_key, "user", "before", 1.0),
        StoredMessage("m2", record.session_key, "assistant", "said", 1.0),
        StoredMessage("m3", record.session_key, "user", "hi", 2.0),
        answer_message(record, Said(), complete=False),
        StoredMessage("m5", record.session_key, "user", "later", 3.0),
    ):
        store.save_message(message)
    return store


@in_virtual_time
async def test_an_answer_goes_on() -> None:
    """Its provider gets what was said before it and the answer so far; its log goes on under the same epoch."""
    store = crashed()
    h = House(store)
    stream = await h.open()
    (request,) = h.provider.requests
    assert [message.content for message in request.messages] == ["before", "said", "hi"]
    assert (request.prefix, request.model) == ("it had", "model")
    assert (stream.log.text(), stream.log.epoch, stream.log.tail) == ("it had more", "epoch", 3)
    assert (stream.owner, h.streams.statistics().running) == ("ann", 1)
    assert h.streams.start("ses", ASKED, "ann") is stream
    h.provider.end.set()
    await turns()
    assert stream.log.outcome is not None
    assert (stream.log.outcome.state, stream.log.outcome.final_chunk_id) == (StreamState.COMPLETE, 3)
    assert stream.log.outcome.ttft_ms is None
    assert store.ends == ["s_1"]
    assert [record.again for record in store.records] == [b""]
    history, _ = await h.streams.history("ses", "ann")
    assert [(message.content, message.is_complete) for message in history if message.stream_id] == [
        ("it had more", True)
    ]
    await h.streams.close()


def after_crash(store: Crashed) -> Crashed:
    """The store as it is opened again, where the newest record of its one stream goes on behind a word."""
    record = decide((store.created + store.records)[-1], Kind.TEXT)
    assert isinstance(record, StreamRecord)
    store.logs = [StoredLog(record, [b"it"], bytes(1), None)]
    return store


@in_virtual_time
async def test_the_end_counts_the_tries_of_all_processes() -> None:
    """Two failures, a crash, two more and a crash while the next try is waited for: five tries after the first
    are told at the end, as what was not tried any more is none."""
    store = Crashed()
    first = House(store)
    first.provider.failures = 2
    await first.streams.open()
    stream_id = first.streams.start("ses", ASKED, "ann").stream_id
    await asyncio.sleep(25)
    assert len(first.provider.requests) == 3
    second = House(after_crash(store))
    second.provider.failures = 2
    await second.streams.open()
    await asyncio.sleep(15)
    assert len(second.provider.requests) == 2
    third = House(after_crash(store))
    await third.streams.open()
    await turns()
    third.provider.end.set()
    await turns()
    outcome = third.streams.get(stream_id, "ann").log.outcome
    assert outcome is not None
    assert (outcome.state, outcome.retry_count) == (StreamState.COMPLETE, 3 + 2 + 1 - 1)
    for house in (first, second, third):
        await house.streams.close()


@in_virtual_time
async def test_a_request_with_messages_of_its_own_is_asked_with_them() -> None:
    """What the request brought counts, not what the session has."""
    own = [ChatMessage("user", "own")]
    h = House(crashed(ChatRequested("r", messages=own, config=ChatConfig(system_prompt="brief", temperature=0.1))))
    await h.open()
    (request,) = h.provider.requests
    assert ([message.content for message in request.messages], request.temperature) == (["brief", "own"], 0.1)
    await h.streams.close()


@in_virtual_time
async def test_what_an_answer_was_not_told_it_is_not_told_later() -> None:
    """An answer of the session that was under way then has no part in the conversation, though it has ended since."""
    store = Crashed()
    h = House(store)
    await h.streams.open()
    first = h.streams.start("ses", ChatRequested("a", message="one"))
    await turns()
    h.streams.start("ses", ChatRequested("b", message="two"))
    await turns()
    h.streams.cancel(first)
    h.provider.end.set()
    await turns()
    h.streams.start("ses", ChatRequested("c", message="three"))
    await turns()
    again = House(store)
    store.logs = [StoredLog(record, [], b"", None) for record in store.created[1:]]
    await again.streams.open()
    await turns()
    assert [request.messages for request in again.provider.requests] == [
        request.messages for request in h.provider.requests[1:]
    ]
    assert [len(request.messages) for request in again.provider.requests] == [2, 5]
    await h.streams.close()
    await again.streams.close()


@in_virtual_time
async def test_nobody_comes_back() -> None:
    """What goes on is an orphan from the start."""
    h = House(crashed())
    stream = await h.open()
    await asyncio.sleep(59)
    assert stream.log.state is StreamState.RUNNING
    await asyncio.sleep(2)
    assert stream.log.state is StreamState.INTERRUPTED
    await h.streams.close()


@pytest.mark.parametrize(
    ("asked", "settings", "continues"),
    [
        (ASKED, {}, False),
        (ASKED, {"on_interrupt": "fail"}, True),
        (ASKED, {"provider": "another"}, True),
        (ChatRequested("r", message="hi", config=ChatConfig(provider="gone")), {}, True),
        (ChatRequested("r", message="hi", config=ChatConfig(fallback=["gone"])), {}, True),
    ],
)
@in_virtual_time
async def test_a_server_that_was_set_up_anew(asked: ChatRequested, settings: dict[str, Any], continues: bool) -> None:
    """Where the new one cannot go on, the answer ends as interrupted, once, and nobody is asked."""
    store = crashed(asked)
    h = House(store, **settings)
    h.provider.continues = continues
    stream = await h.open()
    assert stream.log.outcome is not None
    assert (stream.log.state, stream.log.outcome.recoverable, stream.log.tail) == (StreamState.INTERRUPTED, True, 2)
    assert (h.provider.requests, store.ends, h.streams.statistics().running) == ([], ["s_1"], 0)
    await h.streams.close()


@in_virtual_time
async def test_an_answer_whose_session_is_gone() -> None:
    """There is nothing left to ask with: it ends as interrupted."""
    store = crashed()
    store.delete_session("ses/ann")
    h = House(store)
    stream = await h.open()
    assert stream.log.outcome is not None
    assert (stream.log.state, stream.log.outcome.recoverable) == (StreamState.INTERRUPTED, True)
    assert h.provider.requests == []
    await h.streams.close()


@in_virtual_time
async def test_they_are_never_refused() -> None:
    """What goes on needs no place, and takes one from those who come."""
    store = crashed()
    other = msgspec.structs.replace(store.logs[0].record, stream_id="s_2", request_id="q")
    store.logs.append(StoredLog(other, [], b"", None))
    store.save_message(answer_message(other, Said(), complete=False))
    h = House(store, max_running_streams=1)
    await h.open()
    assert h.streams.statistics().running == 2
    with pytest.raises(Capacity):
        h.streams.start("new", ASKED, "ann")
    await h.streams.close()


async def models_asked(store: Crashed, suits: str = "") -> list[str | None]:
    """The models that are asked when the answers go on, those whose name begins with ``suits`` alone being able to."""
    h = House(store)
    h.provider.suits = lambda model: (model or "").startswith(suits)  # type: ignore[attr-defined]
    await h.open()
    await h.streams.close()
    return [request.model for request in h.provider.requests]


@pytest.mark.parametrize(
    ("answering", "suits", "asked"),
    [
        (None, "", ["model"]),
        (None, "b", ["b1"]),
        (Answering("one", "a"), "", ["a"]),
        (Answering("one", "b1"), "", ["b1"]),
        (Answering("one", "a"), "b", ["b1"]),
        (Answering("one", "b1"), "a", []),
        (Answering("gone", "b1"), "", ["model"]),
    ],
)
@in_virtual_time
async def test_who_goes_on(answering: Answering | None, suits: str, asked: list[str]) -> None:
    """Whoever was answering, where they can; else the next of the list, but none that was left behind already."""
    again = Again("one", ChatConfig(fallback=["one:a", "one:b1", "one:b2"]), None, [], "first", answering=answering)
    assert await models_asked(crashed(again=msgspec.json.encode(again)), suits) == asked


@in_virtual_time
async def test_a_switch_is_kept_before_what_it_brings() -> None:
    """Who is turned to stands in the record before they say a word; an answer that cannot go on writes none."""
    store = Crashed()
    h = House(store)
    await h.streams.open()
    h.provider.failing = ["model"]
    fallback = ChatConfig(fallback=["one:two"], model="model")
    stream = h.streams.start("ses", ChatRequested("r", message="hi", config=fallback))
    plain = msgspec.structs.replace(fallback, on_interrupt="fail")
    other = h.streams.start("ses", ChatRequested("q", message="hi", config=plain))
    await turns()
    assert [request.model for request in h.provider.requests] == ["model", "two"] * 2
    assert (stream.log.tail, other.log.tail) == (1, 1)
    assert [unpack(record).answering for record in store.records] == [Answering("one", "two")]
    assert stream.record == store.records[0]
    await h.streams.close()


@pytest.mark.parametrize(("policy", "continues"), [("fail", True), ("restart", True), ("continue", False)])
@in_virtual_time
async def test_a_request_is_kept_only_where_it_is_of_use(policy: Any, continues: bool) -> None:
    """No store holds a second copy of what nobody will ask again."""
    store = Crashed()
    h = House(store)
    await h.streams.open()
    h.provider.continues = continues
    h.streams.start("ses", ChatRequested("r", message="hi", config=ChatConfig(on_interrupt=policy)))
    h.provider.continues = True
    h.streams.start("ses", ChatRequested("q", message="hi"))
    h.provider.suits = lambda model: model == "able"  # type: ignore[attr-defined]
    h.streams.start("ses", ChatRequested("p", message="hi", model="unable"))
    h.streams.start("ses", ChatRequested("s", message="hi", model="able"))
    assert [bool(record.again) for record in store.created] == [False, True, False, True]
    await h.streams.close()
