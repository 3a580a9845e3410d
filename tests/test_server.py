"""The server as a whole: how it begins, how it is asked to go, and how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import SCRIPTED, Serve, Spawn
from tests.data.scripted import Scripted
from tests.native import Native, connected
from wsstream.config import Config
from wsstream.errors import ConfigError
from wsstream.server import PortTaken, Server, listen
from wsstream.server import serve as serve_until_told

# -- listening


@contextlib.contextmanager
def listening(*args: object) -> object:
    """The sockets of `listen`, closed afterwards."""
    sockets = listen(*args)  # type: ignore[arg-type]
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_many_listeners_share_one_port() -> None:
    """Port 0 is one free port for all of them."""
    with listening("127.0.0.1", 0, 4) as sockets:
        assert len({sock.getsockname() for sock in sockets}) == 1
        assert len(sockets) == 4


def test_a_taken_port_is_not_shared() -> None:
    """A second server on the port is told so in one line, though both would be allowed to share it."""
    with listening("127.0.0.1", 0, 2) as sockets:
        for sock in sockets:
            sock.listen()
        port = sockets[0].getsockname()[1]
        with pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            listen("127.0.0.1", port, 2)


def test_a_port_can_be_taken_again_at_once() -> None:
    """Connections that still linger from the last server do not keep the next one from its port."""
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        old.accept()[0].close()
    with listening("127.0.0.1", port, 1):
        client.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours(host: str) -> None:
    """It is named in one line."""
    with pytest.raises(PortTaken, match=f"cannot listen on {host} port 0: "):
        listen(host, 0, 1)


async def test_ipv6(serve: Serve) -> None:
    """A host with colons is an IPv6 address, and stands in brackets in the URL."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = await serve(host="::1")
    except PortTaken:
        pytest.skip("no IPv6 address here")
    assert server.url == f"http://[::1]:{server.port}/"
    _, writer = await asyncio.open_connection("::1", server.port)
    writer.close()


# -- providers


async def test_a_provider_that_cannot_be_made_stops_the_start() -> None:
    """Nothing listens then."""
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await Server(Config(store="memory:", port=0, provider="openai")).start()


async def test_a_client_chooses_only_among_what_is_offered(serve: Serve, scripted: Scripted) -> None:
    """A request may name the configured provider or one of the table; it can never have something imported."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=0,tokens=3", config={"provider": "demo"})
        assert (await native.read(stream_id)).last == 3
        await native.ask(config={"provider": SCRIPTED})
        for name in ("tests.data.scripted:echo", "os:system", "nothing", ""):
            await native.send("chat_request", request_id="r", message="hi", config={"provider": name})
            assert (await native.until_that(lambda m: m["type"] in ("error", "stream_start")))["type"] == (
                "error" if name else "stream_start"
            )


# -- leaving


async def read_until_leaving(native: Native) -> dict[str, object]:
    """Read on, acknowledging, until the server says that it goes."""
    while True:
        message = await native.receive()
        if message["type"] == "going_away":
            return message
        if "content" in message:
            await native.ack(message["stream_id"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_answers_finish(spawn: Spawn, number: signal.Signals) -> None:
    """going_away at once, the running answer to its end, close 1012, exit 0, and nothing but words in the log."""
    server = await spawn("--provider", "demo")
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=200,tokens=150")
        await native.read(stream_id, to=10)
        server.tell(number)
        told_at = time.monotonic()
        leaving = await read_until_leaving(native)
        assert time.monotonic() - told_at < 1.0
        assert leaving["deadline_ms"] == 10_000
        assert 0 < leaving["reconnect_after_ms"] <= 5_000
        await native.send("chat_request", request_id="late", message="hi")
        refused = await native.until("error")
        assert (refused["error_type"], refused["recoverable"]) == ("capacity", True)
        answer = await native.read(stream_id)
        assert answer.last == 150
        assert answer.end is not None
        assert answer.end["finish_reason"] == "stop"
        assert await native.closed() == (1012, "service restart")
    assert await server.wait() == 0
    assert " error=" not in server.log  # as an exception is logged


async def test_a_second_signal_ends_it_now(spawn: Spawn) -> None:
    """Who insists does not wait for the drain time-out."""
    server = await spawn("--provider", "demo", "--drain-timeout", "60")
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=100,tokens=100000")
        await native.read(stream_id, to=3)
        server.tell(signal.SIGTERM)
        await read_until_leaving(native)
        asked_at = time.monotonic()
        server.tell(signal.SIGTERM)
        assert await server.wait() == 0
        assert time.monotonic() - asked_at < 4.0
        assert (await native.closed())[0] == 1012
    assert " error=" not in server.log  # as an exception is logged


async def test_an_idle_server_leaves_at_once(spawn: Spawn) -> None:
    """Open connections without answers delay nothing."""
    server = await spawn("--provider", "demo")
    async with connected(server) as native:
        asked_at = time.monotonic()
        server.tell(signal.SIGTERM)
        assert (await native.closed())[0] == 1012
        assert await server.wait() == 0
        assert time.monotonic() - asked_at < 3.0


async def test_a_viewer_that_is_behind_gets_the_rest(serve: Serve, scripted: Scripted) -> None:
    """An answer is finished when its viewers have it, not when its provider is done."""
    server = await serve(provider=SCRIPTED, window=10)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put(*("x" for _ in range(200)))
        scripted.last.finish()
        draining = asyncio.create_task(server.drain())
        await read_until_leaving(native)
        while native.answer(stream_id).end is None:
            await asyncio.sleep(0.01)
            await native.read(stream_id, to=native.answer(stream_id).last + 1)
        assert native.answer(stream_id).last == 200
        assert (await native.closed())[0] == 1012
        await draining


async def test_who_never_acknowledges_does_not_hold_the_server(serve: Serve, scripted: Scripted) -> None:
    """The drain time-out is for viewers too."""
    server = await serve(provider=SCRIPTED, window=2, drain_timeout=0.2)
    async with connected(server) as native:
        await native.ask()
        await native.round_trip()
        scripted.last.put(*"abcdef")
        scripted.last.finish()
        begun_at = time.monotonic()
        draining = asyncio.create_task(server.drain())
        assert (await native.closed())[0] == 1012
        await draining
        assert time.monotonic() - begun_at < 1.0


async def test_an_answer_that_takes_too_long_is_interrupted(serve: Serve, scripted: Scripted) -> None:
    """After the drain time-out the upstream is closed and the viewer told, before the connection goes."""
    server = await serve(provider=SCRIPTED, drain_timeout=0.1)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put("half ")
        draining = asyncio.create_task(server.drain())
        answer = await native.read(stream_id)
        assert answer.text == "half "
        assert answer.end is not None
        assert (answer.end["error_type"], answer.end["recoverable"]) == ("interrupted", True)
        assert (await native.closed())[0] == 1012
        await draining
        assert scripted.last.closed.is_set()


async def test_nobody_new_comes_in_while_it_leaves(serve: Serve, scripted: Scripted) -> None:
    """A new connection gets 503, those that are there may still resume, acknowledge and cancel."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native, connected(server) as other:
        stream_id = await native.ask()
        await native.round_trip()
        draining = asyncio.create_task(server.drain())
        await read_until_leaving(native)
        with pytest.raises(InvalidStatus) as refused:
            async with connected(server):
                pass
        assert refused.value.response.status_code == 503
        await other.resume(stream_id, 0)
        await other.send("cancel_stream", stream_id=stream_id)
        answer = await other.read(stream_id)
        assert answer.end is not None
        assert answer.end["finish_reason"] == "cancelled"
        await native.closed()
        await draining


async def test_clients_are_told_to_come_back_at_different_times(serve: Serve) -> None:
    """A thousand clients of a restarted server must not return in the same moment."""
    server = await serve()
    async with contextlib.AsyncExitStack() as stack:
        natives = [await stack.enter_async_context(connected(server)) for _ in range(8)]
        draining = asyncio.create_task(server.drain())
        times = [(await read_until_leaving(native))["reconnect_after_ms"] for native in natives]
        for native in natives:
            await native.closed()
        await draining
    assert len(set(times)) > 4


async def test_stopping_twice_is_fine(serve: Serve) -> None:
    """Draining after draining and stopping after stopping do nothing."""
    server = await serve()
    await server.drain()
    await server.drain()
    await server.stop()
    await server.stop()


async def test_stop_without_drain_interrupts(serve: Serve, scripted: Scripted) -> None:
    """A server that is stopped outright still closes its upstreams and says 1012."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        await native.ask()
        await native.round_trip()
        await server.stop()
        assert scripted.last.closed.is_set()
        assert (await native.closed())[0] == 1012


async def test_a_server_that_cannot_say_where_it_is(quick_stop: None) -> None:
    """Where nobody reads its first line, as behind ``| head -0``, it stops instead of hanging."""

    def announce(_: Server) -> None:
        raise BrokenPipeError

    config = Config(port=0, provider="demo", store="memory:", listeners=1, metrics_port=0)
    with pytest.raises(BrokenPipeError):
        async with asyncio.timeout(5):
            await serve_until_told(config, announce)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_signal_right_behind_the_announcement_is_heard() -> None:
    """Whoever reads that the server is ready may stop it at once: it drains, and is not killed."""
    code = (
        "import os, signal\n"
        "from wsstream.config import Config\n"
        "from wsstream.server import run\n"
        "config = Config(port=0, store='memory:', provider='demo', metrics_port=0)\n"
        "run(config, lambda server: os.kill(os.getpid(), signal.SIGTERM))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
