"""The asyncio client on real sockets, with the real server in the same loop and a proxy that breaks connections."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import jwt
import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.serving import (
    ENDLESS,
    ESTABLISHED,
    FAST,
    PACED,
    connect,
    logged_text,
    proxied,
    read,
    scripted_server,
    serving,
    talking,
    until,
    url_of,
)
from tests.proxy import Proxy
from wsstream import client_protocol as core
from wsstream import errors, sessions
from wsstream.chunks import StreamState
from wsstream.client import Client, ClientState, Lost, TokenFailed
from wsstream.errors import CloseCode, ConnectionFailed, LocalError, RequestError

# -- answers


async def test_chat_end_to_end() -> None:
    """A question is answered with exactly the text of the log, and the outcome tells how."""
    async with talking() as (server, client):
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


# -- sessions


async def test_history() -> None:
    """The session's messages are had in order, and a running answer is followed from where its message ends."""
    async with talking(session_id="mine") as (server, client):
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
    monkeypatch.setattr(sessions, "PAGE", 3)
    async with talking(session_id="mine") as (_, client):
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
    async with proxied(tries=1000) as (_, proxy, client):
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
    async with talking() as (server, client):

        async def failing(*_: str) -> Any:
            raise errors.StoreError("The disk is gone")

        monkeypatch.setattr(server.streams, "page", failing)
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
    async with talking() as (server, client):
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
    async with talking() as (_, client):
        with pytest.raises(errors.UnknownStream):
            await read(client.follow("s_unknown"))
        stream = await client.chat("hello", model=FAST)
        await read(stream)
        with pytest.raises(errors.ResumeAhead):
            await read(client.follow(stream.stream_id, 401))


async def test_follow_twice() -> None:
    """One client does not follow a running stream twice; afterwards it may."""
    async with talking() as (_, client):
        stream = await client.chat("hello", model=PACED)
        with pytest.raises(LocalError):
            client.follow(stream.stream_id)
        text = await read(stream)
        assert await read(client.follow(stream.stream_id)) == text


# -- tokens


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
    async with talking(token=tokens) as (server, client):
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
    async with talking(token=tokens, on_event=events.append) as (_, client):
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
    async with talking() as (_, client):
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
        async with talking(on_event=on_event) as (_, client):
            assert await read(await client.chat("hello", model=FAST))
    assert "on_event failed" in caplog.text


async def test_statistics() -> None:
    """Statistics are a copy of one moment."""
    async with talking() as (_, client):
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
