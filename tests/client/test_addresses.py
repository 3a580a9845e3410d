"""Where a server is, as people write it."""

from __future__ import annotations

import pytest

from tests.client.serving import connect, serving, url_of
from wsstream.client import native_url
from wsstream.errors import ConnectionFailed


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
