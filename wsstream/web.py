"""The HTTP side: the page and health on the WebSocket's port, metrics on one for operators. Starlette on uvicorn."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsstream.errors import Forbidden
from wsstream.rejections import Rejections
from wsstream.wires.base import Gate
from wsstream.wires.http import (
    MAX_CALLS,
    SENT_HEADERS,
    TOLD_HEADERS,
    Endpoint,
    Patience,
    nowhere,
    refuse,
    routes,
)
from wsstream.wires.openai_api import refuse as refuse_as_openai

PAGE_HEADERS = {
    # Only what this origin serves runs or loads, and nothing may frame it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        # No script may turn text into HTML, and none may make a policy that lets it.
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def web_root() -> Path:
    """Where the page's files are: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "_web"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "clients"


Health = Callable[[], dict[str, Any]]
"""How the server is; its ``status`` is `ok`, `degraded` or `draining`."""
Readiness = Callable[[], list[str]]
"""Why no new work is taken; nothing where it is."""


def make_app(
    health: Health,
    readiness: Readiness,
    gate: Gate,
    wires: Sequence[Sequence[Endpoint]],
    max_calls: int = MAX_CALLS,
    *,
    rejections: Rejections | None = None,
    patience: Patience | None = None,
    page: bool = True,
    pages: Collection[str] = (),
    per_address: int | None = None,
) -> Starlette:
    """The application.

    Args:
        gate: what every call of a wire passes first.
        wires: the endpoints of each.
        max_calls: of all wires together that may be under way at once.
        rejections: counts what is refused of them.
        patience: how long clients are waited for.
        page: whether the page is served; its scripts are in any case, for pages of others.
        per_address: of these calls, from one address.
        pages: the origins of other servers' pages that may read answers. Cookies are never for them.
    """
    root = web_root()

    async def upgrade_required(_: Request) -> Response:
        return PlainTextResponse(
            "This address speaks WebSocket.\n",
            status_code=426,
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )

    app = Starlette(
        routes=[
            *(_page_routes(root) if page else []),
            *_probes(health, readiness),
            Route("/ws", upgrade_required),
            Route("/ai", upgrade_required),
            Mount("/static/js", StaticFiles(directory=root / "js")),
            *routes(
                gate, [endpoint for wire in wires for endpoint in wire], max_calls, rejections, patience, per_address
            ),
            nowhere("/v1/", refuse_as_openai),
            nowhere("/api/", refuse),
        ]
    )
    app.add_middleware(_Headers)
    if pages:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(pages),
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=SENT_HEADERS,
            expose_headers=TOLD_HEADERS,
        )
    return app


def _page_routes(root: Path) -> list[BaseRoute]:
    files = StaticFiles(directory=root / "chat")

    async def chat_page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)  # which knows when the page is the caller's own

    async def example(_: Request) -> Response:
        return _with_inline_script(root / "examples" / "vanilla.html")

    return [
        Route("/", chat_page),
        Route("/examples/vanilla.html", example),
        Mount("/static/chat", files),
    ]


def _with_inline_script(path: Path) -> Response:
    """A page that is one file: its policy lets just the script run that it holds."""
    text = path.read_text(encoding="utf-8")
    script = text.split('<script type="module">')[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = PAGE_HEADERS["Content-Security-Policy"].replace(
        "script-src 'self'", f"script-src 'self' 'sha256-{digest}'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def make_metrics_app(
    health: Health,
    readiness: Readiness,
    render: Callable[[], Awaitable[bytes]],
    content_type: str,
    look_at: Callable[[Mapping[str, str]], None],
) -> Starlette:
    """What the port for operators has: `/metrics`, as ``render`` makes it, and the probes.

    ``look_at`` is asked about the headers of every request first, and raises `Forbidden` where a foreign page may have
    sent it: nobody shows a credential here.
    """

    async def metrics(_: Request) -> Response:
        return Response(await render(), headers={"Content-Type": content_type})

    app = Starlette(routes=[Route("/metrics", metrics), *_probes(health, readiness)])
    app.add_middleware(_Looked, look_at=look_at)
    app.add_middleware(_Headers)
    return app


def _probes(health: Health, readiness: Readiness) -> list[Route]:
    async def healthz(_: Request) -> Response:
        report = health()
        return _json(report, 503 if report["status"] == "draining" else 200)

    async def readyz(_: Request) -> Response:
        reasons = readiness()
        response = _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)
        if reasons:
            response.headers["Retry-After"] = "5"
        return response

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _json(report: Any, status: int) -> Response:
    return Response(msgspec.json.encode(report), status_code=status, media_type="application/json")


class _Looked:
    """Answers 403 to what a foreign page may have sent."""

    def __init__(self, app: ASGIApp, look_at: Callable[[Mapping[str, str]], None]) -> None:
        self._app = app
        self._look_at = look_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._look_at(Headers(scope=scope))
        except Forbidden as error:
            await PlainTextResponse(f"{error}\n", status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Headers:
    """Adds the page's headers to every answer that does not bring its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in PAGE_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", []))
                known = {name for name, _ in own}
                message["headers"] = [*own, *(header for header in self._headers if header[0] not in known)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
