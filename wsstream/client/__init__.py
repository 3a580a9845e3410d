"""The asyncio client: answers as async iterators that survive lost connections.

>>> async with connect("ws://127.0.0.1:8765/ws") as client:            # doctest: +SKIP
...     async for text in await client.chat("Why is the sky blue?"):
...         print(text, end="", flush=True)
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable

from wsstream.chunks import StreamState
from wsstream.client.addresses import native_url
from wsstream.client.client import Client, Token
from wsstream.client.events import ClientEvent, ClientState, ClientStatistics, Lost, Stopped, TokenFailed
from wsstream.client.failures import failure_of
from wsstream.client.losses import Tries, reconnect_delay
from wsstream.client.stream import ChatStream
from wsstream.client_protocol import ClientProtocol, ClientSettings, Piece
from wsstream.errors import ConnectionFailed

TRIES = 5


def connect(
    url: str,
    *,
    token: Token | None = None,
    session_id: str | None = None,
    window: int | None = None,
    window_bytes: int | None = None,
    adaptive: bool = True,
    tries: int = TRIES,
    on_event: Callable[[ClientEvent], None] | None = None,
    random: Callable[[], float] = random_module.random,
) -> Client:
    """A client of the server at ``url``, to be entered with ``async with``, which returns when the server has greeted.

    Args:
        url: where the WebSocket is; of the page's ``http://`` address, the ``ws://…/ws`` beside it is taken.
        token: a credential; or a function, synchronous or not, that gives one. It is asked for every connection, and
            again before a token runs out; a connection that was closed for its token (3000) is then made anew.
        session_id: continues a conversation; the server gives a new one otherwise.
        window: chunks that may be received and not yet processed, where it is not the server's default.
        window_bytes: the same in bytes.
        adaptive: whether the window is widened, as far as the server allows, while pieces are taken so fast that it
            would otherwise have to be acknowledged more than 20 times a second. Without, it stays as it is.
        tries: connections to try in a row, after a loss or a first failure, before giving up. Every received chunk,
            and every connection that lasts, starts the count anew.
        on_event: told what happens, in the event loop; it must not block. What it raises is logged.
        random: a number in [0, 1) for the jitter of the back-off.

    Raises:
        ConnectionFailed: ``url`` is not an address.
    """
    try:
        url = native_url(url)
    except ValueError as error:
        raise ConnectionFailed(f"{url!r} is not an address: {error}") from None
    settings = ClientSettings(
        window=window,
        window_bytes=window_bytes,
        adaptive=adaptive,
        refusals=tries,
        renews=callable(token),
        jitter=random(),
    )
    return Client(url, ClientProtocol(settings, session_id), Tries(url, tries, random), on_event, token)


__all__ = [
    "ChatStream",
    "Client",
    "ClientEvent",
    "ClientState",
    "ClientStatistics",
    "Lost",
    "Piece",
    "Stopped",
    "StreamState",
    "Token",
    "TokenFailed",
    "connect",
    "failure_of",
    "native_url",
    "reconnect_delay",
]
