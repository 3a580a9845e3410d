"""wsstream mounted in somebody else's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import wsstream.asgi
from tests.answers import begun, until
from tests.conftest import SCRIPTED
from tests.data.scripted import Scripted
from tests.hosted import Hosted, hosted
from tests.native import PATIENCE, connected
from tests.test_web import get
from tests.wires.http import browsing
from wsstream.asgi import WsstreamApp
from wsstream.config import Config

pytestmark = pytest.mark.usefixtures("quick_stop")


def made(gate: Callable[[Scope], Awaitable[str | None]] | None = None, **settings: Any) -> WsstreamApp:
    return WsstreamApp(Config(**{"store": "memory:", "provider": SCRIPTED, **settings}), gate=gate)


@asynccontextmanager
async def mounted(app: WsstreamApp, **options: Any) -> AsyncIterator[Hosted]:
    """In a Starlette application, at /chat; its lifespan does not reach what is mounted."""
    async with hosted(Starlette(routes=[Mount("/chat", app)]), **options) as server:
        yield server
        await app.aclose()


async def test_the_native_wire_under_a_mount(scripted: Scripted) -> None:
    """A client chats through a mounted application, which has started by itself at the first request."""
    async with mounted(made()) as server, connected(server, path="/chat/ws") as native:
        stream_id, run = await begun(native, scripted)
        run.put("one ", "two ")
        run.put("three")
        run.finish()
        assert (await native.read(stream_id)).text == "one two three"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([(b"host", b"h"), (b"origin", b"http://h")], 200),
        ([(b"host", b"h"), (b"origin", b"https://friend.example")], 200),
        ([(b"host", b"h"), (b"origin", b"https://evil.example")], 403),
        ([(b"host", b"h"), (b"origin", b"null")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"host", b""), (b"origin", b"http://")], 403),
    ],
)
async def test_pages_of_others(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """Pages of the site that was called come in, and of its friends; where no site was called there are none."""
    app = WsstreamApp(Config(store="memory:", provider="demo"), origins=["https://friend.example"])
    told: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        told.append(message)

    scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "headers": headers}
    async with app.running():
        await app(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert told[0]["status"] == status


async def test_fastapi_with_its_own_lifespan(scripted: Scripted) -> None:
    """Within `running` the application begins and ends with its host."""
    chat = made()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with chat.running():
            yield

    host = FastAPI(lifespan=lifespan)
    host.mount("/chat", chat)
    async with hosted(host, lifespan="on") as server:
        assert chat.assembly is not None
        async with connected(server, path="/chat/ws") as native:
            stream_id, run = await begun(native, scripted)
            run.put("text")
            run.finish()
            assert (await native.read(stream_id)).text == "text"
    assert chat.assembly is None


async def test_as_the_root_application() -> None:
    """A server that tells its lifespan starts and ends it."""
    app = made()
    async with hosted(app, lifespan="on") as server:
        assert app.assembly is not None
        assert (await get(server, "/healthz")).status == 200
    assert app.assembly is None


async def test_http_under_a_mount() -> None:
    """Health and scripts are served under the mount; the page only where it is asked for."""
    async with mounted(made()) as server:
        assert (await get(server, "/chat/healthz")).status == 200
        assert (await get(server, "/chat/static/js/wsstream.js")).status == 200
        assert (await get(server, "/chat/")).status == 404
    async with mounted(WsstreamApp(Config(store="memory:", provider="demo"), page=True)) as server:
        assert (await get(server, "/chat/")).status == 200


async def test_a_viewer_that_does_not_read_holds_back_the_provider(scripted: Scripted) -> None:
    """Behind a socket that takes nothing, chunks stay in the log, and the provider has no room any more."""
    async with (
        mounted(made(high_water=50, low_water=10, window=20)) as server,
        connected(server, path="/chat/ws") as native,
    ):
        stream_id, run = await begun(native, scripted)
        for number in range(60):
            run.put(f"{number} ")
        assert not run.sink.has_room()
        answer = await native.read(stream_id, to=20, ack=False)
        assert answer.last == 20
        assert await native.quiet() == []
        await native.ack(stream_id)
        run.finish()
        assert (await native.read(stream_id)).last == 60


async def test_a_socket_that_takes_nothing(scripted: Scripted) -> None:
    """What the server underneath has not taken is bounded, whatever the windows allow."""
    app = made(window=1000, window_bytes=1024 * 1024, high_water=2000)
    taking = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await taking.wait()

    async with ScriptedSocket(app, send) as socket:
        socket.say('{"type":"hello"}')
        socket.say('{"type":"chat_request","request_id":"r","message":"hi"}')
        await until(lambda: scripted.runs)
        for _ in range(200):
            scripted.last.put("x" * 4000)
        await asyncio.sleep(0)
        (connection,) = app.assembly.registry  # type: ignore[union-attr]
        await until(lambda: connection.paused)  # type: ignore[attr-defined]
        assert connection._size < 128 * 1024  # type: ignore[attr-defined]
        taking.set()
        scripted.last.finish()
        await until(lambda: sum(str(m.get("text")).count("xxxx") > 0 for m in sent) > 2)


class ScriptedSocket:
    """One ASGI WebSocket without a server."""

    def __init__(
        self, app: WsstreamApp, send: Callable[[Any], Awaitable[None]], path: str = "/ws", **scope: Any
    ) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._app = app
        self._scope = {"type": "websocket", "path": path, "headers": [], "subprotocols": ["wsstream.v1"], **scope}
        self._send = send

    def say(self, text: str) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def __aenter__(self) -> ScriptedSocket:
        self.task = asyncio.ensure_future(self._app(self._scope, self._incoming.get, self._send))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(PATIENCE):
            await self.task
        await self._app.aclose()


@pytest.mark.parametrize(("data", "code"), [(b"\xff", 1003), ("x" * 70_000, 1009)])
async def test_bad_input(data: str | bytes, code: int) -> None:
    """Binary and huge messages end this connection with the code of the specification."""
    async with mounted(made()) as server, connected(server, path="/chat/ws", greet=False) as native:
        await native.socket.send(data)
        assert (await native.closed())[0] == code


async def test_an_unknown_subprotocol() -> None:
    """A client of another version is told so, as on the server's own socket."""
    async with mounted(made()) as server, connected(server, path="/chat/ws", subprotocol="v9", greet=False) as native:
        assert (await native.closed())[0] == 4406


async def test_another_path() -> None:
    """A WebSocket at any other address is refused."""
    async with mounted(made()) as server:
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{server.port}/chat/nowhere", proxy=None)


async def test_the_limit_of_connections() -> None:
    """A server that is full refuses the next one."""
    async with mounted(made(max_connections=1)) as server, connected(server, path="/chat/ws"):
        for path in ("ws", "ai"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://127.0.0.1:{server.port}/chat/{path}", proxy=None)
            response = refused.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("settings", "remote", "status", "seconds"),
    [({"max_connections": 1}, "127.0.0.1", 503, 1), ({"max_connections_per_address": 1}, "192.0.2.1", 429, 5)],
)
@pytest.mark.parametrize("path", ["/ws", "/ai"])
async def test_who_cannot_come_in_is_told_when_to_come_again(
    settings: dict[str, int], remote: str, status: int, seconds: int, path: str
) -> None:
    """The refusal is a status with Retry-After where the server can say that, else a close code with the reason."""
    app = made(**settings)
    told: list[list[dict[str, Any]]] = []

    def socket(number: int, **scope: Any) -> ScriptedSocket:
        sent: list[dict[str, Any]] = []
        told.append(sent)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        return ScriptedSocket(app, send, path, client=(remote, number), **scope)

    async with socket(1), socket(2, extensions={"websocket.http.response": {}}), socket(3):
        await until(lambda: len(told[2]) == 2)
        assert told[0][0]["type"] == "websocket.accept"
        start, body = told[1]
        assert (start["status"], dict(start["headers"])[b"retry-after"]) == (status, b"%d" % seconds)
        assert (start["type"], body["type"]) == ("websocket.http.response.start", "websocket.http.response.body")
        accept, close = told[2]
        assert (accept["type"], accept["subprotocol"]) == ("websocket.accept", "wsstream.v1")
        assert (close["code"], f"Retry after {seconds} s" in close["reason"]) == ({503: 1013, 429: 4429}[status], True)
        assert len(close["reason"]) <= 123
        assert app.assembly is not None
        counts = app.assembly.rejections.statistics()
        assert sum(counts.values()) == counts["connections"] + counts["connections_per_address"] == 2


async def test_the_end_of_the_application(scripted: Scripted) -> None:
    """`aclose` closes every connection with 1012, and a client can come back to what starts anew."""
    app = made()
    async with mounted(app) as server:
        async with connected(server, path="/chat/ws") as native:
            await begun(native, scripted)
            await app.aclose()
            assert (await native.closed())[0] == 1012
        async with connected(server, path="/chat/ws") as native:
            assert native.seen


async def test_a_client_that_leaves(scripted: Scripted) -> None:
    """A connection that is gone follows nothing any more; its answer goes on."""
    app = made()
    async with mounted(app) as server:
        async with connected(server, path="/chat/ws", session_id="s") as native:
            stream_id, run = await begun(native, scripted)
        assert app.assembly is not None
        log = app.assembly.streams.get(stream_id).log
        await until(lambda: not log.attachments)
        run.put("more")
        run.finish()
        async with connected(server, path="/chat/ws", session_id="s") as native:
            await native.resume(stream_id, 0)
            assert (await native.read(stream_id)).text == "more"


async def test_the_host_decides_who_comes_in() -> None:
    """Whom the gate does not know gets a 401, and no socket; others come in."""

    async def gate(scope: Scope) -> str | None:
        return dict(scope["headers"]).get(b"x-user", b"").decode() or None

    async with mounted(made(gate)) as server:
        assert (await get(server, "/chat/healthz")).status == 401
        assert (await get(server, "/chat/healthz", headers="X-User: ann\r\n")).status == 200
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/chat/ws", proxy=None)
        assert refused.value.response.status_code == 403
        async with connect(
            f"ws://127.0.0.1:{server.port}/chat/ws", additional_headers={"X-User": "ann"}, proxy=None
        ) as socket:
            await socket.send('{"type":"hello"}')
            assert "connection_established" in str(await socket.recv())


def test_both_names() -> None:
    """`wsstream.asgi.app` makes the same as the class."""
    assert isinstance(wsstream.asgi.app(Config(store="memory:")), WsstreamApp)


async def test_a_page_of_another_origin() -> None:
    """One that is listed may ask without a credential what it may send, and read the answers; others may not."""

    async def who(scope: Scope) -> str | None:
        return "ann" if b"authorization" in dict(scope["headers"]) else None

    friend, stranger = {"Origin": "https://friend.example"}, {"Origin": "https://stranger.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    config = Config(store="memory:", provider=SCRIPTED, allowed_origins="https://other.example")
    app = WsstreamApp(config, gate=who, origins=["https://friend.example"])
    async with mounted(app) as server, browsing(server) as client:
        for page in (friend, {"Origin": "https://other.example"}):
            preflight = await client.options("/chat/api/ai/chat", headers={**page, **asked})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == page["Origin"]
            answer = await client.get("/chat/api/ai/chat/x", headers={**page, "Authorization": "x"})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == page["Origin"]
        refused = await client.get("/chat/api/ai/chat/x", headers=friend)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, friend["Origin"])
        assert (await client.options("/chat/api/ai/chat", headers={**stranger, **asked})).status_code == 403
