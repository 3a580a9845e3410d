"""Responses over HTTP end in time when whoever they are for is not welcome any more, on every wire, in virtual time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import pytest

from tests.conftest import SCRIPTED
from tests.data.scripted import Scripted
from tests.mounted import Reply
from tests.virtual import in_virtual_time, turns
from wsstream.access import PATROL
from wsstream.assembly import Assembly
from wsstream.chunks import StreamState
from wsstream.config import Config
from wsstream.identity import Identity
from wsstream.wires.base import Visitor

LIFETIME, GRACE = 100.0, 20.0
TEXT = {"content-type": "text/plain"}
ASKED = {"message": "hi", "session_id": "ses"}
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
UI = {"id": "ses", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}


class Hook:
    """Everybody is alice: for a while, until she is gone."""

    is_gone: ClassVar[bool] = False

    async def identify(self, visitor: Visitor) -> Identity | None:
        """By a token that says how long it is good, if not for ever."""
        seconds = visitor.headers.get("x-seconds")
        return Identity("alice", expires=None if seconds is None else time.time() + float(seconds))

    def is_revoked(self, _: Identity) -> bool:
        """From then on."""
        return self.is_gone


class House:
    """Everything but the sockets, with a scripted provider."""

    def __init__(self, assembly: Assembly, scripted: Scripted) -> None:
        self.assembly = assembly
        self.scripted = scripted
        self._app = assembly.http(page=False)

    def ask(self, method: str, target: str, body: Any = b"", **headers: str) -> Reply:
        """A request of alice's."""
        return Reply(self._app, method, target, body, headers)

    async def begin(self) -> str:
        """An answer with two chunks, from another request; its id."""
        reply = self.ask(
            "POST", "/v1/responses", {"input": "hi", "background": True}, **{"x-wsstream-session-id": "ses"}
        )
        stream_id: str = json.loads(await reply.whole())["id"]
        await turns()
        self.scripted.last.put("one ", "two ")
        return stream_id

    def rejected(self, reason: str) -> int:
        """How many were turned away for that."""
        return self.assembly.rejections.statistics()[reason]


@asynccontextmanager
async def house(scripted: Scripted) -> AsyncIterator[House]:
    """A server behind a hook that knows when tokens end."""
    config = Config(
        store="memory:",
        provider=SCRIPTED,
        identity_hook=f"{__name__}:Hook",
        token_grace=GRACE,
        durable_writes="on",
        on_orphan="continue",
        chunk_timeout=80_000,
        first_token_timeout=80_000,
        heartbeat_timeout=80_000,
    )
    assembly = Assembly(config)
    await assembly.open()
    try:
        yield House(assembly, scripted)
    finally:
        await assembly.interrupt()
        await assembly.close()


class Way(NamedTuple):
    """One way to stream, or to wait."""

    method: str
    target: str
    body: Any = b""
    last_words: str = ""
    """How a response ends whose token has run out; or its status, where nothing was sent yet."""
    revoked: str = ""
    """How one ends that was revoked."""


ERROR = '"error_type":"unauthorized"'
GONE = '"error_type":"forbidden"'
OPENAI, OPENAI_GONE = '"code":"unauthorized"', '"code":"forbidden"'
WORDS, WORDS_GONE = "The token has run out", "This is not allowed any more"

WAYS = {
    "sse": Way("POST", "/api/chat/stream", ASKED, ERROR, GONE),
    "sse, as a leaver who cancels": Way("POST", "/api/chat/stream?cancel_on_close=1", ASKED, ERROR, GONE),
    "sse again": Way("GET", "/api/streams/{stream_id}", b"", ERROR, GONE),
    "completions": Way("POST", "/v1/chat/completions", {**MESSAGES, "stream": True}, OPENAI, OPENAI_GONE),
    "completions again": Way("GET", "/v1/streams/{stream_id}", b"", OPENAI, OPENAI_GONE),
    "responses": Way("POST", "/v1/responses", {"input": "hi", "stream": True}, OPENAI, OPENAI_GONE),
    "responses again": Way("GET", "/v1/responses/{response_id}?stream=true", b"", OPENAI, OPENAI_GONE),
    "ai": Way("POST", "/api/ai/chat", UI, f'"errorText":"{WORDS}"', f'"errorText":"{WORDS_GONE}"'),
    "ai again": Way("GET", "/api/ai/chat/{id}/stream", b"", f'"errorText":"{WORDS}"', f'"errorText":"{WORDS_GONE}"'),
    "durable": Way("GET", "/durable/{stream_id}?offset=-1&live=sse", b"", f": {WORDS}", f": {WORDS_GONE}"),
    "feeds": Way("GET", "/v1/stream/{name:path}?offset=-1&live=sse", b"", f": {WORDS}", f": {WORDS_GONE}"),
    "native": Way("POST", "/api/native", {"type": "hello"}, '"code":3000', '"code":3003'),
    "whole": Way("POST", "/api/chat", ASKED, "401", "403"),
    "whole completions": Way("POST", "/v1/chat/completions", MESSAGES, "401", "403"),
    "whole responses": Way("POST", "/v1/responses", {"input": "hi"}, "401", "403"),
}
SHORT = {
    "/api/sessions/{session_id}/messages",
    "/api/sessions/{session_id}/streams",
    "/api/ai/chat/{id}",
    "/api/probe",
    "/api/native/{connection_id}",
    "/v1/models",
    "/v1/models/{model:path}",
    "/v1/responses/{response_id}/cancel",
    "/v1/tickets",
}
"""Addresses whose answers take no longer than a moment, or ten seconds at most."""


async def opened(it: House, way: Way, **headers: str) -> Reply:
    """A response under way, of which something was told."""
    stream_id = await it.begin()
    await it.ask("PUT", "/v1/stream/notes", b"a note", **TEXT).task
    target = way.target.replace("{stream_id}", stream_id).replace("{response_id}", stream_id)
    target = target.replace("{id}", "ses").replace("{name:path}", "notes")
    reply = it.ask(way.method, target, way.body, **headers)
    await turns(20)
    it.scripted.last.put("three ")
    await asyncio.sleep(5)
    if way.target == "/api/native":  # which otherwise takes its silence for a proxy's
        found = json.loads(reply.text.split("data: ")[1].split("\n")[0])
        reply = it.ask("POST", "/api/native", way.body, **headers)
        await turns(20)
        found = json.loads(reply.text.split("data: ")[1].split("\n")[0])
        await it.ask("POST", f"/api/native/{found['connection_id']}", {"type": "list_streams"}, **headers).task
    return reply


def ended_with(reply: Reply, words: str) -> bool:
    """Whether it ended so, and with nothing behind it but what ends such a stream."""
    if words.isdigit():
        return reply.status == int(words)
    last = reply.text.removesuffix("data: [DONE]\n\n").rstrip("\n").rpartition("\n\n")[2]
    return reply.status == 200 and words in last and "id:" not in last.replace("pid:", "")


@pytest.mark.parametrize("name", WAYS)
@in_virtual_time
async def test_a_response_ends_when_its_token_has_run_out(scripted: Scripted, name: str) -> None:
    """A grace after the token's end the client is told so in the wire's own words, and the answer goes on."""
    way = WAYS[name]
    async with house(scripted) as it:
        reply = await opened(it, way, **{"x-seconds": str(LIFETIME)})
        await asyncio.sleep(LIFETIME + GRACE - 15)
        assert not reply.task.done()
        await asyncio.sleep(25)  # a connection looks every heartbeat
        assert reply.task.done()
        assert ended_with(reply, way.last_words), reply.text
        assert it.rejected("expired") == 1
        assert all(stream.log.state is StreamState.RUNNING for stream in it.assembly.streams.of_session("ses", "alice"))
        assert not it.assembly.guard.stays


@pytest.mark.parametrize("name", WAYS)
@in_virtual_time
async def test_a_response_ends_when_its_user_is_revoked(
    scripted: Scripted, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a round of the patrol the client is shown out, on every wire; a token that lasts is left alone before."""
    way = WAYS[name]
    async with house(scripted) as it:
        reply = await opened(it, way)
        await asyncio.sleep(2 * LIFETIME)
        assert not reply.task.done()
        monkeypatch.setattr(Hook, "is_gone", True)
        await asyncio.sleep(PATROL + 1)
        assert reply.task.done()
        assert ended_with(reply, way.revoked), reply.text
        assert it.rejected("revoked") == 1
        assert not it.assembly.guard.stays


def test_every_address_is_one_of_these() -> None:
    """No wire has an address of which it is not known whether its answers last."""
    assembly = Assembly(Config(store="memory:", provider="demo", durable_writes="on"))
    assembly.hub = assembly.streams = None  # type: ignore[assignment]
    assembly.streams = type("Streams", (), {"feeds": None})  # type: ignore[assignment]
    found = {endpoint.path for wire in assembly.wires() for endpoint in wire}
    assert found == {way.target.partition("?")[0] for way in WAYS.values()} | SHORT


@pytest.mark.parametrize(
    ("name", "header", "position"),
    [
        ("sse again", "last-event-id", "id: "),
        ("completions again", "last-event-id", "id: "),
        ("ai again", "last-event-id", "id: "),
        ("responses again", "", '"sequence_number":'),
    ],
)
@in_virtual_time
async def test_a_new_token_goes_on_where_the_old_one_ended(
    scripted: Scripted, name: str, header: str, position: str
) -> None:
    """From the last position told, which the last words have not moved, nothing is missing and nothing told twice."""
    way = WAYS[name]
    async with house(scripted) as it:
        reply = await opened(it, way, **{"x-seconds": str(LIFETIME)})
        text = await reply.whole()
        at = text.rpartition(position)[2].split("\n")[0].split("}")[0].split(",")[0]
        (stream,) = it.assembly.streams.of_session("ses", "alice")
        target = way.target.replace("{id}", "ses")
        for each in ("{stream_id}", "{response_id}"):
            target = target.replace(each, stream.stream_id)
        again = it.ask("GET", target if header else f"{target}&starting_after={at}", **({header: at} if header else {}))
        await turns(20)
        scripted.last.put("four")
        scripted.last.finish()
        rest = await again.whole()
        whole = text + rest
        for word in ("one ", "two ", "three ", "four"):
            told = [part for part in whole.split("\n\n") if f'"{word}"' in part]
            assert len(told) == 1, (word, whole)


@pytest.mark.parametrize(
    "target", ["/durable/{stream_id}?offset={tail}&live=long-poll", "/v1/stream/notes?offset=now&live=long-poll"]
)
@in_virtual_time
async def test_a_long_poll_ends_too(scripted: Scripted, target: str) -> None:
    """A question that waits for news is answered with 401 when its token runs out first."""
    async with house(scripted) as it:
        stream_id = await it.begin()
        await it.ask("PUT", "/v1/stream/notes", b"a note", **TEXT).task
        tail = (await _read(it, f"/durable/{stream_id}?offset=-1")).headers["stream-next-offset"]
        reply = it.ask("GET", target.format(stream_id=stream_id, tail=tail), **{"x-seconds": str(1 - GRACE)})
        await asyncio.sleep(2)
        assert (reply.task.done(), reply.status) == (True, 401)


async def _read(it: House, target: str) -> Reply:
    reply = it.ask("GET", target)
    await reply.task
    return reply


@pytest.mark.parametrize(("late", "goes_on"), [(GRACE - 15, True), (GRACE + 10, False), (10 * GRACE, False)])
@in_virtual_time
async def test_token_grace(scripted: Scripted, late: float, *, goes_on: bool) -> None:
    """A response goes on for ``token_grace`` after its token's end, and then no longer, however late anybody looks."""
    async with house(scripted) as it:
        reply = await opened(it, next(iter(WAYS.values())), **{"x-seconds": str(LIFETIME)})
        await asyncio.sleep(LIFETIME + late)
        assert reply.task.done() is not goes_on
        assert it.rejected("expired") == (0 if goes_on else 1)
