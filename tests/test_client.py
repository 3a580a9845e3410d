"""The asyncio client on real sockets, with the real server in the same loop and a proxy that breaks connections."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import jwt
import pytest
import websockets
from websockets.asyncio.server import ServerConnection, serve

from tests.proxy import Proxy
from wsstream import client_protocol as core
from wsstream import errors, said
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Kind, Outcome, StreamState
from wsstream.client import (
    ChatStream,
    Client,
    ClientState,
    Lost,
    Stopped,
    TokenFailed,
    failure_of,
    native_url,
    reconnect_delay,
)
from wsstream.client import connect as connect_really
from wsstream.config import Config
from wsstream.errors import CloseCode, ConnectionFailed, ErrorType, LocalError, RequestError
from wsstream.server import Server

pytestmark = pytest.mark.usefixtures("quick_stop")

connect = partial(connect_really, random=lambda: 0.0)
"""Without waiting between tries."""

PACED = "demo:rate=2000,tokens=400"
FAST = "demo:rate=0,tokens=400"
ENDLESS = "demo:rate=2000,tokens=1000000"


async def scripted(request: ChatRequest) -> AsyncGenerator[Any, None]:
    """A provider whose answer is told by the question."""
    question = str(request.messages[-1].content)
    yield Delta("thinking", Kind.REASONING)
    yield f"{len(request.messages)} messages: "
    if question == "fail":
        raise errors.ContentFiltered("Not this")
    yield question


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Server]:
    config = Config(store="memory:", **{"port": 0, "provider": "demo", "listeners": 1, **settings})
    async with Server(config).running() as server:
        yield server


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/ws"


def logged_text(server: Server, stream_id: str, user: str = "") -> str:
    log = server.streams.get(stream_id, user).log
    return "".join(chunk.content for chunk in log.chunks(1, log.tail))


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that this process is about to do."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - most of what is waited for has no event
            await asyncio.sleep(0.002)


async def read(stream: ChatStream) -> str:
    return "".join([text async for text in stream])


# -- the back-off, which needs no socket


@pytest.mark.parametrize(("attempt", "longest"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (5000, 30)])
def test_delay_is_full_jitter(attempt: int, longest: float) -> None:
    """The delay is drawn from zero up to a limit that doubles until thirty seconds."""
    assert reconnect_delay(attempt, 0.0) == 0.0
    assert reconnect_delay(attempt, 0.5) == longest / 2
    assert reconnect_delay(attempt, 0.999) < longest


def test_delay_the_server_told_wins() -> None:
    """What the server asks for is neither drawn nor shortened, and never negative."""
    assert reconnect_delay(0, 0.5, told=42.0) == 42.0
    assert reconnect_delay(4, 0.5, code=CloseCode.TIMEOUT, told=0.25) == 0.25
    assert reconnect_delay(0, 0.5, told=-1.0) == 0.0


def test_delay_after_a_timeout() -> None:
    """After a 3008 the first try is made at once, later ones as always."""
    assert reconnect_delay(0, 0.5, code=CloseCode.TIMEOUT) == 0.0
    assert reconnect_delay(1, 0.5, code=CloseCode.TIMEOUT) == 1.0


@pytest.mark.parametrize(
    ("given", "native"),
    [
        ("http://127.0.0.1:8765/", "ws://127.0.0.1:8765/ws"),
        ("https://example.org", "wss://example.org/ws"),
        ("https://example.org/chat/?a=b", "wss://example.org/chat/ws?a=b"),
        ("http://example.org/ws", "ws://example.org/ws"),
        ("ws://example.org/elsewhere", "ws://example.org/elsewhere"),
    ],
)
def test_page_addresses_become_native(given: str, native: str) -> None:
    """The address that the server prints is good enough to connect to."""
    assert native_url(given) == native


@pytest.mark.parametrize("error_type", list(ErrorType))
def test_every_error_type_has_its_exception(error_type: ErrorType) -> None:
    """Whatever error type ends an answer, the exception raised has the same."""
    outcome = Outcome(StreamState.FAILED, 0, error_type=error_type, message="No", recoverable=True, retry_after=3.0)
    failure = failure_of(outcome)
    assert failure.error_type == error_type
    assert (str(failure), failure.recoverable, failure.retry_after) == ("No", True, 3.0)


def test_unknown_error_types_are_failures() -> None:
    """An error type of a newer server is a plain StreamFailure."""
    failure = failure_of(Outcome(StreamState.FAILED, 0, error_type="new_one", message="No"))
    assert type(failure) is errors.StreamFailure


def test_rate_limits_of_the_server_and_of_the_provider() -> None:
    """The same word before and after the start of an answer means two things."""
    outcome = Outcome(StreamState.FAILED, 0, error_type="rate_limit")
    assert type(failure_of(outcome)) is errors.ProviderRateLimited
    assert type(failure_of(outcome, started=False)) is errors.RateLimited


# -- answers


async def test_chat_end_to_end() -> None:
    """A question is answered with exactly the text of the log, and the outcome tells how."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model=PACED)
        text = await read(stream)
        assert text == stream.text == logged_text(server, stream.stream_id)
        assert stream.outcome is not None
        assert stream.outcome.finish_reason == "stop"
        assert stream.outcome.final_chunk_id == stream.last_chunk_id == 400
        assert (stream.model, stream.session_id, stream.resumes) == (PACED, client.session_id, 0)
        assert client.state is ClientState.CONNECTED


async def test_page_url_end_to_end() -> None:
    """The http address that the server prints can be used as it is."""
    async with serving() as server, connect(server.url) as client:
        assert await read(await client.chat("hello", model=FAST))


async def test_messages_and_kinds() -> None:
    """A conversation goes as a list; plain iteration yields text alone, pieces() everything."""
    async with serving(provider=f"{__name__}:scripted") as server, connect(url_of(server)) as client:
        messages = [{"role": "user", "content": "a"}, ChatMessage("assistant", "b"), {"role": "user", "content": "c"}]
        assert await read(await client.chat(messages)) == "3 messages: c"
        stream = await client.chat("d", config={"temperature": 0.5})
        pieces = [piece async for piece in stream.pieces()]
        assert (pieces[0].kind, pieces[0].content) == ("reasoning", "thinking")
        assert stream.text == "3 messages: d", "a text alone continues the conversation"


async def test_failures_raise_their_class_and_keep_the_text() -> None:
    """A failed answer raises the class of its error type after everything that had come."""
    async with serving(provider=f"{__name__}:scripted") as server, connect(url_of(server)) as client:
        stream = await client.chat("fail")
        with pytest.raises(errors.ContentFiltered, match="Not this"):
            await read(stream)
        assert stream.text == "1 messages: "
        assert stream.outcome is not None
        assert stream.outcome.error_type == "content_filter"


async def test_refused_requests_raise_at_once() -> None:
    """A request that the server refuses raises from chat(), and the client goes on."""
    async with serving() as server, connect(url_of(server)) as client:
        with pytest.raises(errors.BadRequest, match="no such provider"):
            await client.chat("hello", config={"provider": "nobody"})
        with pytest.raises(errors.BadRequest, match="config"):
            await client.chat("hello", config={"temperature": "hot"})
        assert await read(await client.chat("hello", model=FAST))


async def test_cancel() -> None:
    """A cancelled answer ends its iteration normally, and its outcome says so."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model=ENDLESS)
        async for _ in stream:
            await stream.cancel()
        assert stream.outcome is not None
        assert stream.outcome.state is StreamState.CANCELLED
        assert stream.outcome.receipt is not None
        assert stream.text == logged_text(server, stream.stream_id)[: len(stream.text)] != ""


async def test_cancel_while_disconnected() -> None:
    """A cancel that finds no connection is said on the next one."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url, tries=1000) as client:
        stream = await client.chat("hello", model=ENDLESS)
        await anext(stream)
        proxy.refuse()
        proxy.cut()
        await until(lambda: client.state is not ClientState.CONNECTED)
        await stream.cancel()
        proxy.accept()
        await read(stream)
        assert stream.outcome is not None
        assert stream.outcome.state is StreamState.CANCELLED


# -- sessions


async def test_history() -> None:
    """The session's messages are had in order, and a running answer is followed from where its message ends."""
    async with serving() as server, connect(url_of(server), session_id="mine") as client:
        whole = await read(await client.chat("hello", model=FAST))
        stream = await client.chat("and?", model=ENDLESS)
        text = await anext(stream)
        async with connect(url_of(server), session_id="mine") as tab:
            told, other = await asyncio.gather(tab.history(), tab.history("nobody"))
            last = told.messages[-1]
            assert last.stream_id is not None
            rest = tab.follow(last.stream_id, last.last_chunk_id or 0, snapshot=True)
            await stream.cancel()
            whole_and = text + await read(stream)
            assert str(last.content) + await read(rest) == whole_and
        assert [(m.role, m.is_complete) for m in told.messages[:3]] == [
            ("user", True),
            ("assistant", True),
            ("user", True),
        ]
        assert (told.messages[1].content, last.is_complete) == (whole, False)
        assert (other.session_id, other.messages) == ("nobody", [])


async def test_a_long_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read to its beginning, page by page, or one page of it."""
    monkeypatch.setattr(said, "PAGE", 3)
    async with serving() as server, connect(url_of(server), session_id="mine") as client:
        for _ in range(4):
            await read(await client.chat("hello", model=FAST))
        whole = await client.history()
        newest = await client.history(limit=5)
        oldest = await client.history("mine", before=newest.messages[0].id, limit=5)
        rest = await client.history(before=newest.messages[0].id)
        with pytest.raises(RequestError):
            await client.history(before="gone")
    assert [len(told.messages) for told in (whole, newest, oldest, rest)] == [8, 5, 3, 3]
    assert [*oldest.messages, *newest.messages] == whole.messages == [*rest.messages, *newest.messages]
    assert [told.more for told in (whole, newest, oldest, rest)] == [False, True, False, False]


async def test_history_across_a_loss() -> None:
    """A question for the history that finds no connection, or loses it, is answered over the next one."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url, tries=1000) as client:
        await read(await client.chat("hello", model=FAST))
        proxy.refuse()
        proxy.cut()
        await until(lambda: client.state is not ClientState.CONNECTED)
        asking = asyncio.create_task(client.history())
        await asyncio.sleep(0.01)
        proxy.accept()
        assert len((await asking).messages) == 2
        proxy.freeze()
        asking = asyncio.create_task(client.history())
        await asyncio.sleep(0.01)
        proxy.cut()
        assert len((await asking).messages) == 2


async def test_history_of_a_closed_client() -> None:
    """Whoever waits for a history when the client is closed is told so, and so is who asks after that."""
    async with serving() as server, Proxy(server.port) as proxy:
        async with connect(proxy.url) as client:
            proxy.freeze()
            asking = asyncio.create_task(client.history())
            gone = asyncio.create_task(client.history())
            await asyncio.sleep(0.01)
            gone.cancel()
            proxy.cut()
        with pytest.raises(ConnectionFailed):
            await asking
        with pytest.raises(LocalError):
            await client.history()


async def test_a_history_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot read its store says so, and the client goes on."""
    async with serving() as server, connect(url_of(server)) as client:

        async def failing(*_: str) -> Any:
            raise errors.StoreError("The disk is gone")

        monkeypatch.setattr(server.streams, "history", failing)
        with pytest.raises(errors.RequestError) as refused:
            await client.history()
        assert refused.value.recoverable
        assert await read(await client.chat("hello", model=FAST))


async def test_what_becomes_of_an_orphan() -> None:
    """A request says what becomes of its answer when nobody follows it."""
    async with serving() as server:
        async with connect(url_of(server)) as client:
            stream = await client.chat("hello", model=ENDLESS, config={"on_orphan": {"stop_after_chunks": 0}})
            await anext(stream)
        await until(lambda: server.streams.get(stream.stream_id).log.state is StreamState.INTERRUPTED)


async def test_two_streams_at_once() -> None:
    """Two answers over one connection do not mix."""
    async with serving() as server, connect(url_of(server)) as client:
        first, second = await asyncio.gather(
            client.chat("a", model=PACED + ",seed=1"), client.chat("b", model=PACED + ",seed=2")
        )
        texts = await asyncio.gather(read(first), read(second))
        assert texts == [logged_text(server, stream.stream_id) for stream in (first, second)]
        assert texts[0] != texts[1]
        assert client.statistics().connections == 1


async def test_follow_from_the_start_and_from_behind() -> None:
    """Another client reads a stream by its id, whole or behind a chunk it has."""
    async with serving() as server, connect(url_of(server)) as asking, connect(url_of(server)) as following:
        stream = await asking.chat("hello", model=FAST)
        text = await read(stream)
        assert await read(following.follow(stream.stream_id)) == text
        log = server.streams.get(stream.stream_id).log
        rest = "".join(chunk.content for chunk in log.chunks(301, 400))
        assert await read(following.follow(stream.stream_id, 300)) == rest


async def test_follow_what_is_not_there() -> None:
    """A stream that is not there, or not that long, is said while iterating."""
    async with serving() as server, connect(url_of(server)) as client:
        with pytest.raises(errors.UnknownStream):
            await read(client.follow("s_unknown"))
        stream = await client.chat("hello", model=FAST)
        await read(stream)
        with pytest.raises(errors.ResumeAhead):
            await read(client.follow(stream.stream_id, 401))


async def test_follow_twice() -> None:
    """One client does not follow a running stream twice; afterwards it may."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model=PACED)
        with pytest.raises(LocalError):
            client.follow(stream.stream_id)
        text = await read(stream)
        assert await read(client.follow(stream.stream_id)) == text


# -- flow control


async def test_nothing_is_acknowledged_unread() -> None:
    """Chunks that nobody takes are not acknowledged, and the server stops at the window."""
    async with serving() as server, connect(url_of(server), window=10) as client:
        stream = await client.chat("hello", model=FAST)
        await until(lambda: client.statistics().unprocessed == 10)
        await asyncio.sleep(0.03)
        log = server.streams.get(stream.stream_id).log
        assert client.statistics().unprocessed == 10
        assert [attachment.window.acked for attachment in log.attachments] == [0]
        assert await read(stream) == logged_text(server, stream.stream_id)


async def test_slow_consumer_is_bounded() -> None:
    """However fast the provider, what is received and not processed never exceeds the window."""
    async with serving() as server, connect(url_of(server), window=16, adaptive=False) as client:
        stream = await client.chat("hello", model=FAST)
        most = 0
        async for _ in stream:
            await asyncio.sleep(0.001)
            most = max(most, client.statistics().unprocessed)
        assert 0 < most <= 16
        assert stream.text == logged_text(server, stream.stream_id)


async def test_last_chunks_are_acknowledged() -> None:
    """When an answer was read to its end, the client owes the server no ack: not even when it leaves at once."""
    async with serving() as server:
        async with Proxy(server.port) as proxy, connect(proxy.url) as client:
            acked: list[int] = []
            stream = await client.chat("hello", model="demo:rate=100,tokens=3")
            attachment = server.streams.get(stream.stream_id).log.attachments[0]
            await read(stream)
            await client.close()
            acked.append(attachment.window.acked)
        assert acked == [3]


async def test_dropped_stream_goes_on_for_others() -> None:
    """Leaving an iteration neither cancels the answer nor holds it up."""
    async with serving(high_water=100, low_water=50) as server, connect(url_of(server), window=20) as client:
        async for _ in await client.chat("hello", model=FAST):
            break
        gc.collect()
        stream = server.streams.of_session(client.session_id or "")[0]
        await until(lambda: stream.log.outcome is not None)
        assert stream.log.state is StreamState.COMPLETE
        await until(lambda: not stream.log.attachments)
        assert client.statistics().streams == 0


async def test_closed_stream() -> None:
    """A closed stream is read no further, and other streams of its client are untouched."""
    async with serving() as server, connect(url_of(server)) as client:
        closed, other = await client.chat("a", model=PACED), await client.chat("b", model=PACED)
        await anext(closed)
        await closed.aclose()
        await closed.aclose()
        with pytest.raises(LocalError):
            await anext(closed)
        assert await read(other) == logged_text(server, other.stream_id)


async def test_chat_that_is_given_up_is_cancelled() -> None:
    """An answer whose chat() was cancelled before it began is cancelled at the server too."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        proxy.freeze()
        asking = asyncio.create_task(client.chat("hello", model=ENDLESS))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        proxy.thaw()
        await until(lambda: server.streams.of_session(client.session_id or ""))
        log = server.streams.of_session(client.session_id or "")[0].log
        await until(lambda: log.state is StreamState.CANCELLED)


# -- lost connections


async def test_cut_in_mid_answer() -> None:
    """A connection that is reset in mid-answer costs no character and adds none."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        stream = await client.chat("hello", model=PACED)
        pieces = []
        async for text in stream:
            pieces.append(text)
            if stream.last_chunk_id >= 100 and proxy.accepted == 1:
                proxy.cut()
        assert "".join(pieces) == stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 1
        assert client.statistics().connections == 2


async def test_twenty_cuts_in_one_answer() -> None:
    """Twenty connections in a row break, within messages and between them, and the text is still the same."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        stream = await client.chat("hello", model="demo:rate=3000,tokens=3000")
        async for _ in stream:
            proxy.cut_after(1301 + 37 * stream.resumes if stream.resumes < 20 else None)
        assert stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 20


async def test_cut_with_two_streams() -> None:
    """Every unfinished stream of a lost connection is resumed."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        streams = [await client.chat(name, model=PACED) for name in "ab"]
        reading = [asyncio.create_task(read(stream)) for stream in streams]
        await until(lambda: min(stream.last_chunk_id for stream in streams) > 20)
        proxy.cut()
        assert await asyncio.gather(*reading) == [logged_text(server, stream.stream_id) for stream in streams]
        assert [stream.resumes for stream in streams] == [1, 1]


async def test_cut_before_the_answer_began() -> None:
    """A request whose answer got lost is made again and begins nothing twice."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        proxy.blackhole()
        asking = asyncio.create_task(client.chat("hello", model=PACED))
        await asyncio.sleep(0.01)
        proxy.cut()
        stream = await asking
        assert await read(stream) == logged_text(server, stream.stream_id)
        assert len(server.streams.of_session(client.session_id or "")) == 1


async def test_unread_text_is_not_lost_with_its_connection() -> None:
    """What was received and not taken when the connection broke comes again."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        stream = await client.chat("hello", model=FAST)
        await anext(stream)
        await until(lambda: client.statistics().unprocessed > 10)
        proxy.cut()
        await until(lambda: client.statistics().connections == 2)
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id)


async def test_silent_connection_is_given_up() -> None:
    """A peer that is there but silent is noticed by the missing heartbeats, and the stream resumes elsewhere."""
    events: list[object] = []
    async with (
        serving(heartbeat_interval=0.05, heartbeat_timeout=0.1) as server,
        Proxy(server.port) as proxy,
        connect(proxy.url, on_event=events.append, random=lambda: 0.9) as client,
    ):
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        proxy.blackhole()
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id)
        losses = [event for event in events if isinstance(event, Lost)]
        assert [(loss.code, loss.delay) for loss in losses] == [(CloseCode.TIMEOUT, 0.0)]


async def test_frozen_connection_goes_on() -> None:
    """A connection that stalls for less than the time-out needs no resume."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        proxy.freeze()
        await asyncio.sleep(0.03)
        proxy.thaw()
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 0


async def test_heartbeats_keep_a_quiet_connection() -> None:
    """A connection over which nothing else goes lives on heartbeats."""
    settings = {"heartbeat_interval": 0.03, "heartbeat_timeout": 0.06}
    async with serving(**settings) as server, connect(url_of(server)) as client:
        await asyncio.sleep(0.2)
        assert client.statistics().connections == 1
        assert client.state is ClientState.CONNECTED


# -- failures to connect


async def test_nobody_there(unused_tcp_port: int) -> None:
    """After all tries, what is raised names the address and the reason."""
    waits: list[Lost] = []
    url = f"ws://127.0.0.1:{unused_tcp_port}/ws"

    def on_event(event: object) -> None:
        if isinstance(event, Lost):
            waits.append(event)

    with pytest.raises(ConnectionFailed, match=rf"{url}: connection refused \(tried 4 times\)"):
        async with connect(url, tries=3, on_event=on_event):
            pytest.fail("there is nobody")
    assert [wait.attempt for wait in waits] == [1, 2, 3]


async def test_wrong_address() -> None:
    """An address that can never work is not tried twice."""
    for url in ("nonsense", "ws://127.0.0.1:99999/ws", "ws://[half"):
        with pytest.raises(ConnectionFailed):
            async with connect(url):
                pytest.fail("that is no address")
    async with serving() as server:
        with pytest.raises(ConnectionFailed, match="HTTP 404"):
            async with connect(url_of(server) + "/elsewhere"):
                pytest.fail("there is nothing")


async def test_secrets_of_the_address_are_not_shown() -> None:
    """Neither user nor query of the address come into the message."""
    with pytest.raises(ConnectionFailed) as caught:
        async with connect("ws://me:secret@127.0.0.1:1/ws?token=secret", tries=0):
            pytest.fail("there is nobody")
    assert "secret" not in str(caught.value)


async def test_server_that_comes_later(unused_tcp_port: int) -> None:
    """A server that is not up yet is tried again."""
    server = Server(Config(store="memory:", port=unused_tcp_port, provider="demo", listeners=1))
    started = asyncio.Event()

    def on_event(event: object) -> None:
        if isinstance(event, Lost):
            started.set()

    connecting = connect(f"ws://127.0.0.1:{unused_tcp_port}/ws", on_event=on_event, random=lambda: 0.02, tries=20)
    entering = asyncio.create_task(connecting.__aenter__())
    await started.wait()
    async with server.running():
        client = await entering
        assert await read(await client.chat("hello", model=FAST))
        await client.close()


async def test_server_that_never_comes_back() -> None:
    """Whoever waits when the tries are used up is told, keeps the text, and the client can be asked anew."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url, tries=2) as client:
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(ConnectionFailed, match="tried 3 times"):
            await read(stream)
        assert stream.text
        assert client.state is ClientState.STOPPED
        with pytest.raises(ConnectionFailed, match="tried 3 times"):
            await client.chat("hello")
        proxy.accept()
        assert await read(await client.chat("hello", model=FAST))


async def test_progress_resets_the_count() -> None:
    """Losses with chunks between them are not losses in a row."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url, tries=1) as client:
        stream = await client.chat("hello", model=PACED)
        async for _ in stream:
            if stream.last_chunk_id > 50 * proxy.accepted <= 250:
                proxy.cut()
        assert stream.resumes >= 3
        assert stream.text == logged_text(server, stream.stream_id)


async def test_restarted_server_has_forgotten() -> None:
    """A server that went away and came back without its logs leads to a clear failure, not to a silent gap."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url) as client:
        stream = await client.chat("hello", model=ENDLESS)
        await anext(stream)
        async with serving() as successor:
            proxy.target_port = successor.port
            proxy.cut()
            with pytest.raises(errors.UnknownStream):
                await read(stream)
            assert stream.text
            assert await read(await client.chat("hello", model=FAST))


async def test_drained_server_is_left_for_the_next() -> None:
    """An answer that ends within the drain is complete, and after the announced delay the next server is asked."""
    events: list[object] = []
    async with serving(drain_timeout=1.0) as server, serving() as successor:
        async with Proxy(server.port) as proxy, connect(proxy.url, on_event=events.append) as client:
            stream = await client.chat("hello", model="demo:rate=2000,tokens=100")
            proxy.target_port = successor.port
            member = next(iter(server.registry))
            member.go_away(1000, 70)
            assert len(await read(stream)) == len(logged_text(server, stream.stream_id))
            member.close(CloseCode.SERVICE_RESTART, "service restart")
            await until(lambda: any(isinstance(event, Lost) for event in events))
            waiting = await client.chat("hello", model=FAST)
            assert await read(waiting) == logged_text(successor, waiting.stream_id)
        losses = [event for event in events if isinstance(event, Lost)]
        assert [(loss.code, loss.delay) for loss in losses] == [(CloseCode.SERVICE_RESTART, 0.07)]


@pytest.mark.parametrize("code", sorted(errors.FINAL_CLOSE_CODES | {CloseCode.UNAUTHORIZED}))
async def test_final_close_codes_raise(code: int) -> None:
    """A close that another try would only repeat is raised to whoever waits, and to whoever asks later."""
    events: list[object] = []
    async with serving() as server, connect(url_of(server), on_event=events.append) as client:
        stream = await client.chat("hello", model=ENDLESS)
        await anext(stream)
        next(iter(server.registry)).close(code, "stay away")
        with pytest.raises(ConnectionFailed, match="stay away") as caught:
            await read(stream)
        assert caught.value.code == code
        with pytest.raises(ConnectionFailed):
            await client.chat("hello")
        with pytest.raises(ConnectionFailed):
            client.follow(stream.stream_id)
        assert not any(isinstance(event, Lost) for event in events)
        assert isinstance(events[-1], Stopped)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 3008, 4429])
async def test_other_close_codes_resume(code: int) -> None:
    """After every other close the client comes back and resumes."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        next(iter(server.registry)).close(code, "")
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 1


# -- tokens

ESTABLISHED = (
    '{"type":"connection_established","connection_id":"c","session_id":"ses","heartbeat_interval":10,'
    '"heartbeat_timeout":25,"window":50,"window_bytes":65536,"limits":{"max_message_bytes":65536,"max_streams":16},'
    '"active_streams":[]}'
)

KEY = "0123456789abcdef0123456789abcdef"


class Tokens:
    """A function that gives tokens of alice, each good for a while; it fails where it is told to."""

    def __init__(self, *failures: int, seconds: float = 2.0) -> None:
        self.given = 0
        self.failures = failures
        self.seconds = seconds

    async def __call__(self) -> str:
        self.given += 1
        if self.given in self.failures:
            raise OSError("nobody there")
        return jwt.encode({"sub": "alice", "exp": time.time() + self.seconds}, KEY, algorithm="HS256")


@pytest.fixture
def _signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSTREAM_JWT_KEY", KEY)


@pytest.mark.slow
@pytest.mark.usefixtures("_signed")
async def test_tokens_are_renewed_under_a_running_answer() -> None:
    """An answer that outlives three tokens comes over one connection, though one of them was not to be had at first."""
    events: list[object] = []
    tokens = Tokens(3)
    async with (
        serving(token_grace=1.5) as server,
        connect(url_of(server), token=tokens, on_event=events.append) as client,
    ):
        stream = await client.chat("hello", model="demo:rate=50,tokens=350")
        assert await read(stream) == logged_text(server, stream.stream_id, "alice")
        assert (stream.resumes, client.statistics().connections) == (0, 1)
        assert server.rejections.statistics().get("expired", 0) == 0
    assert sum(isinstance(event, core.Told) and isinstance(event.message, core.m.TokenRenewed) for event in events) >= 3
    assert [str(event.error) for event in events if isinstance(event, TokenFailed)] == ["nobody there"]


@pytest.mark.usefixtures("_signed")
async def test_a_token_that_ran_out_is_replaced_by_a_new_connection() -> None:
    """After 3000 a client that can have a new token comes back with it at once, and resumes."""
    tokens = Tokens(seconds=100.0)
    async with serving() as server, connect(url_of(server), token=tokens) as client:
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        next(iter(server.registry)).close(CloseCode.UNAUTHORIZED, "The token has run out")
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id, "alice")
        assert (tokens.given, stream.resumes) == (2, 1)


async def test_a_second_refusal_of_tokens_is_final() -> None:
    """A server that refuses a new token as well is not asked a third time."""
    given: list[str] = []

    def token() -> str:
        given.append("t")
        return f"token-number-{len(given)}-0123456789"

    async def refuse(connection: ServerConnection) -> None:
        await connection.close(CloseCode.UNAUTHORIZED, "no")

    async with scripted_server(refuse) as url:
        with pytest.raises(ConnectionFailed, match="3000"):
            async with connect(url, token=token):
                raise AssertionError("it must not be let in")
    assert len(given) == 2


async def test_a_function_that_gives_no_token_is_asked_again() -> None:
    """A token function that fails is a failed try: it is told, and tried again."""
    events: list[object] = []
    tokens = Tokens(1, 2, seconds=100.0)
    async with serving() as server, connect(url_of(server), token=tokens, on_event=events.append) as client:
        assert client.state is ClientState.CONNECTED
    assert tokens.given == 3
    assert [type(event) for event in events[:4]] == [TokenFailed, Lost, TokenFailed, Lost]
    assert isinstance(events[1], Lost)
    assert events[1].reason == "there is no token: OSError"


EXPIRING = ESTABLISHED.replace('"active_streams"', '"expires_in":0,"active_streams"')


async def test_a_token_is_shown_on_the_connection_that_there_is() -> None:
    """Where the server says that a token runs out, another one is asked for and shown in band."""
    shown: asyncio.Queue[str] = asyncio.Queue()
    stay = asyncio.Event()
    waiting = asyncio.Event()
    given = iter(["first", "second"])

    async def token() -> str:
        try:
            return next(given)
        except StopIteration:
            waiting.set()
            await asyncio.Event().wait()
            raise

    async def greet(connection: ServerConnection) -> None:
        await connection.send(EXPIRING)
        shown.put_nowait(str(await connection.recv()))
        await connection.send('{"type":"token_renewed","expires_in":0}')
        await stay.wait()

    async with scripted_server(greet) as url:
        async with connect(url, token=token) as client:
            assert json.loads(await shown.get()) == {"type": "renew_token", "token": "second"}
            await waiting.wait()  # for a function that never answers
            client._want_token()
            assert client._renewal is not None
            await asyncio.sleep(0)
        stay.set()
    assert client._renewal is None


# -- against servers that do what ours does not


@asynccontextmanager
async def scripted_server(*answers: Callable[[ServerConnection], Any]) -> AsyncIterator[str]:
    """A server whose n-th connection is handled by the n-th of ``answers``, and later ones by the last."""
    connections = iter(answers)

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        await next(connections, answers[-1])(connection)

    async with serve(handle, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("wsstream.v1")]) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


def started(request: str | bytes) -> str:
    request_id = core.m.decode_client(request.encode() if isinstance(request, str) else request).request_id  # type: ignore[union-attr]
    return (
        f'{{"type":"stream_start","request_id":"{request_id}","stream_id":"s","session_id":"ses","epoch":"e",'
        '"model":null,"window":50,"timestamp":0}'
    )


async def test_retry_after_of_an_error_wins() -> None:
    """An error that asks for a delay before a close is obeyed."""
    losses: list[Lost] = []

    async def busy(connection: ServerConnection) -> None:
        await connection.send(
            '{"type":"error","error_type":"capacity","message":"Full","recoverable":true,"retry_after":0.04}'
        )
        await connection.close(1013)

    async def ready(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.wait_closed()

    def on_event(event: object) -> None:
        if isinstance(event, Lost):
            losses.append(event)

    async with scripted_server(busy, ready) as url, connect(url, on_event=on_event):
        assert [(loss.code, loss.delay) for loss in losses] == [(1013, 0.04)]


async def test_refused_by_http() -> None:
    """A 503 with Retry-After is tried again after it; other refusals are final."""
    statuses = iter([503, 200])

    def gate(connection: ServerConnection, request: Any) -> Any:
        if next(statuses) == 200:
            return None
        response = connection.respond(503, "full\n")
        response.headers["Retry-After"] = "0"
        return response

    async def handle(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.wait_closed()

    losses: list[object] = []
    async with serve(handle, "127.0.0.1", 0, process_request=gate) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url, on_event=losses.append, random=lambda: 0.9):
            assert losses[0] == Lost("HTTP 503", None, 1, 0.0)


async def test_capacity_on_a_good_connection() -> None:
    """A request refused for want of capacity, on a connection that goes on, is made again and then answered."""
    async with (
        serving(max_running_streams=1) as server,
        connect(url_of(server)) as client,
    ):
        first = await client.chat("a", model=ENDLESS)
        server.streams.cancel(server.streams.get(first.stream_id))
        asking = asyncio.create_task(client.chat("b", model=FAST))
        await read(first)
        assert await read(await asking)
        assert client.statistics().connections == 1


async def test_rewind_corrects_the_text() -> None:
    """Withdrawn text is no longer in text; pieces() shows where it was withdrawn."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"content_chunk","stream_id":"s","chunk_id":1,"content":"A"}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":2,"last_chunk_id":4,"content":"BCD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":1,"reason":"retry"}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":6,"content":"E"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":6,"finish_reason":"stop"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        kinds = [(piece.kind, piece.content, piece.to) async for piece in stream.pieces()]
        assert kinds == [("text", "A", None), ("text", "BCD", None), ("rewind", "", 1), ("text", "E", None)]
        assert stream.text == "AE"


async def test_rewind_into_a_batch_cuts_it() -> None:
    """A batch of which a part is withdrawn is cut where the rewind says, and again further back by the next one."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":4,"content":"A😀BCD"}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":5,"content":"EF"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":6,"to_chunk_id":3,"reason":"retry","withdrawn":3}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":7,"to_chunk_id":1,"reason":"retry","withdrawn":3}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":8,"content":"!"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":8,"finish_reason":"stop","retry_count":1,'
            '"model":"m"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        texts = [stream.text async for _ in stream.pieces()]
        assert texts == ["A😀BCD", "A😀BCDEF", "A😀BC", "A", "A!"]
        assert stream.outcome is not None
        assert (stream.outcome.retry_count, stream.outcome.model) == (1, "m")


@pytest.mark.parametrize("every", [0, 3600])
async def test_objects_that_are_not_complete(every: float) -> None:
    """While JSON streams in, what there is of it can be had, as often as is wished, and in the end in any case."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for number, text in enumerate(['{"a": {"b"', ': [1, {"c": "x', 'y"}]}', "}"], 1):
            chunk = {"type": "content_chunk", "stream_id": "s", "chunk_id": number, "content": text}
            await connection.send(json.dumps(chunk))
        await connection.send(
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":4,"finish_reason":"stop","parsed":{"a":1}}'
        )
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        assert stream.partial() is None
        seen = [found async for found in stream.partials(every)]
        objects = [{"a": {}}, {"a": {"b": [1, {"c": "x"}]}}, {"a": {"b": [1, {"c": "xy"}]}}]
        assert seen == (objects if not every else [objects[0], objects[2]])
        assert stream.partial() is stream.partial()
        assert stream.outcome is not None
        assert stream.outcome.parsed == {"a": 1}


async def test_rewind_into_a_batch() -> None:
    """Where a batch would have to be cut to withdraw a part of it, the part that stays is fetched once more."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":4,"content":"ABCD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":2,"reason":"retry"}',
        ):
            await connection.send(message)
        asked = json.loads(await connection.recv())
        while asked["type"] != "resume_stream":
            asked = json.loads(await connection.recv())
        assert (asked["last_chunk_id"], asked["window"]) == (0, 2)
        for message in (
            '{"type":"stream_resumed","stream_id":"s","last_chunk_id":0,"tail_chunk_id":5,'
            '"epoch":"e","state":"running","window":2}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":2,"content":"AB"}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":3,"last_chunk_id":4,"content":"CD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":2,"reason":"retry"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":5,"finish_reason":"stop"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        await read(stream)
        assert stream.text == "AB"


async def test_server_that_never_greets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens the WebSocket and says nothing is given up after a while."""
    monkeypatch.setattr("wsstream.client.ClientSettings", partial(core.ClientSettings, greeting_timeout=0.02))

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with scripted_server(silent) as url:
        with pytest.raises(ConnectionFailed, match="nothing was heard"):
            async with connect(url, tries=1):
                pytest.fail("it never greets")


# -- the client's own life


async def test_closing_is_bounded_and_leaves_nothing() -> None:
    """A client leaves a peer that does not answer within its limit, and no task stays behind."""
    async with serving() as server, Proxy(server.port) as proxy:
        tasks = asyncio.all_tasks()
        async with connect(proxy.url) as client:
            stream = await client.chat("hello", model=ENDLESS)
            await anext(stream)
            proxy.blackhole()
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 1.5
        assert client.state is ClientState.CLOSED
        with pytest.raises(ConnectionFailed, match="closed"):
            await read(stream)
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() - tasks if "Producer" not in repr(task)] == []


async def test_closing_wakes_who_waits() -> None:
    """Who waits for a piece when the client is closed is told."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model="demo:rate=0.1,tokens=2")
        await anext(stream)
        waiting = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await waiting
        with pytest.raises(LocalError):
            await client.chat("hello")


async def test_closing_while_waiting_for_the_next_try(unused_tcp_port: int) -> None:
    """A client can be left while it waits between tries."""
    async with serving() as server, Proxy(server.port) as proxy:
        async with connect(proxy.url, random=lambda: 0.99) as client:
            proxy.refuse()
            proxy.cut()
            await until(lambda: client.state is ClientState.WAITING)
        assert client.state is ClientState.CLOSED


async def test_entering_can_be_cancelled(unused_tcp_port: int) -> None:
    """A client that is still connecting can be given up, and leaves no task."""
    client = connect(f"ws://127.0.0.1:{unused_tcp_port}/ws", random=lambda: 0.99)
    tasks = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.__aenter__()
    assert asyncio.all_tasks() <= tasks


async def test_not_entered() -> None:
    """A client that was not entered says so."""
    with pytest.raises(LocalError, match="async with"):
        await connect("ws://127.0.0.1:1/ws").chat("hello")


async def test_exceptions_of_on_event_are_isolated(caplog: pytest.LogCaptureFixture) -> None:
    """What on_event raises is logged, and the answer is not disturbed."""

    def on_event(event: object) -> None:
        raise RuntimeError("mine")

    with caplog.at_level(logging.ERROR, "wsstream.client"):
        async with serving() as server, connect(url_of(server), on_event=on_event) as client:
            assert await read(await client.chat("hello", model=FAST))
    assert "on_event failed" in caplog.text


async def test_statistics() -> None:
    """Statistics are a copy of one moment."""
    async with serving() as server, connect(url_of(server)) as client:
        stream = await client.chat("hello", model=FAST)
        before = client.statistics()
        await read(stream)
        after = client.statistics()
        assert (before.streams, after.streams, after.unprocessed) == (1, 0, 0)
        assert after.messages_received > before.messages_received
        assert after.messages_ignored == 0
        with pytest.raises(AttributeError):
            after.streams = 7  # type: ignore[misc]


def test_client_shows_where_it_is() -> None:
    """The representation of a client holds no secret."""
    client: Client = connect("ws://me:secret@example.org/ws?token=secret")
    assert repr(client) == "<Client ws://example.org/ws connecting>"
