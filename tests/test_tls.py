"""TLS on the server's own port."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from websockets.asyncio.client import connect

from tests.conftest import Serve, Spawn
from tests.native import Native
from wsstream.errors import ConfigError
from wsstream.tls import Certificate


class Authority:
    """A certificate authority of the test's own, and where the server's files are."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.cert = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.client = ssl.create_default_context()
        self._ca.configure_trust(self.client)
        self.renew()

    def renew(self) -> None:
        """Write a new certificate with its key."""
        leaf = self._ca.issue_cert("127.0.0.1", "localhost")
        leaf.private_key_pem.write_to_path(str(self.key))
        self.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    @property
    def flags(self) -> dict[str, str]:
        """As settings."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Files to serve with."""
    return Authority(tmp_path)


async def serial(port: int, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that is shown on a port."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_a_websocket_over_tls(serve: Serve, authority: Authority) -> None:
    """``wss`` works as ``ws`` does, the page too, and the address says so."""
    server = await serve(**authority.flags)
    assert server.url == f"https://127.0.0.1:{server.port}/"
    async with connect(
        f"wss://127.0.0.1:{server.port}/ws", ssl=authority.client, ping_interval=None, proxy=None
    ) as socket:
        native = Native(socket)
        await native.hello()
        answer = await native.read(await native.ask("demo:rate=0,tokens=2000"))
        assert answer.last == 2000


async def test_old_versions_are_refused(serve: Serve, authority: Authority) -> None:
    """Nothing below TLS 1.2 is spoken."""
    server = await serve(**authority.flags)
    authority.client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLS"):
        authority.client.maximum_version = ssl.TLSVersion.TLSv1_1
    authority.client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=authority.client)


async def test_renewed_under_open_connections(spawn: Spawn, authority: Authority) -> None:
    """After SIGHUP new connections are shown the new certificate, and old ones go on."""
    server = await spawn("--tls-cert", str(authority.cert), "--tls-key", str(authority.key))
    before = await serial(server.port, authority.client)
    async with connect(
        f"wss://127.0.0.1:{server.port}/ws", ssl=authority.client, ping_interval=None, proxy=None
    ) as socket:
        native = Native(socket)
        await native.hello()
        stream_id = await native.ask("demo:rate=200,tokens=100")
        authority.renew()
        server.tell(signal.SIGHUP)
        async with asyncio.timeout(5):
            while await serial(server.port, authority.client) == before:
                pass
        assert (await native.read(stream_id)).last == 100
    assert await server.logged("the certificate was read again")


async def test_a_bad_renewal_changes_nothing(
    serve: Serve, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Half-written files are refused with a line in the log, and the server goes on with those it has."""
    server = await serve(**authority.flags)
    before = await serial(server.port, authority.client)
    authority.key.write_text("not a key")
    server.reload()
    assert await serial(server.port, authority.client) == before
    assert "the certificate was not renewed" in caplog.text


def test_reloading_without_tls(authority: Authority) -> None:
    """A certificate alone says whether it was renewed."""
    certificate = Certificate(str(authority.cert), str(authority.key))
    assert certificate.reload()
    authority.renew()
    assert certificate.reload()
    authority.cert.unlink()
    assert not certificate.reload()


@pytest.mark.parametrize("wrong", ["no cert", "no key", "foreign key", "garbage"])
def test_files_that_cannot_be_used(authority: Authority, tmp_path: Path, wrong: str) -> None:
    """They are named before the server starts."""
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(str(other))
    cert, key = authority.cert, authority.key
    if wrong == "no cert":
        cert.unlink()
    elif wrong == "no key":
        key.unlink()
    elif wrong == "foreign key":
        key = other
    else:
        cert.write_text("garbage")
    with pytest.raises(ConfigError, match="tls_cert, tls_key"):
        Certificate(str(cert), str(key))


def test_nobody_is_asked_for_a_password(authority: Authority, tmp_path: Path) -> None:
    """A key under a password is refused; it would be asked for on a terminal that nobody looks at."""
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", str(authority.key), "-out", str(locked)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl here, or a key of another kind")
    with pytest.raises(ConfigError, match="encrypted"):
        Certificate(str(authority.cert), str(locked))
