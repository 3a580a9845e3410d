"""Every limit of the server: its setting, its metric, what a client sees, and how to go there, past it and far past it.

`tests/test_limits_table.py` carries the rows out, and holds the table in docs/operations.md to them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.mounted import MOMENT, Mount, Talk
from tests.native import Closed, connected, fetch
from wsstream.access import Access
from wsstream.chunks import Kind
from wsstream.config import Config
from wsstream.errors import ProviderRateLimited, ProviderTimeout
from wsstream.frames import text_frame
from wsstream.limits import Quotas
from wsstream.messages import ChunkWriter, encode
from wsstream.server import Server
from wsstream.wires.base import Visitor

KIB = 1024
FAR = "192.0.2.1"
TEXT = {"content-type": "text/plain"}
UNMET = 1e-6
"""A rate that brings nothing back while a test lasts."""

Drive = Callable[[Any, int], Awaitable[str]]


class Steps(NamedTuple):
    """How far to go: to the limit, one past it, ten times past it."""

    at: int
    past: int
    ten: int

    @classmethod
    def of(cls, limit: int) -> Steps:
        """Those of a limit that counts."""
        return cls(limit, limit + 1, 10 * limit)

    @classmethod
    def seconds(cls, limit: int, slack: int = 1) -> Steps:
        """Those of a time; it is looked at every ``slack`` seconds at least."""
        return cls(limit - 1, limit + slack, 10 * limit)


NOWHERE = Steps(0, 0, 0)


@dataclass(frozen=True)
class Row:
    """One limit."""

    what: str
    """What is limited, as the documentation says it."""
    beyond: str
    """And what comes of more."""
    metric: str = ""
    """What counts it, without ``wsstream_``; nothing where what is beyond is only cut."""
    settings: tuple[str, ...] = ()
    """Its keys."""
    said: str = ""
    """What the documentation says instead of their defaults, where these do not say it."""
    drive: Drive | None = None
    """Goes so far; what a client sees then."""
    steps: Steps = NOWHERE
    sees: tuple[str, str, str] = ("", "", "")
    config: dict[str, Any] = field(default_factory=dict)
    held_by: str = ""
    """The test that goes there, where it takes more than a row."""
    real: bool = False
    """Whether it takes a socket of the server's own."""

    @property
    def default(self) -> str:
        """The default values of its settings, as the documentation has them."""
        return self.said or ", ".join(_default(name) for name in self.settings)


_QUOTAS = Quotas.of(Config(), at_home=False)
_BY_SETTING = {
    "starts_per_minute": _QUOTAS.starts,
    "starts_per_address": _QUOTAS.address_starts,
    "max_running_per_user": _QUOTAS.running,
    "max_connections_per_user": _QUOTAS.connections,
    "max_connections_per_address": _QUOTAS.address_connections,
    "max_greeting_per_address": _QUOTAS.greeting,
    "lookups_per_minute": _QUOTAS.lookups,
    "replay_per_minute": _QUOTAS.replay,
    "max_feeds_per_user": _QUOTAS.feeds,
    "feed_creates_per_minute": _QUOTAS.feed_creates,
    "max_feeds_bytes_per_user": _QUOTAS.feed_bytes,
}


def _default(name: str) -> str:
    quota = _BY_SETTING.get(name)
    if quota is not None:
        return f"{quota:g}*" if quota < 1000 else f"{int(quota)}*"
    value = getattr(Config(), name)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# -- the native wire, in virtual time ----------------------------------------------------------------------------------


async def messages(it: Mount, n: int) -> str:
    talk = await it.talk()
    for _ in range(n - 1):  # the hello is one
        talk.say("heartbeat")
    return await talk.found()


async def early_messages(it: Mount, n: int) -> str:
    talk = await it.talk(greet=False)
    for number in range(n + 1):
        talk.say("heartbeat" if number else "hello")
    return await talk.found()


async def early_bytes(it: Mount, n: int) -> str:
    """In pieces of 32 KiB."""
    talk = await it.talk(greet=False)
    talk.say("hello")
    for _ in range(n):
        text = json.dumps({"type": "heartbeat", "timestamp": ""})
        talk.say_text(text[:-2] + "x" * (32 * KIB - len(text)) + text[-2:])
    return await talk.found()


async def malformed(it: Mount, n: int) -> str:
    talk = await it.talk()
    for _ in range(n):
        talk.say_text("{")
    return await talk.found()


async def requests(it: Mount, n: int) -> str:
    talk = await it.talk()
    for number in range(n):
        talk.say("chat_request", request_id=f"r{number}", message="hi")
    return await talk.found()


async def requests_apart(it: Mount, n: int) -> str:
    """Each on a connection of its own: one that follows an answer is not closed."""
    for number in range(n):
        talk = await it.talk()
        talk.say("chat_request", request_id=f"r{number}", message="hi")
        found = await talk.found()
    return found


async def queued(it: Mount, n: int) -> str:
    return await requests_apart(it, n + 1)


async def connections(it: Mount, n: int) -> str:
    return await [await it.talk(remote=FAR) for _ in range(n)][-1].found()


async def greeting(it: Mount, n: int) -> str:
    return await [await it.talk(remote=FAR, greet=False) for _ in range(n)][-1].found()


async def unknown_streams(it: Mount, n: int) -> str:
    talk = await it.talk()
    for number in range(n):
        talk.say("resume_stream", stream_id=f"s_{number}", last_chunk_id=0)
    return await talk.found()


def _weighing(stream_id: str, weight: int) -> str:
    """A text whose chunk weighs so much."""
    return "x" * (weight - ChunkWriter(stream_id).overhead)


async def replays(it: Mount, n: int) -> str:
    """Of a bit more than 1000 bytes each, as some are given back meanwhile."""
    talk = await it.talk(window=1000)
    stream_id, run = await it.answer(talk)
    run.put(_weighing(stream_id, 1100))
    run.finish()
    await asyncio.sleep(MOMENT)
    for _ in range(n):
        other = await it.talk()
        other.say("resume_stream", stream_id=stream_id, last_chunk_id=0)
        found = await other.found()
        await other.gone()
    return found


async def many_messages(it: Mount, n: int) -> str:
    talk = await it.talk()
    talk.say("chat_request", request_id="r", messages=[{"role": "user", "content": "hi"}] * n)
    return await talk.found()


async def long_prompt(it: Mount, n: int) -> str:
    talk = await it.talk()
    talk.say("chat_request", request_id="r", message="x" * n)
    return await talk.found()


async def output_tokens(it: Mount, n: int) -> str:
    talk = await it.talk()
    _, run = await it.answer(talk, config={"max_tokens": n})
    return f"{run.request.max_tokens} tokens"


async def models(it: Mount, n: int) -> str:
    """The n-th of those that there are; one is allowed."""
    talk = await it.talk()
    talk.say("chat_request", request_id="r", message="hi", model=f"model-{n}")
    return await talk.found()


async def wide_window(it: Mount, n: int) -> str:
    return f"{(await it.talk(window=n)).told[0]['window']} chunks"


async def wide_byte_window(it: Mount, n: int) -> str:
    return f"{(await it.talk(window_bytes=n)).told[0]['window_bytes']} bytes"


def _chunks(talk: Talk) -> int:
    singles, batches = talk.of_type("content_chunk"), talk.of_type("chunk_batch")
    return max([0, *(m["chunk_id"] for m in singles), *(m["last_chunk_id"] for m in batches)])


async def unacknowledged(it: Mount, n: int) -> str:
    """Of 200 bytes each."""
    talk = await it.talk()
    stream_id, run = await it.answer(talk)
    run.put(*[_weighing(stream_id, 200)] * n)
    await asyncio.sleep(3)  # the ledger looks once a second
    return f"{_chunks(talk)} chunks"


async def ahead(it: Mount, n: int) -> str:
    talk = await it.talk(window=1)
    _, run = await it.answer(talk)
    run.put(*["x"] * n)
    await asyncio.sleep(3)
    return "read on" if run.sink.has_room() else "waits"


EMPTY_LIST = len(text_frame(b'{"type":"stream_list","streams":[]}'))


async def lists(it: Mount, n: int) -> str:
    """Asked for in one POST: the last is told where those before it fill what may be, and no more."""
    line = await it.ask("POST", "/api/native", {"type": "hello"})
    name = json.loads(line.text.partition("data: ")[2].partition("\n")[0])["connection_id"]
    await it.ask("POST", f"/api/native/{name}", [{"type": "list_streams"}] * n)
    if '"code":1008' in line.text:
        return "close 1008"
    return "served" if line.text.count("stream_list") == n else line.text


async def histories(it: Mount, n: int) -> str:
    talk = await it.talk()
    for _ in range(n):
        talk.say("get_history")
    return await talk.found()


async def history_page(it: Mount, n: int) -> str:
    talk = await it.talk()
    for _ in range(3):
        talk.say("get_history", limit=n)
        await asyncio.sleep(MOMENT)
    return await talk.found()


async def history_bytes(it: Mount, n: int) -> str:
    """Of a question and an answer so far, which grows until they have so many."""
    talk = await it.talk()
    _, run = await it.answer(talk)
    run.put("x")
    messages = await _history(talk)
    run.put("x" * (n - sum(len(encode(message)) + 1 for message in messages)))
    await asyncio.sleep(MOMENT)
    return f"{len(await _history(talk))} messages"


async def _history(talk: Talk) -> list[Any]:
    talk.say("get_history")
    await asyncio.sleep(MOMENT)
    messages: list[Any] = talk.of_type("history")[-1]["messages"]
    return messages


async def _kept(it: Mount, *puts: str, kind: Kind) -> Any:
    """What the session keeps of an answer."""
    talk = await it.talk()
    _, run = await it.answer(talk)
    for put in puts:
        run.put(put, kind=kind)
    run.finish()
    await asyncio.sleep(MOMENT)
    return (await _history(talk))[-1]


async def kept_reasoning(it: Mount, n: int) -> str:
    return f"{len((await _kept(it, 'x' * n, kind=Kind.REASONING))['reasoning'])} characters"


async def kept_calls(it: Mount, n: int) -> str:
    calls = [json.dumps({"index": k, "id": f"c{k}", "name": "f"}) + "\n" for k in range(n)]
    return f"{len((await _kept(it, *calls, kind=Kind.TOOL_CALL))['tool_calls'])} calls"


async def kept_arguments(it: Mount, n: int) -> str:
    """Of two calls, the second of which has all but one of them."""
    calls = [json.dumps({"index": k, "id": f"c{k}", "arguments": "x" * (n - 1 if k else 1)}) + "\n" for k in (0, 1)]
    return f"{len((await _kept(it, *calls, kind=Kind.TOOL_CALL))['tool_calls'])} calls"


async def title(it: Mount, n: int) -> str:
    talk = await it.talk()
    await it.answer(talk)
    for _ in range(3):
        talk.say("rename_session", title="t" * n)
    return await talk.found()


async def fallbacks(it: Mount, n: int) -> str:
    talk = await it.talk()
    talk.say("chat_request", request_id="r", message="hi", config={"fallback": ["demo"] * n})
    return await talk.found()


async def silent_socket(it: Mount, n: int) -> str:
    talk = await it.talk(greet=False)
    await asyncio.sleep(n)
    return await talk.found()


async def silent_peer(it: Mount, n: int) -> str:
    talk = await it.talk()
    await asyncio.sleep(n)
    return await talk.found()


async def without_acks(it: Mount, n: int) -> str:
    talk = await it.talk()
    _, run = await it.answer(talk)
    run.put("x")
    for _ in range(n // 5):
        await asyncio.sleep(5)
        talk.say("heartbeat")
    return await talk.found()


async def _resumed(it: Mount, stream_id: str) -> str:
    talk = await it.talk()
    talk.say("resume_stream", stream_id=stream_id, last_chunk_id=0)
    return await talk.found()


async def ended_answers(it: Mount, n: int) -> str:
    """Of 1000 bytes each; whether the first is still there."""
    talk = await it.talk(window=1000)
    ids = []
    for _ in range(n):
        stream_id, run = await it.answer(talk)
        run.put(_weighing(stream_id, 1000))
        run.finish()
        await asyncio.sleep(MOMENT)
        ids.append(stream_id)
    return await _resumed(it, ids[0])


async def old_answer(it: Mount, n: int) -> str:
    talk = await it.talk()
    stream_id, run = await it.answer(talk)
    run.finish()
    await talk.gone()
    await asyncio.sleep(n)
    return await _resumed(it, stream_id)


async def deserted(it: Mount, n: int) -> str:
    talk = await it.talk()
    stream_id, _ = await it.answer(talk)
    await talk.gone()
    await asyncio.sleep(n)
    return str(it.assembly.streams.get(stream_id, "ann").log.state.value)


async def unread_control(it: Mount, n: int) -> str:
    """Of a KiB each."""
    talk = await it.talk()
    _, run = await it.answer(talk)
    talk.stalls = True
    run.put(*["x" * 16_000] * 3)  # so that the socket counts as one that does not read
    await asyncio.sleep(MOMENT)
    empty = len(json.dumps({"type": "heartbeat_ack", "timestamp": ""}, separators=(",", ":"))) + 4
    for _ in range(n):
        talk.say("heartbeat", timestamp="x" * (KIB - empty))
        await asyncio.sleep(MOMENT)
    return "cut" if not len(it.assembly.registry) else "served"


async def request_name(it: Mount, n: int) -> str:
    talk = await it.talk()
    for number in range(3):
        talk.say("chat_request", request_id=str(number) * n, message="hi")
    return await talk.found()


async def ui_names(it: Mount, n: int) -> str:
    """Of a chat, which is a session, and of a request."""
    chat, request = await it.talk(path="/ai", greet=False), await it.talk(path="/ai", greet=False)
    said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    chat.say("send", requestId="q", id="c" * n, trigger="submit-message", messages=[said])
    request.say("abort", requestId="q" * n)
    await asyncio.sleep(MOMENT)
    return f"{'error' if chat.of_type('error') else await chat.found()}, {await request.found()}"


async def draining(it: Mount, n: int) -> str:
    """How an answer ends that takes so long."""
    talk = await it.talk()
    stream_id, run = await it.answer(talk)
    task = asyncio.ensure_future(it.assembly.drain())
    await asyncio.sleep(n)
    run.finish()
    await task
    return str(it.assembly.streams.get(stream_id, "ann").log.state.value)


# -- HTTP, in virtual time ---------------------------------------------------------------------------------------------

ASKED = {"message": "hi"}


async def calls(it: Mount, n: int) -> str:
    return f"HTTP {[await it.ask('POST', '/api/chat/stream', ASKED) for _ in range(n)][-1].status}"


async def calls_from_here(it: Mount, n: int) -> str:
    for remote in ("192.0.2.9", "127.0.0.1", "127.0.0.1", "127.0.0.1"):  # others do not count, nor does this machine
        assert (await it.ask("POST", "/api/chat/stream", ASKED, remote=remote)).status == 200
    replies = [await it.ask("POST", "/api/chat/stream", ASKED, remote="192.0.2.1") for _ in range(n)]
    return f"HTTP {replies[-1].status}"


async def body(it: Mount, n: int) -> str:
    asked = json.dumps(ASKED).encode()
    return f"HTTP {(await it.ask('POST', '/api/chat/stream', asked + b' ' * (n - len(asked)))).status}"


async def late_body(it: Mount, n: int) -> str:
    reply = await it.ask("POST", "/api/chat/stream", ASKED, late=float(n))
    await asyncio.sleep(n + 1)
    return f"HTTP {reply.status}"


async def names_over_http(it: Mount, n: int) -> str:
    """Of a request, in a body or a header, of a session, and of a chat."""
    name = "n" * n
    said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    found = [
        await it.ask("POST", "/api/chat/stream", {**ASKED, "request_id": name}),
        await it.ask("POST", "/api/chat/stream", {**ASKED, "session_id": name}),
        await it.ask("POST", "/api/chat/stream", ASKED, **{"idempotency-key": name}),
        await it.ask("POST", "/api/ai/chat", {"id": name, "messages": [said]}),
    ]
    return " ".join(f"HTTP {status}" for status in sorted({reply.status for reply in found}))


async def user_name(it: Mount, n: int) -> str:
    return f"HTTP {(await it.ask('POST', '/v1/tickets', {'user': 'u' * n})).status}"


async def ticket_body(it: Mount, n: int) -> str:
    return f"HTTP {(await it.ask('POST', '/v1/tickets', b'{}' + b' ' * (n - 2))).status}"


async def posted_messages(it: Mount, n: int) -> str:
    return f"HTTP {(await it.ask('POST', '/api/native', [{'type': 'heartbeat'}] * n)).status}"


async def tickets_of_all(it: Mount, n: int) -> str:
    """Each of another user."""
    return f"HTTP {[await it.ask('POST', '/v1/tickets', **{'x-user': f'u{k}'}) for k in range(n)][-1].status}"


async def tickets(it: Mount, n: int) -> str:
    return f"HTTP {[await it.ask('POST', '/v1/tickets') for _ in range(n)][-1].status}"


async def stalled_reader(it: Mount, n: int) -> str:
    reply = await it.ask("POST", "/api/chat/stream", ASKED)
    reply.stalls = True
    it.scripted.last.put("x")
    await asyncio.sleep(n)
    return "left" if reply.task.done() else "goes on"


async def ui_message(it: Mount, n: int) -> str:
    talk = await it.talk(path="/ai", greet=False)
    text = json.dumps({"type": "abort", "requestId": "q", "pad": ""})
    talk.say_text(text[:-2] + "x" * (n - len(text)) + text[-2:])
    return await talk.found()


async def early_ui_messages(it: Mount, n: int) -> str:
    guard = it.assembly.guard
    enter = guard.enter

    async def slowly(visitor: Visitor) -> Access:
        await asyncio.sleep(1)
        return await enter(visitor)

    guard.enter = slowly  # type: ignore[method-assign]
    talk = await it.talk(path="/ai", greet=False)
    for _ in range(n):
        talk.say("abort", requestId="q")
    return await talk.found()


async def ui_answers(it: Mount, n: int) -> str:
    talk = await it.talk(path="/ai", greet=False)
    for number in range(n):
        said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
        request = {"requestId": f"q{number}", "id": f"c{number}", "trigger": "submit-message", "messages": [said]}
        talk.say("send", **request)
    await asyncio.sleep(MOMENT)
    return "error" if talk.of_type("error") else "served"


# -- providers ---------------------------------------------------------------------------------------------------------


async def _whole(it: Mount, play: Callable[[], Awaitable[None]]) -> str:
    """The status of a whole answer, whose provider does that."""
    reply = await it.ask("POST", "/api/chat", ASKED)
    await play()
    await asyncio.sleep(1)
    if not reply.task.done():
        return "nothing yet"
    told = json.loads(reply.text)
    return f"HTTP {reply.status} {told['error_type']}" if "error_type" in told else f"HTTP {reply.status}"


async def long_answer(it: Mount, n: int) -> str:
    async def play() -> None:
        for _ in range(n):
            it.scripted.last.put("x")
            await asyncio.sleep(0)
        it.scripted.last.finish()

    return await _whole(it, play)


async def large_answer(it: Mount, n: int) -> str:
    """In chunks of 1000 bytes."""

    async def play() -> None:
        (stream,) = it.assembly.streams.running
        for _ in range(n):
            it.scripted.last.put(_weighing(stream.stream_id, 1000))
            await asyncio.sleep(0)
        it.scripted.last.finish()

    return await _whole(it, play)


async def slow_answer(it: Mount, n: int) -> str:
    async def play() -> None:
        for _ in range(n):
            it.scripted.last.put("x")
            await asyncio.sleep(1)
        it.scripted.last.finish()

    return await _whole(it, play)


async def tool_call(it: Mount, n: int) -> str:
    async def play() -> None:
        it.scripted.last.put("x" * n, kind=Kind.DATA)
        it.scripted.last.finish()

    return await _whole(it, play)


async def giant_delta(it: Mount, n: int) -> str:
    talk = await it.talk(window=1000, window_bytes=1024 * KIB)
    _, run = await it.answer(talk)
    run.put("x" * n)
    await asyncio.sleep(MOMENT)
    return f"{_chunks(talk)} chunks"


async def first_token(it: Mount, n: int) -> str:
    async def play() -> None:
        await asyncio.sleep(n)
        it.scripted.last.put("x")
        it.scripted.last.finish()

    return await _whole(it, play)


async def next_token(it: Mount, n: int) -> str:
    async def play() -> None:
        it.scripted.last.put("x")
        await asyncio.sleep(n)
        it.scripted.last.finish()

    return await _whole(it, play)


async def failing(it: Mount, n: int) -> str:
    async def play() -> None:
        for tries in range(n):
            if len(it.scripted.runs) > tries:
                it.scripted.last.fail(ProviderTimeout())
                await asyncio.sleep(1)
        it.scripted.last.finish()

    return await _whole(it, play)


async def growing_waits(it: Mount, n: int) -> str:
    """Before so many tries, the longest that was waited; at most the last of them is longer than the one before."""
    await it.ask("POST", "/api/chat", ASKED)
    longest = 0.0
    for tries in range(1, n + 1):
        begun = time.monotonic()
        it.scripted.last.fail(ProviderTimeout())
        while len(it.scripted.runs) == tries:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        longest = max(longest, time.monotonic() - begun)
    return "no more than 20 s" if longest <= 20.2 else f"{longest} s"


async def busy_provider(it: Mount, n: int) -> str:
    async def play() -> None:
        it.scripted.last.fail(ProviderRateLimited(retry_after=float(n)))
        await asyncio.sleep(n + 1)
        it.scripted.last.finish()

    return await _whole(it, play)


# -- feeds -------------------------------------------------------------------------------------------------------------


async def feeds(it: Mount, n: int) -> str:
    found = [await it.ask("PUT", f"/v1/stream/{number}", **TEXT) for number in range(n)]
    return f"HTTP {found[-1].status}{' Retry-After' if 'retry-after' in found[-1].headers else ''}"


async def feed_churn(it: Mount, n: int) -> str:
    """Each is deleted again."""
    for number in range(n):
        found = await it.ask("PUT", f"/v1/stream/{number}", **TEXT)
        await it.ask("DELETE", f"/v1/stream/{number}")
    return f"HTTP {found.status}{' Retry-After' if 'retry-after' in found.headers else ''}"


async def feed_name(it: Mount, n: int) -> str:
    return f"HTTP {(await it.ask('PUT', '/v1/stream/' + 'n' * n, **TEXT)).status}"


async def feed_type(it: Mount, n: int) -> str:
    given = "text/plain; x="
    return f"HTTP {(await it.ask('PUT', '/v1/stream/a', **{'content-type': given + 'x' * (n - len(given))})).status}"


async def feed_read(it: Mount, n: int) -> str:
    """Of appends of 100 bytes."""
    await it.ask("PUT", "/v1/stream/a", **TEXT)
    for _ in range(n):
        await it.ask("POST", "/v1/stream/a", b"x" * 100, **TEXT)
    return f"{len((await it.ask('GET', '/v1/stream/a')).text)} bytes"


async def long_poll(it: Mount, n: int) -> str:
    """Of a stream to which nothing is appended."""
    await it.ask("PUT", "/v1/stream/a", **TEXT)
    reply = await it.ask("GET", "/v1/stream/a?live=long-poll&offset=now")
    await asyncio.sleep(n)
    return f"HTTP {reply.status}" if reply.task.done() else "waits"


async def durable_read(it: Mount, n: int) -> str:
    """Of chunks of 100 bytes; the message of the end does not count."""
    talk = await it.talk()
    stream_id, run = await it.answer(talk)
    run.put(*["x" * 100] * n)
    run.finish()
    await asyncio.sleep(MOMENT)
    reply = await it.ask("GET", f"/durable/{stream_id}")
    return f"{sum(entry['type'] == 'token' for entry in json.loads(reply.text))} chunks"


async def _append(it: Mount, writer: str) -> int:
    claim = {"producer-id": writer, "producer-epoch": "0", "producer-seq": "0"}
    return (await it.ask("POST", "/v1/stream/a", b"x", **TEXT, **claim)).status


async def writer_name(it: Mount, n: int) -> str:
    await it.ask("PUT", "/v1/stream/a", **TEXT)
    return f"HTTP {await _append(it, 'w' * n)}"


async def writers(it: Mount, n: int) -> str:
    """Whether the first of so many is still known: then its repetition is recognised."""
    await it.ask("PUT", "/v1/stream/a", **TEXT)
    for number in range(n):
        assert await _append(it, f"w{number}") == 200
    return "known" if await _append(it, "w0") == 204 else "forgotten"


async def feed_bytes(it: Mount, n: int) -> str:
    """64 of them are those of the append."""
    reply = await it.ask("PUT", "/v1/stream/a", b"x" * (n - 64), **TEXT)
    return f"HTTP {reply.status}{' Retry-After' if 'retry-after' in reply.headers else ''}"


# -- sockets of the server's own ---------------------------------------------------------------------------------------


async def message_bytes(server: Server, n: int) -> str:
    async with connected(server) as native:
        text = json.dumps({"type": "heartbeat", "timestamp": ""})
        await native.send_text(text[:-2] + "x" * (n - len(text)) + text[-2:])
        message = await _next(native)
    return message


async def fragments(server: Server, n: int) -> str:
    async with connected(server) as native:
        text = b'{"type":"heartbeat"}'
        for number in range(n):
            part = text if number == 0 else b""
            native.send_frame(0 if number else 1, part, fin=number == n - 1)
        return await _next(native)


async def _next(native: Any) -> str:
    await native.send("heartbeat", timestamp="mark")
    try:
        await native.until("heartbeat_ack", timestamp="mark")
    except Closed:
        return f"close {(await native.closed())[0]}"
    return "served"


async def head(server: Server, n: int) -> str:
    """As the server counts it: names and values, and four bytes for each header."""
    lines = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    counted = len("/healthz") + len("Hostx") + len("Connectionclose") + len("X") + 12
    answer = await fetch(server, lines + b"X: " + b"x" * (n - counted) + b"\r\n\r\n")
    return f"HTTP {answer.split(b' ', 2)[1].decode()}"


async def slow_head(server: Server, n: int) -> str:
    """So many sockets: the first sends its head, each other only half of it."""
    found = ""
    for number in range(n):
        whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await fetch(server, whole if number == 0 else whole[:20])
        found = f"HTTP {answer.split(b' ', 2)[1].decode()}" if answer else "cut"
    return found


def rejected(reason: str) -> str:
    """The usual metric."""
    return f'rejected_total{{reason="{reason}"}}'


def clamped(what: str) -> str:
    """That of what is only cut."""
    return f'clamped_total{{what="{what}"}}'


def failed(error_type: str) -> str:
    """That of answers which end badly."""
    return f'stream_errors_total{{error_type="{error_type}"}}'


FEEDS_ON = {"durable_writes": "on"}

ROWS: list[Row] = [
    # What clients send.
    Row(
        "messages, pings and useless acks of a connection",
        "close 4429",
        rejected("messages"),
        ("message_rate", "message_burst"),
        drive=messages,
        steps=Steps.of(24),
        sees=("served", "close 4429", "close 4429"),
        config={"message_rate": UNMET, "message_burst": 20, "max_streams": 1},
        said="50/s; 100, and 4 for each of max_streams",
    ),
    Row(
        "messages before the hello is answered",
        "close 4429",
        rejected("messages"),
        ("message_burst",),
        drive=early_messages,
        steps=Steps.of(10),
        sees=("served", "close 4429", "close 4429"),
        config={"message_burst": 10},
    ),
    Row(
        "bytes of these",
        "close 4429",
        rejected("messages"),
        ("max_early_bytes",),
        drive=early_bytes,
        steps=Steps.of(8),
        sees=("served", "close 4429", "close 4429"),
    ),
    Row(
        "malformed messages in a row",
        "close 1008; of a hello, 4400",
        rejected("malformed"),
        ("max_malformed",),
        drive=malformed,
        steps=Steps.of(4),
        sees=("bad_request", "close 1008", "close 1008"),
        config={"max_malformed": 5},
    ),
    Row(
        "bytes of a message",
        "close 1009",
        rejected("size"),
        ("max_message_bytes",),
        drive=message_bytes,
        steps=Steps.of(2048),
        sees=("served", "close 1009", "close 1009"),
        config={"max_message_bytes": 2048},
        real=True,
    ),
    Row(
        "frames of a message",
        "close 1009",
        rejected("size"),
        ("max_fragments",),
        drive=fragments,
        steps=Steps.of(4),
        sees=("served", "close 1009", "close 1009"),
        config={"max_fragments": 4},
        real=True,
    ),
    Row(
        "time without a hello",
        "close 3008",
        rejected("silent"),
        ("hello_timeout",),
        drive=silent_socket,
        steps=Steps.seconds(10, 2),
        sees=("served", "close 3008", "close 3008"),
    ),
    Row(
        "time without a sign of life",
        "close 3008",
        "heartbeat_timeouts_total",
        ("heartbeat_timeout",),
        drive=silent_peer,
        steps=Steps.seconds(25, 3),
        sees=("served", "close 3008", "close 3008"),
    ),
    Row(
        "time without any ack, while there is something to acknowledge",
        "close 4429",
        rejected("slow"),
        ("viewer_stall",),
        drive=without_acks,
        steps=Steps(25, 50, 300),
        sees=("served", "close 4429", "close 4429"),
        config={"viewer_stall": 30.0, "chunk_timeout": 1000.0},
    ),
    Row(
        "bytes of answers to a client that does not read them",
        "the connection is cut",
        rejected("slow"),
        ("max_control_bytes",),
        drive=unread_control,
        steps=Steps.of(10),
        sees=("served", "cut", "cut"),
        config={"max_control_bytes": 10 * KIB, "message_burst": 1000},
    ),
    Row(
        "bytes of lists of streams that one read may ask for",
        "close 1008",
        rejected("messages"),
        ("max_list_bytes",),
        drive=lists,
        steps=Steps.of(5),
        sees=("served", "close 1008", "close 1008"),
        config={"max_list_bytes": 4 * EMPTY_LIST},
    ),
    Row(
        "questions for a history at once",
        "`rate_limit`",
        'refused_messages_total{error_type="rate_limit"}',
        ("max_history_questions",),
        drive=histories,
        steps=Steps.of(3),
        sees=("served", "rate_limit", "rate_limit"),
        config={"max_history_questions": 3},
    ),
    Row(
        "messages of a page of a history",
        "malformed: `bad_request`, the third in a row close 1008",
        rejected("malformed"),
        ("max_history_messages",),
        drive=history_page,
        steps=Steps.of(100),
        sees=("served", "close 1008", "close 1008"),
        config={"max_history_messages": 100},
    ),
    Row(
        "bytes of one, but of a message alone",
        "it has fewer messages",
        clamped("page"),
        ("max_history_bytes",),
        drive=history_bytes,
        steps=Steps.of(1024),
        sees=("2 messages", "1 messages", "1 messages"),
        config={"max_history_bytes": 1024},
    ),
    Row(
        "chunk window that a client asks for",
        "it gets this one",
        clamped("window"),
        ("max_window",),
        drive=wide_window,
        steps=Steps.of(60),
        sees=("60 chunks", "60 chunks", "60 chunks"),
        config={"max_window": 60},
    ),
    Row(
        "byte window that a client asks for",
        "it gets this one",
        clamped("window"),
        ("max_window_bytes",),
        drive=wide_byte_window,
        steps=Steps.of(300_000),
        sees=("300000 bytes", "300000 bytes", "300000 bytes"),
        config={"max_window_bytes": 300_000},
    ),
    Row(
        "chunks that a viewer has not acknowledged",
        "they wait in the log",
        "window_stalls_total",
        ("window",),
        drive=unacknowledged,
        steps=Steps.of(5),
        sees=("5 chunks", "5 chunks", "5 chunks"),
        config={"window": 5},
    ),
    Row(
        "bytes of these",
        "they wait in the log",
        "window_stalls_total",
        ("window_bytes",),
        drive=unacknowledged,
        steps=Steps.of(7),
        sees=("7 chunks", "7 chunks", "7 chunks"),
        config={"window_bytes": 1400},
    ),
    Row(
        "chunks that a provider is ahead of the slowest viewer",
        "it is read no further, until they are `low_water`",
        "viewer_lag_max_chunks",
        ("high_water", "low_water"),
        drive=ahead,
        steps=Steps(9, 10, 100),
        sees=("read on", "waits", "waits"),
        config={"high_water": 10, "low_water": 5},
    ),
    # Who comes in.
    Row(
        "connections",
        "HTTP 503",
        rejected("connections"),
        ("max_connections",),
        drive=connections,
        steps=Steps.of(2),
        sees=("served", "HTTP 503", "HTTP 503"),
        config={"max_connections": 2},
    ),
    Row(
        "of a user",
        "`rate_limit`, close 4429",
        rejected("connections_per_user"),
        ("max_connections_per_user",),
        drive=connections,
        steps=Steps.of(2),
        sees=("served", "close 4429", "close 4429"),
        config={"max_connections_per_user": 2},
    ),
    Row(
        "of an address",
        "HTTP 429",
        rejected("connections_per_address"),
        ("max_connections_per_address",),
        drive=connections,
        steps=Steps.of(2),
        sees=("served", "HTTP 429", "HTTP 429"),
        config={"max_connections_per_address": 2},
    ),
    Row(
        "of those, before a hello",
        "HTTP 429",
        rejected("greeting_per_address"),
        ("max_greeting_per_address",),
        drive=greeting,
        steps=Steps.of(2),
        sees=("served", "HTTP 429", "HTTP 429"),
        config={"max_greeting_per_address": 2},
    ),
    Row(
        "HTTP calls under way",
        "HTTP 503",
        rejected("calls"),
        ("max_connections",),
        drive=calls,
        steps=Steps.of(2),
        sees=("HTTP 200", "HTTP 503", "HTTP 503"),
        config={"max_connections": 2},
    ),
    Row(
        "of these, from an address",
        "HTTP 429",
        rejected("connections_per_address"),
        ("max_connections_per_address",),
        drive=calls_from_here,
        steps=Steps.of(2),
        sees=("HTTP 200", "HTTP 429", "HTTP 429"),
        config={"max_connections_per_address": 2},
    ),
    Row(
        "characters of a token, or a ticket",
        "HTTP 401; close 3000",
        rejected("unauthorized"),
        ("max_token_chars",),
        held_by="test_access.py::test_max_token_chars",
    ),
    Row(
        "characters of a user's name",
        "HTTP 400",
        rejected("parameter"),
        ("max_user_chars",),
        drive=user_name,
        steps=Steps.of(20),
        sees=("HTTP 200", "HTTP 400", "HTTP 400"),
        config={"max_user_chars": 20},
    ),
    Row(
        "characters of the name of a session, or a request",
        "malformed: `bad_request`, the third in a row close 1008",
        rejected("malformed"),
        ("max_name_chars",),
        drive=request_name,
        steps=Steps.of(64),
        sees=("served", "close 1008", "close 1008"),
        config={"max_name_chars": 64},
    ),
    Row(
        "the same over HTTP",
        "HTTP 400",
        rejected("malformed"),
        ("max_name_chars",),
        drive=names_over_http,
        steps=Steps.of(64),
        sees=("HTTP 200", "HTTP 400", "HTTP 400"),
        config={"max_name_chars": 64},
    ),
    Row(
        "the same of the AI SDK's socket",
        "`error`; of a request, close 1008",
        rejected("malformed"),
        ("max_name_chars",),
        drive=ui_names,
        steps=Steps.of(64),
        sees=("served, served", "error, close 1008", "error, close 1008"),
        config={"max_name_chars": 64},
    ),
    Row(
        "characters of the title of a session",
        "malformed: `bad_request`, the third in a row close 1008",
        rejected("malformed"),
        ("max_title_chars",),
        drive=title,
        steps=Steps.of(20),
        sees=("served", "close 1008", "close 1008"),
        config={"max_title_chars": 20},
    ),
    Row(
        "unused tickets",
        "HTTP 429",
        rejected("tickets"),
        ("max_tickets",),
        drive=tickets_of_all,
        steps=Steps.of(3),
        sees=("HTTP 200", "HTTP 429", "HTTP 429"),
        config={"max_tickets": 3},
    ),
    Row(
        "unused tickets of a user",
        "HTTP 429",
        rejected("tickets"),
        ("max_tickets_per_user",),
        drive=tickets,
        steps=Steps.of(3),
        sees=("HTTP 200", "HTTP 429", "HTTP 429"),
        config={"max_tickets_per_user": 3},
    ),
    Row(
        "time to use a ticket",
        "close 3000",
        rejected("unauthorized"),
        ("ticket_lifetime",),
        held_by="test_tickets.py::test_ticket_lifetime",
    ),
    Row(
        "time after a token's end",
        "close 3000; a response ends",
        rejected("expired"),
        ("token_grace",),
        held_by="wires/test_expiry.py::test_token_grace",
    ),
    # Requests.
    Row(
        "answers begun by a user, a minute and at once",
        "`rate_limit`",
        rejected("starts_per_user"),
        ("starts_per_minute", "starts_burst"),
        drive=requests,
        steps=Steps.of(3),
        sees=("served", "rate_limit", "rate_limit"),
        config={"starts_per_minute": UNMET, "starts_burst": 3},
    ),
    Row(
        "by an address, half of a minute's at once",
        "`rate_limit`",
        rejected("starts_per_address"),
        ("starts_per_address",),
        drive=requests,
        steps=Steps.of(3),
        sees=("served", "rate_limit", "rate_limit"),
        config={"starts_per_address": 6.0},
    ),
    Row(
        "answers running",
        "they wait; where none may, `capacity` and close 1013",
        rejected("running"),
        ("max_running_streams",),
        drive=requests_apart,
        steps=Steps.of(2),
        sees=("served", "close 1013", "close 1013"),
        config={"max_running_streams": 2, "max_queued": 0},
    ),
    Row(
        "of one user",
        "they wait; `rate_limit` where none may",
        rejected("running_per_user"),
        ("max_running_per_user",),
        drive=requests,
        steps=Steps.of(2),
        sees=("served", "rate_limit", "rate_limit"),
        config={"max_running_per_user": 2, "max_queued": 0},
    ),
    Row(
        "requests that wait",
        "`queue_full`, close 1013",
        rejected("queue_full"),
        ("max_queued",),
        drive=queued,
        steps=Steps.of(2),
        sees=("served", "close 1013", "close 1013"),
        config={"max_running_streams": 1, "max_queued": 2},
        said="a tenth of max_running_streams",
    ),
    Row(
        "running answers that one connection follows",
        "`capacity`",
        rejected("streams"),
        ("max_streams",),
        drive=requests,
        steps=Steps.of(2),
        sees=("served", "capacity", "capacity"),
        config={"max_streams": 2},
    ),
    Row(
        "the same of the AI SDK's socket",
        "`error`",
        rejected("streams"),
        ("max_streams",),
        drive=ui_answers,
        steps=Steps.of(2),
        sees=("served", "error", "error"),
        config={"max_streams": 2},
    ),
    Row(
        "messages in a request",
        "`bad_request`",
        rejected("parameter"),
        ("max_messages",),
        drive=many_messages,
        steps=Steps.of(3),
        sees=("served", "bad_request", "bad_request"),
        config={"max_messages": 3},
    ),
    Row(
        "characters of the newest message, and of the system prompt",
        "`bad_request`; HTTP 422",
        rejected("parameter"),
        ("max_prompt_chars",),
        drive=long_prompt,
        steps=Steps.of(20),
        sees=("served", "bad_request", "bad_request"),
        config={"max_prompt_chars": 20},
    ),
    Row(
        "providers that the `fallback` of a request names",
        "`bad_request`",
        rejected("parameter"),
        ("max_fallbacks",),
        drive=fallbacks,
        steps=Steps.of(3),
        sees=("served", "bad_request", "bad_request"),
        config={"max_fallbacks": 3},
    ),
    Row(
        "tokens of an answer",
        "fewer are asked for",
        clamped("tokens"),
        ("max_output_tokens",),
        drive=output_tokens,
        steps=Steps.of(5),
        sees=("5 tokens", "5 tokens", "5 tokens"),
        config={"max_output_tokens": 5},
    ),
    Row(
        "models",
        "`bad_request`",
        rejected("parameter"),
        ("allowed_models",),
        drive=models,
        steps=Steps.of(1),
        sees=("served", "bad_request", "bad_request"),
        config={"allowed_models": "model-1"},
        said="any",
    ),
    Row(
        "unknown streams that a user asks for, a minute",
        "`rate_limit`",
        rejected("lookups"),
        ("lookups_per_minute",),
        drive=unknown_streams,
        steps=Steps.of(3),
        sees=("unknown_stream", "rate_limit", "rate_limit"),
        config={"lookups_per_minute": 3.0},
    ),
    Row(
        "bytes that a user reads again, a minute",
        "`rate_limit`",
        rejected("replay"),
        ("replay_per_minute",),
        drive=replays,
        steps=Steps.of(3),
        sees=("served", "rate_limit", "rate_limit"),
        config={"replay_per_minute": 3000.0},
    ),
    # HTTP.
    Row(
        "bytes of a request's head",
        "HTTP 400",
        rejected("head"),
        ("max_head_bytes",),
        drive=head,
        steps=Steps.of(1024),
        sees=("HTTP 200", "HTTP 400", "HTTP 400"),
        config={"max_head_bytes": 1024},
        real=True,
    ),
    Row(
        "time for a request's head",
        "the connection is cut",
        rejected("head"),
        ("request_timeout",),
        drive=slow_head,
        steps=Steps.of(1),
        sees=("HTTP 200", "cut", "cut"),
        config={"request_timeout": 0.05},
        real=True,
    ),
    Row(
        "bytes of a body",
        "HTTP 413",
        rejected("size"),
        ("max_body_bytes",),
        drive=body,
        steps=Steps.of(1000),
        sees=("HTTP 200", "HTTP 413", "HTTP 413"),
        config={"max_body_bytes": 1000},
    ),
    Row(
        "bytes of a body that asks for a ticket",
        "HTTP 413",
        rejected("size"),
        ("max_ticket_body_bytes",),
        drive=ticket_body,
        steps=Steps.of(100),
        sees=("HTTP 200", "HTTP 413", "HTTP 413"),
        config={"max_ticket_body_bytes": 100},
    ),
    Row(
        "time for a body",
        "HTTP 408",
        rejected("silent"),
        ("body_timeout",),
        drive=late_body,
        steps=Steps.seconds(8),
        sees=("HTTP 200", "HTTP 408", "HTTP 408"),
    ),
    Row(
        "time for which a client takes nothing of a response",
        "it is left",
        rejected("slow"),
        ("response_stall",),
        drive=stalled_reader,
        steps=Steps.seconds(60),
        sees=("goes on", "left", "left"),
    ),
    Row(
        "native messages in one POST",
        "HTTP 400",
        rejected("parameter"),
        ("max_posted_messages",),
        drive=posted_messages,
        steps=Steps.of(1024),
        sees=("HTTP 200", "HTTP 400", "HTTP 400"),
        config={"message_burst": 100_000},
    ),
    Row(
        "bytes of a message of the AI SDK's socket",
        "close 1009",
        rejected("size"),
        ("max_ui_message_bytes",),
        drive=ui_message,
        steps=Steps.of(4 * KIB * KIB),
        sees=("served", "close 1009", "close 1009"),
    ),
    Row(
        "messages of it before its client is let in",
        "close 1008",
        rejected("messages"),
        ("max_early_messages",),
        drive=early_ui_messages,
        steps=Steps.of(32),
        sees=("served", "close 1008", "close 1008"),
    ),
    # Answers.
    Row(
        "chunks of an answer, looked at every 16",
        "it ends as `interrupted`",
        failed("interrupted"),
        ("max_stream_chunks",),
        drive=long_answer,
        steps=Steps(32, 48, 320),
        sees=("HTTP 200", "HTTP 503 interrupted", "HTTP 503 interrupted"),
        config={"max_stream_chunks": 32},
    ),
    Row(
        "bytes of an answer, looked at every 16 chunks",
        "it ends as `interrupted`",
        failed("interrupted"),
        ("max_stream_bytes",),
        drive=large_answer,
        steps=Steps(32, 48, 320),
        sees=("HTTP 200", "HTTP 503 interrupted", "HTTP 503 interrupted"),
        config={"max_stream_bytes": 32_000},
    ),
    Row(
        "time for an answer, without waits for viewers",
        "it ends as `interrupted`",
        failed("interrupted"),
        ("max_stream_seconds",),
        drive=slow_answer,
        steps=Steps.seconds(10),
        sees=("HTTP 200", "HTTP 503 interrupted", "HTTP 503 interrupted"),
        config={"max_stream_seconds": 10.0},
    ),
    Row(
        "characters of a tool call, or data, in one piece",
        "it ends as `provider_error`",
        failed("provider_error"),
        ("max_line_chars",),
        drive=tool_call,
        steps=Steps.of(20_000),
        sees=("HTTP 200", "HTTP 502 provider_error", "HTTP 502 provider_error"),
        config={"max_line_chars": 20_000},
    ),
    Row(
        "characters of other deltas",
        "they are cut into so many",
        clamped("delta"),
        ("max_delta_chars",),
        drive=giant_delta,
        steps=Steps.of(1000),
        sees=("1 chunks", "2 chunks", "10 chunks"),
        config={"max_delta_chars": 1000},
    ),
    Row(
        "time for a provider's first token",
        "another try, then `provider_timeout`",
        failed("provider_timeout"),
        ("first_token_timeout",),
        drive=first_token,
        steps=Steps.seconds(10),
        sees=("HTTP 200", "HTTP 504 provider_timeout", "HTTP 504 provider_timeout"),
        config={"first_token_timeout": 10.0, "retries": 0},
    ),
    Row(
        "time between a provider's tokens",
        "as `on_interrupt` says, or `chunk_timeout`",
        failed("chunk_timeout"),
        ("chunk_timeout",),
        drive=next_token,
        steps=Steps.seconds(10),
        sees=("HTTP 200", "HTTP 504 chunk_timeout", "HTTP 504 chunk_timeout"),
        config={"chunk_timeout": 10.0, "retries": 0},
    ),
    Row(
        "further tries of a provider",
        "the failure ends the answer",
        failed("provider_timeout"),
        ("retries",),
        drive=failing,
        steps=Steps.of(3),
        sees=("HTTP 200", "HTTP 504 provider_timeout", "HTTP 504 provider_timeout"),
        config={"retries": 3, "retry_base": 0.1},
    ),
    Row(
        "time without progress in which a provider is tried again",
        "the failure ends the answer",
        failed("rate_limit"),
        ("retry_budget",),
        drive=busy_provider,
        steps=Steps.seconds(10),
        sees=("HTTP 200", "HTTP 429 rate_limit", "HTTP 429 rate_limit"),
        config={"retry_budget": 10.0},
    ),
    Row(
        "time between two tries, where the provider does not say it",
        "it is no longer",
        clamped("retry_delay"),
        ("retry_cap",),
        drive=growing_waits,
        steps=Steps(2, 3, 20),
        sees=("no more than 20 s", "no more than 20 s", "no more than 20 s"),
        config={"retry_base": 10.0, "retry_cap": 20.0, "retries": 20, "retry_budget": 10_000.0},
    ),
    Row(
        "bytes of one event of a provider",
        "it ends as `provider_error`",
        failed("provider_error"),
        ("max_event_bytes",),
        held_by="providers/test_sse.py::test_max_event_bytes",
    ),
    Row(
        "bytes of the head of a provider's response",
        "it ends as `provider_error`",
        failed("provider_error"),
        ("max_response_head_bytes",),
        held_by="providers/test_http.py::test_max_response_head_bytes",
    ),
    Row(
        "calls of tools in one answer",
        "it ends as `provider_error`",
        failed("provider_error"),
        ("max_tool_calls",),
        held_by="providers/test_tools.py::test_max_tool_calls",
    ),
    Row(
        "time that an answer goes on without any viewer",
        "it ends as `interrupted`, where `on_orphan` says so",
        'streams_ended_total{state="interrupted"}',
        ("orphan_grace",),
        drive=deserted,
        steps=Steps.seconds(20),
        sees=("running", "interrupted", "interrupted"),
        config={"orphan_grace": 20.0, "first_token_timeout": 1000.0},
    ),
    Row(
        "time that an answer without any viewer is paused, where `on_orphan` says so",
        "it ends as `interrupted`",
        'streams_ended_total{state="interrupted"}',
        ("max_pause_seconds",),
        drive=deserted,
        steps=Steps.seconds(100),
        sees=("running", "interrupted", "interrupted"),
        config={"on_orphan": "pause", "max_pause_seconds": 100.0, "first_token_timeout": 10_000.0},
    ),
    Row(
        "time that running answers have after SIGTERM",
        "they end as `interrupted`",
        failed("interrupted"),
        ("drain_timeout",),
        drive=draining,
        steps=Steps.seconds(10),
        sees=("complete", "interrupted", "interrupted"),
        config={"on_orphan": "continue", "first_token_timeout": 1000.0},
    ),
    # What is kept.
    Row(
        "characters of an answer's reasoning that its session keeps",
        "the first of them; the log has all",
        clamped("kept"),
        ("max_kept_reasoning",),
        drive=kept_reasoning,
        steps=Steps.of(100),
        sees=("100 characters", "100 characters", "100 characters"),
        config={"max_kept_reasoning": 100},
    ),
    Row(
        "and of its calls of tools",
        "the first of them; the log has all",
        clamped("kept"),
        ("max_kept_calls",),
        drive=kept_calls,
        steps=Steps.of(3),
        sees=("3 calls", "3 calls", "3 calls"),
        config={"max_kept_calls": 3},
    ),
    Row(
        "and characters of their arguments, all together",
        "calls up to there, each whole; the log has all",
        clamped("kept"),
        ("max_kept_arguments",),
        drive=kept_arguments,
        steps=Steps.of(100),
        sees=("2 calls", "1 calls", "1 calls"),
        config={"max_kept_arguments": 100},
    ),
    Row(
        "time that an ended answer is kept",
        "`log_trimmed`, and later `unknown_stream`",
        'refused_messages_total{error_type="log_trimmed"}',
        ("retention",),
        drive=old_answer,
        steps=Steps.seconds(100),
        sees=("served", "log_trimmed", "log_trimmed"),
        config={"retention": 100.0},
    ),
    Row(
        "ended answers kept, the newest",
        "`log_trimmed`",
        'refused_messages_total{error_type="log_trimmed"}',
        ("max_retained",),
        drive=ended_answers,
        steps=Steps.of(3),
        sees=("served", "log_trimmed", "log_trimmed"),
        config={"max_retained": 3},
    ),
    Row(
        "their bytes in memory; in a store of memory, their bytes",
        "they are read from the store; `log_trimmed`",
        'refused_messages_total{error_type="log_trimmed"}',
        ("max_memory_bytes",),
        drive=ended_answers,
        steps=Steps.of(3),
        sees=("served", "log_trimmed", "log_trimmed"),
        config={"max_memory_bytes": 3000},
    ),
    Row(
        "their bytes in the store",
        "`log_trimmed`",
        'refused_messages_total{error_type="log_trimmed"}',
        ("max_retained_bytes",),
        held_by="stores/test_streams_in_trouble.py::test_max_retained_bytes",
    ),
    Row(
        "share of memory from which nothing is begun",
        "`capacity` and close 1013; HTTP 503",
        rejected("memory"),
        ("memory_refuse_at", "memory_limit"),
        held_by="test_monitor.py::test_memory_refuse_at_and_memory_shed_at",
    ),
    Row(
        "share of memory from which connections are shed",
        "close 1013",
        "shed_connections_total",
        ("memory_shed_at", "memory_limit"),
        held_by="test_monitor.py::test_memory_refuse_at_and_memory_shed_at",
    ),
    # Durable streams of clients.
    Row(
        "durable streams",
        "HTTP 503",
        rejected("feeds"),
        ("max_feeds",),
        drive=feeds,
        steps=Steps.of(3),
        sees=("HTTP 201", "HTTP 503 Retry-After", "HTTP 503 Retry-After"),
        config={**FEEDS_ON, "max_feeds": 3},
    ),
    Row(
        "of a user",
        "HTTP 429",
        rejected("feeds_per_user"),
        ("max_feeds_per_user",),
        drive=feeds,
        steps=Steps.of(3),
        sees=("HTTP 201", "HTTP 429 Retry-After", "HTTP 429 Retry-After"),
        config={**FEEDS_ON, "max_feeds_per_user": 3},
    ),
    Row(
        "made by a user, a minute, half of it at once",
        "HTTP 429",
        rejected("feed_creates_per_user"),
        ("feed_creates_per_minute",),
        drive=feed_churn,
        steps=Steps.of(3),
        sees=("HTTP 201", "HTTP 429 Retry-After", "HTTP 429 Retry-After"),
        config={**FEEDS_ON, "feed_creates_per_minute": 6.0},
    ),
    Row(
        "characters of the name of one",
        "HTTP 400",
        rejected("parameter"),
        ("max_feed_name_chars",),
        drive=feed_name,
        steps=Steps.of(30),
        sees=("HTTP 201", "HTTP 400", "HTTP 400"),
        config={**FEEDS_ON, "max_feed_name_chars": 30},
    ),
    Row(
        "characters of the `Content-Type` of one",
        "HTTP 400",
        rejected("parameter"),
        ("max_feed_type_chars",),
        drive=feed_type,
        steps=Steps.of(40),
        sees=("HTTP 201", "HTTP 400", "HTTP 400"),
        config={**FEEDS_ON, "max_feed_type_chars": 40},
    ),
    Row(
        "bytes of one, but of a chunk alone, in one read",
        "the rest is in the next",
        clamped("read"),
        ("max_read_bytes",),
        drive=feed_read,
        steps=Steps.of(3),
        sees=("300 bytes", "300 bytes", "300 bytes"),
        config={**FEEDS_ON, "max_read_bytes": 300},
    ),
    Row(
        "the same of an answer that is read as one",
        "the rest is in the next",
        clamped("read"),
        ("max_read_bytes",),
        drive=durable_read,
        steps=Steps.of(3),
        sees=("3 chunks", "3 chunks", "3 chunks"),
        config={"max_read_bytes": 300},
    ),
    Row(
        "time that a long poll of one, or of an answer, waits",
        "HTTP 204",
        settings=("long_poll_timeout",),
        drive=long_poll,
        steps=Steps.seconds(20),
        sees=("waits", "HTTP 204", "HTTP 204"),
        config=FEEDS_ON,
    ),
    Row(
        "characters of the name of a writer",
        "HTTP 400",
        rejected("parameter"),
        ("max_writer_chars",),
        drive=writer_name,
        steps=Steps.of(10),
        sees=("HTTP 200", "HTTP 400", "HTTP 400"),
        config={**FEEDS_ON, "max_writer_chars": 10},
    ),
    Row(
        "writers that one remembers, those that wrote last",
        "a forgotten one's repetition is taken again",
        clamped("writers"),
        ("max_writers",),
        drive=writers,
        steps=Steps.of(3),
        sees=("known", "forgotten", "forgotten"),
        config={**FEEDS_ON, "max_writers": 3},
    ),
    Row(
        "bytes of one",
        "HTTP 413",
        rejected("feed_bytes"),
        ("max_feed_bytes",),
        drive=feed_bytes,
        steps=Steps.of(1000),
        sees=("HTTP 201", "HTTP 413", "HTTP 413"),
        config={**FEEDS_ON, "max_feed_bytes": 1000},
    ),
    Row(
        "bytes of a user's",
        "HTTP 429",
        rejected("feed_bytes_per_user"),
        ("max_feeds_bytes_per_user",),
        drive=feed_bytes,
        steps=Steps.of(1000),
        sees=("HTTP 201", "HTTP 429 Retry-After", "HTTP 429 Retry-After"),
        config={**FEEDS_ON, "max_feeds_bytes_per_user": 1000},
    ),
    Row(
        "bytes of all",
        "HTTP 503",
        rejected("feeds"),
        ("max_feeds_bytes",),
        drive=feed_bytes,
        steps=Steps.of(1000),
        sees=("HTTP 201", "HTTP 503 Retry-After", "HTTP 503 Retry-After"),
        config={**FEEDS_ON, "max_feeds_bytes": 1000},
    ),
]

NO_LIMITS = {
    **dict.fromkeys(("host", "port", "metrics_host", "metrics_port", "listeners", "trusted_proxies"), "where it is"),
    "metrics_names": "what it is called",
    "wake_interval": "how it waits",
    "proxy_header": "where it is",
    **dict.fromkeys(("tls_cert", "tls_key"), "how it is encrypted"),
    **dict.fromkeys(("provider", "model", "base_url", "prefill", "fallback"), "who answers"),
    **dict.fromkeys(("store", "durability"), "where answers are kept"),
    **dict.fromkeys(("log_level", "log_format"), "what is written down"),
    **dict.fromkeys(("tokens_file", "jwt_key_file", "jwt_previous_key_file", "jwt_algorithm"), "who comes in"),
    **dict.fromkeys(
        ("jwt_audience", "jwt_issuer", "identity_hook", "allow_anonymous", "allowed_origins"), "who comes in"
    ),
    **dict.fromkeys(("adaptive_window", "on_interrupt", "on_orphan", "durable_writes"), "a policy"),
    "heartbeat_interval": "how often something is said",
    "retry_base": "how waits grow; `retry_cap` limits them",
}
"""The other settings, and what they are."""


def documented() -> str:
    """The table as the documentation has it."""
    lines = ["| what | setting | default | beyond it | counted by |", "|---|---|---|---|---|"]
    for row in ROWS:
        flags = ", ".join("`--" + name.replace("_", "-") + "`" for name in row.settings)
        metric = f"`{row.metric}`" if row.metric else ""
        lines.append(f"| {row.what} | {flags} | {row.default} | {row.beyond} | {metric} |")
    return "\n".join(lines)
