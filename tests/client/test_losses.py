"""Connections that are lost, or cannot be made: another is tried, or it is said why not."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

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
from wsstream import errors
from wsstream.client import ClientState, Lost, Stopped, reconnect_delay
from wsstream.config import Config
from wsstream.errors import CloseCode, ConnectionFailed
from wsstream.server import Server


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


async def test_cut_in_mid_answer() -> None:
    """A connection that is reset in mid-answer costs no character and adds none."""
    async with proxied() as (server, proxy, client):
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
    async with proxied() as (server, proxy, client):
        stream = await client.chat("hello", model="demo:rate=3000,tokens=3000")
        async for _ in stream:
            proxy.cut_after(1301 + 37 * stream.resumes if stream.resumes < 20 else None)
        assert stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 20


async def test_cut_with_two_streams() -> None:
    """Every unfinished stream of a lost connection is resumed."""
    async with proxied() as (server, proxy, client):
        streams = [await client.chat(name, model=PACED) for name in "ab"]
        reading = [asyncio.create_task(read(stream)) for stream in streams]
        await until(lambda: min(stream.last_chunk_id for stream in streams) > 20)
        proxy.cut()
        assert await asyncio.gather(*reading) == [logged_text(server, stream.stream_id) for stream in streams]
        assert [stream.resumes for stream in streams] == [1, 1]


async def test_cut_before_the_answer_began() -> None:
    """A request whose answer got lost is made again and begins nothing twice."""
    async with proxied() as (server, proxy, client):
        proxy.blackhole()
        asking = asyncio.create_task(client.chat("hello", model=PACED))
        await asyncio.sleep(0.01)
        proxy.cut()
        stream = await asking
        assert await read(stream) == logged_text(server, stream.stream_id)
        assert len(server.streams.of_session(client.session_id or "")) == 1


async def test_unread_text_is_not_lost_with_its_connection() -> None:
    """What was received and not taken when the connection broke comes again."""
    async with proxied() as (server, proxy, client):
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
    async with proxied() as (server, proxy, client):
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
    async with proxied(tries=2) as (_, proxy, client):
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
    async with proxied(tries=1) as (server, proxy, client):
        stream = await client.chat("hello", model=PACED)
        async for _ in stream:
            if stream.last_chunk_id > 50 * proxy.accepted <= 250:
                proxy.cut()
        assert stream.resumes >= 3
        assert stream.text == logged_text(server, stream.stream_id)


async def test_restarted_server_has_forgotten() -> None:
    """A server that went away and came back without its logs leads to a clear failure, not to a silent gap."""
    async with proxied() as (_, proxy, client):
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
    async with talking(on_event=events.append) as (server, client):
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
    async with talking() as (server, client):
        stream = await client.chat("hello", model=PACED)
        await anext(stream)
        next(iter(server.registry)).close(code, "")
        await read(stream)
        assert stream.text == logged_text(server, stream.stream_id)
        assert stream.resumes == 1


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


async def test_server_that_never_greets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens the WebSocket and says nothing is given up after a while."""
    monkeypatch.setattr("wsstream.client.ClientSettings", partial(core.ClientSettings, greeting_timeout=0.02))

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with scripted_server(silent) as url:
        with pytest.raises(ConnectionFailed, match="nothing was heard"):
            async with connect(url, tries=1):
                pytest.fail("it never greets")
