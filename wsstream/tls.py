"""TLS for the server's own port: TLS 1.2 or newer, and certificates that can be renewed under open connections."""

from __future__ import annotations

import logging
import ssl

from wsstream.errors import ConfigError

logger = logging.getLogger(__name__)


class Certificate:
    """A certificate chain with its key, in two files or one. Connections made after `reload` get the new one."""

    def __init__(self, cert: str, key: str | None) -> None:
        """``key`` may be None where ``cert`` holds it too.

        Raises:
            ConfigError: they cannot be read, or do not belong together.
        """
        self._cert = cert
        self._key = key
        self._load(_context())  # a context that failed half way must not be served from
        self.context = _context()
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # Without a password function, OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls_cert, tls_key: {self._cert}, {self._key}: {error.strerror or error}") from error

    def reload(self) -> bool:
        """Read the files again; where they are wrong, what there is stays. Whether the new ones are used."""
        try:
            self._load(_context())
            self._load(self.context)
        except ConfigError as error:
            logger.error("the certificate was not renewed: %s", error)
            return False
        logger.info("the certificate was read again")
        return True


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted, and there is nobody to ask for its password")
