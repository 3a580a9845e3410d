"""Applications of others, served by uvicorn in this loop, for tests of what is mounted in them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import uvicorn


class Hosted(NamedTuple):
    """Where it is."""

    port: int


@asynccontextmanager
async def hosted(
    app: Any, *, lifespan: Literal["on", "off"] = "off", ws: Any = "websockets-sansio"
) -> AsyncIterator[Hosted]:
    """Serve ``app`` on a free port while the block runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, ws=ws, lifespan=lifespan, log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        serving = asyncio.get_running_loop().create_task(server.serve([sock]))
        try:
            while not server.started:
                await asyncio.sleep(0.002)
                assert not serving.done(), serving
            yield Hosted(sock.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


class _no_signals:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
