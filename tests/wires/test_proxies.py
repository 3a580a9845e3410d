"""Behind real proxies, with the configurations that are shipped: nothing is held back, nothing is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import pytest
from websockets.asyncio.client import connect as open_socket

from tests.answers import begun, until
from tests.conftest import ROOT, SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from tests.wires.http import browsing, events, text_of
from wsstream.client import connect
from wsstream.server import Server
from wsstream.web import web_root
from wsstream.wires.native_http import HELD_BACK

PATIENCE = 10.0
IDLE = 2.0
"""Seconds of silence that the proxies allow here, in place of 60."""
BEATS = {"heartbeat_interval": 0.5, "heartbeat_timeout": 5.0}
SILENCE = 3.0

NGINX = "nginx"
HAPROXY = "haproxy"


class Proxy(NamedTuple):
    port: int


def find(name: str) -> str:
    """The proxy's program; without it the test is skipped."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed here: as root, `make unit` installs it")
    return path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def nginx_text(server: Server, port: int, tmp: Path) -> str:
    """The shipped configuration, for these ports, impatient, and with its scratch files in ``tmp``."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    paths = "".join(f"{kind}_temp_path {tmp}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    for old, new in (
        ("127.0.0.1:8765", f"127.0.0.1:{server.port}"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("timeout 60s", f"timeout {IDLE:g}s"),
        ("worker_processes auto", "worker_processes 1"),
        ("worker_connections 20480", "worker_connections 256"),
        ("http {\n", f"http {{ {paths} access_log off;\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    return f"pid {tmp}/nginx.pid;\ndaemon off;\n" + text


def haproxy_text(server: Server, port: int, _: Path) -> str:
    """The same of HAProxy."""
    text = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
    for old, new in (
        ("127.0.0.1:8765", f"127.0.0.1:{server.port}"),
        ("bind :8080", f"bind 127.0.0.1:{port}"),
        ("60s", f"{IDLE:g}s"),
        ("maxconn 20000", "maxconn 200"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@contextlib.asynccontextmanager
async def running(
    name: str, server: Server, tmp: Path, change: Callable[[str], str] = lambda text: text
) -> AsyncIterator[Proxy]:
    """The proxy before ``server``."""
    program, port = find(name), free_port()
    path = tmp / f"{name}.conf"
    path.write_text(change((nginx_text if name == NGINX else haproxy_text)(server, port, tmp)))
    arguments = ["-p", str(tmp), "-e", "stderr", "-c"] if name == NGINX else ["-db", "-f"]
    process = await asyncio.create_subprocess_exec(
        program, *arguments, str(path), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await _answers(port, process)
        yield Proxy(port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _answers(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the proxy passes requests on."""
    async with browsing(Proxy(port)) as client:
        while True:
            assert process.returncode is None, "the proxy does not like its configuration"
            with contextlib.suppress(OSError, Exception):
                if (await client.get("/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", [NGINX, HAPROXY])
async def test_tokens_come_as_they_are_made(serve: Serve, scripted: Scripted, tmp_path: Path, name: str) -> None:
    """Each token arrives before the next one is made, as an event and on a WebSocket; tokens have no other way."""
    server = await serve(provider=SCRIPTED)
    async with running(name, server, tmp_path) as proxy, browsing(proxy) as client, connected(proxy) as native:
        stream_id, run = await begun(native, scripted)
        async with events(client, "GET", f"/api/streams/{stream_id}") as stream:
            await stream.next()
            for n in range(1, 6):
                run.put(f"{n} ")
                event = await stream.next()
                assert event is not None
                assert event.id == str(n)
                assert (await native.read(stream_id, to=n)).last == n
            run.finish()
            assert (await stream.rest())[-1].data["type"] == "done"


@pytest.mark.parametrize("name", [NGINX, HAPROXY])
async def test_no_client_lends_itself_an_address(serve: Serve, tmp_path: Path, name: str) -> None:
    """Behind either of the samples a client is where it is, whatever its own headers say."""
    server = await serve(trusted_proxies="127.0.0.1")
    made_up = {"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "7.7.7.7", "X-Real-IP": "8.8.8.8"}
    async with running(name, server, tmp_path) as proxy:
        address = f"ws://127.0.0.1:{proxy.port}/ws"
        async with open_socket(address, additional_headers=made_up, proxy=None, local_addr=("127.0.0.2", 0)):
            (member,) = server.registry
            assert member.statistics().remote == "127.0.0.2"


@pytest.mark.parametrize("name", [NGINX, HAPROXY])
async def test_silence_longer_than_the_proxy_allows(
    serve: Serve, scripted: Scripted, tmp_path: Path, name: str
) -> None:
    """While a model thinks for longer than the proxy's limits, heartbeats keep all wires open."""
    server = await serve(provider=SCRIPTED, **BEATS)
    async with running(name, server, tmp_path) as proxy, browsing(proxy) as client, connected(proxy) as native:
        stream_id, run = await begun(native, scripted)
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with (
            events(client, "GET", f"/api/streams/{stream_id}") as stream,
            events(client, "POST", "/v1/chat/completions", json=body) as completion,
        ):
            await until(lambda: len(scripted.runs) == 2)
            quiet = await native.quiet(SILENCE)
            for each in (run, scripted.last):
                each.put("at last")
                each.finish()
            assert (await native.read(stream_id)).text == "at last"
            assert text_of(await stream.rest()) == "at last"
            assert (await completion.rest())[-1].data == "[DONE]"
    assert len([message for message in quiet if message["type"] == "heartbeat"]) >= 3


@pytest.mark.parametrize("name", [NGINX, HAPROXY])
async def test_native_messages_over_http(serve: Serve, tmp_path: Path, name: str) -> None:
    """The fallback gets through, both ways."""
    server = await serve()
    async with (
        running(name, server, tmp_path) as proxy,
        browsing(proxy) as client,
        events(client, "POST", "/api/native", json={"type": "hello"}) as stream,
    ):
        first = await stream.next()
        assert first is not None
        ask = {"type": "chat_request", "request_id": "r", "message": "hi", "model": "demo:rate=0,tokens=5"}
        reply = await client.post(f"/api/native/{first.data['connection_id']}", json=ask)
        assert reply.status_code == 204
        while (event := await stream.next()) is not None and event.data["type"] != "stream_complete":
            pass
        assert event is not None


def under_a_path(text: str) -> str:
    """nginx that has the server under ``/chat/``, too."""
    begin = text.index("location / {")
    place = text[begin : text.index("}", begin) + 1]
    below = place.replace("location /", "location /chat/").replace("http://wsstream;", "http://wsstream/;")
    return text.replace(place, place + below)


async def test_a_path_of_another_site(serve: Serve, tmp_path: Path) -> None:
    """Under a path of a proxy's the page finds all its files beside itself, and clients find every wire."""
    server = await serve(provider="demo")
    async with running(NGINX, server, tmp_path, under_a_path) as proxy, browsing(proxy) as client:
        page = (await client.get("/chat/")).text
        example = (await client.get("/chat/examples/vanilla.html")).text
        found = [urljoin("/chat/", name) for name in re.findall(r'(?:href|src)="([^"#]+)"', page)]
        found += [urljoin("/chat/examples/", name) for name in re.findall(r'from "([^"]+)"', example)]
        assert len(found) > 5
        for name in found:
            assert name.startswith("/chat/static/")
            assert (await client.get(name)).status_code == 200, name
        async with connect(f"http://127.0.0.1:{proxy.port}/chat/") as python:
            stream = await python.chat("hi", model="demo:rate=0,tokens=3")
            text = "".join([piece async for piece in stream])
        async with events(client, "GET", f"/chat/api/streams/{stream.stream_id}") as told:
            assert text_of(await told.rest()) == text


def test_scripts_of_the_page_name_no_address_from_the_root() -> None:
    """What the page's own scripts ask for is beside them, wherever the server is on its site."""
    for script in (web_root() / "chat").rglob("*.js"):
        assert not re.search(r'(?:fetch|URL|import)\(\s*["`]/', script.read_text(encoding="utf-8")), script.name


def buffering(text: str) -> str:
    """nginx as it often is: it may hold answers back until they are large or over."""
    return text.replace("proxy_buffering off;", "proxy_buffering on;")


def packing(text: str) -> str:
    """And it packs what it passes on, deaf to what it is asked: the packer keeps small events until it has many."""
    deaf = buffering(text).replace("proxy_cache off;", "proxy_ignore_headers X-Accel-Buffering;")
    return deaf.replace("gzip off;", "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;")


async def test_a_proxy_that_buffers_unless_asked(serve: Serve, scripted: Scripted, tmp_path: Path) -> None:
    """Responses that stream ask not to be buffered, and nginx obeys whatever its configuration says."""
    server = await serve(provider=SCRIPTED)
    async with (
        running(NGINX, server, tmp_path, buffering) as proxy,
        browsing(proxy) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        await stream.next()
        await until(lambda: scripted.runs)
        scripted.last.put("a")
        assert await stream.next() is not None
        scripted.last.finish()
        await stream.rest()


async def test_a_proxy_that_holds_events_back(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is noticed within 2 seconds and said, to the client and in the log; the probe shows it, too."""
    server = await serve()
    loop = asyncio.get_running_loop()
    async with running(NGINX, server, tmp_path, packing) as proxy, browsing(proxy) as client:
        async with events(client, "POST", "/api/native", json={"type": "hello"}) as stream:
            first = await stream.next()  # a client would answer now, and it is too late
            assert first is not None
            reply = await client.post(f"/api/native/{first.data['connection_id']}", json={"type": "heartbeat_ack"})
            assert reply.status_code == 404
            last = (await stream.rest())[-1]
        assert last.data == {"code": 1013, "reason": HELD_BACK}
        async with events(client, "GET", "/api/probe") as stream:
            arrivals = [loop.time() async for _ in stream]
    assert len(arrivals) == 3
    assert arrivals[-1] - arrivals[0] < 0.4
    assert [record.levelname for record in caplog.records if record.name.startswith("wsstream")].count("WARNING") == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
