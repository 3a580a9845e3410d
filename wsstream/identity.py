"""Who somebody is: what a bearer token, a signed token or a hook of the operator's own says.

Every kind of credential is an `Identifier`. The first one that knows a credential decides; the others are not asked. A
credential comes in the `Authorization` header or in a hello, never in a URL, and is never written anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from wsstream.config import Config, load_attribute
from wsstream.errors import ConfigError, Unauthorized
from wsstream.wires.base import Visitor

logger = logging.getLogger(__name__)

MAX_TOKEN = 4096
"""Characters of a credential, where nothing else is set; a longer one is not even looked at."""
MIN_TOKEN = 16
"""Characters of a static token; a shorter one can be guessed."""
MIN_KEY = 32
"""Bytes of an HS256 key (RFC 7518, section 3.2)."""
MIN_RSA_BITS = 2048
LEEWAY = 60
"""Seconds that the clock of whoever signs may differ from ours."""
MAX_USER = 256
"""Characters of a user's name, where nothing less is set."""


class Lengths(NamedTuple):
    """How long what is shown may be, in characters."""

    token: int = MAX_TOKEN
    user: int = MAX_USER

    @classmethod
    def of(cls, config: Config) -> Lengths:
        """Those that are set."""
        return cls(config.max_token_chars, config.max_user_chars)


USUAL = Lengths()


class Identity(NamedTuple):
    """Who somebody is. ``user`` is empty for nobody in particular."""

    user: str
    expires: float | None = None
    """When this must have been proved anew, in seconds since 1970."""
    token_id: str = ""
    """A name of the credential that tells nothing of it, by which it can be revoked alone."""
    is_application: bool = False
    """Whether it may ask for tickets in other users' names."""
    checked_by: Identifier | None = None
    """Who can say that it is revoked."""


ANYBODY = Identity("")


class Identifier(Protocol):
    """One kind of credential."""

    async def identify(self, visitor: Visitor) -> Identity | None:
        """Who ``visitor`` is; None where they show no credential of this kind.

        Raises:
            Unauthorized: they show one, and it is not good.
        """

    def is_revoked(self, identity: Identity) -> bool:
        """Whether somebody who was recognised here is not welcome any more. Must not wait for anything."""

    def refresh(self) -> None:
        """Look whether what is revoked has changed; called every half minute."""


def credential(visitor: Visitor, longest: int = MAX_TOKEN) -> str | None:
    """What ``visitor`` shows: the token of a hello, or else that of the `Authorization` header (RFC 6750).

    Args:
        visitor: whoever shows it.
        longest: its characters, at most.

    Raises:
        Unauthorized: it cannot be one.
    """
    token = visitor.token
    if token is None:
        scheme, _, token = visitor.headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer":
            raise Unauthorized
    token = token.strip()
    if not token or len(token) > longest or not token.isascii():
        raise Unauthorized
    return token


# -- static tokens


class StaticTokens:
    """The tokens of a file, each with its user: for applications, scripts and small teams."""

    def __init__(self, text: str, source: str, path: str | None = None, lengths: Lengths = USUAL) -> None:
        """``text`` is TOML: tables ``users`` and ``applications`` of name = token, or a list of tokens.

        Raises:
            ConfigError: it is something else. The message shows no token.
        """
        self._lengths = lengths
        self._path = path
        self._key = secrets.token_bytes(32)
        self._stamp = _stamp(path)
        self._source = source
        self._known = self._read(text)

    @classmethod
    def from_file(cls, path: str, lengths: Lengths = USUAL) -> StaticTokens:
        """Those of a file, which is read again when it has changed.

        Raises:
            ConfigError: it cannot be read.
        """
        return cls(_read_secret(path, "tokens_file"), "tokens_file", path, lengths)

    def _read(self, text: str) -> dict[bytes, Identity]:
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"{self._source}: it is not TOML") from None  # the reason would quote a token
        known: dict[bytes, Identity] = {}
        for table, names in tables.items():
            if table not in ("users", "applications") or not isinstance(names, dict):
                raise ConfigError(f"{self._source}: only the tables users and applications are known")
            for name, tokens in names.items():
                for token in tokens if isinstance(tokens, list) else [tokens]:
                    digest, identity = self._entry(name, token, is_application=table == "applications")
                    if digest in known:
                        raise ConfigError(f"{self._source}: {name}: somebody else has the same token")
                    known[digest] = identity
        return known

    def _entry(self, name: str, token: Any, *, is_application: bool) -> tuple[bytes, Identity]:
        longest = self._lengths.token
        if not isinstance(token, str) or not MIN_TOKEN <= len(token) <= longest or not token.isascii():
            raise ConfigError(f"{self._source}: {name}: a token has {MIN_TOKEN} to {longest} ASCII characters")
        if not is_user(name, self._lengths.user):
            raise ConfigError(f"{self._source}: a user's name has 1 to {self._lengths.user} printable characters")
        digest = self._digest(token)
        return digest, Identity(name, token_id=digest.hex(), is_application=is_application)

    def _digest(self, token: str) -> bytes:
        """What is compared instead of tokens: nobody can come nearer to one by measuring how long it took."""
        return hmac.digest(self._key, token.encode(), hashlib.sha256)

    async def identify(self, visitor: Visitor) -> Identity | None:
        """Look the token up."""
        token = credential(visitor, self._lengths.token)
        if token is None:
            return None
        digest = self._digest(token)
        found: Identity | None = None
        for known, identity in self._known.items():  # all of them, so that it takes as long whoever it is
            if hmac.compare_digest(known, digest):
                found = identity
        return found

    def is_revoked(self, identity: Identity) -> bool:
        """Whether the token is not in the file any more."""
        return bytes.fromhex(identity.token_id) not in self._known

    def refresh(self) -> None:
        """Read the file again if it has changed. A broken one changes nothing."""
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = self._read(_read_secret(self._path, "tokens_file"))
        except ConfigError as error:
            logger.error("the tokens stay as they were: %s", error)
        else:
            logger.info("the tokens were read again: %d", len(self._known))


def _stamp(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


# -- signed tokens


class SignedTokens:
    """JSON Web Tokens (RFC 7519) of one fixed algorithm, checked with one of at most two keys.

    What a token's own header says of keys and algorithms is not believed: its ``alg`` must be ours, ``kid``, ``jku``
    and the like are not read, and a ``crit`` is refused (RFC 8725, sections 3.1 and 3.10).
    """

    def __init__(
        self,
        algorithm: str,
        keys: list[bytes],
        *,
        audience: str | None = None,
        issuer: str | None = None,
        lengths: Lengths = USUAL,
    ) -> None:
        """``keys``: the current one, and the one before while tokens of it are still about.

        Raises:
            ConfigError: a key is not one for this algorithm, or too weak.
        """
        self._algorithm = algorithm
        self._keys = [_prepare_key(algorithm, key) for key in keys]
        self._audience = audience
        self._issuer = issuer
        self._lengths = lengths

    async def identify(self, visitor: Visitor) -> Identity | None:
        """Check the token."""
        token = credential(visitor, self._lengths.token)
        if token is None or token.count(".") != 2:
            return None
        for key in self._keys:
            try:
                return self._identity(self._claims(token, key))
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise Unauthorized("The token has expired") from None
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                raise Unauthorized from None
        raise Unauthorized

    def _claims(self, token: str, key: Any) -> dict[str, Any]:
        if "crit" in jwt.get_unverified_header(token):
            raise Unauthorized
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[self._algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
        )
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        user = claims["sub"]
        if not isinstance(user, str) or not is_user(user, self._lengths.user):
            raise Unauthorized
        return Identity(user, float(claims["exp"]), str(claims.get("jti", "")))

    def is_revoked(self, identity: Identity) -> bool:
        """A signed token stands until it expires; a hook may say otherwise."""
        return False

    def refresh(self) -> None:
        """Nothing changes."""


def _prepare_key(algorithm: str, key: bytes) -> Any:
    if algorithm == "HS256" and len(key) < MIN_KEY:
        raise ConfigError(f"jwt_key: a key for HS256 has at least {MIN_KEY} bytes")
    try:
        prepared = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
        raise ConfigError(f"jwt_key: it is not a key for {algorithm}") from None
    if algorithm == "RS256":
        if not isinstance(prepared, RSAPublicKey):
            raise ConfigError("jwt_key: RS256 is checked with the public key")
        if prepared.key_size < MIN_RSA_BITS:
            raise ConfigError(f"jwt_key: an RSA key has at least {MIN_RSA_BITS} bits")
    if algorithm == "EdDSA" and not isinstance(prepared, Ed25519PublicKey):
        raise ConfigError("jwt_key: EdDSA is checked with the public key, of Ed25519")
    return prepared


# -- a hook


class Hook:
    """The operator's own: a function of a `Visitor`, or an object with an ``identify`` like that.

    It is asynchronous where it has to wait. The visitor's ``token`` is the bearer token that is shown, in a hello or in
    a header. Such an object may also have ``is_revoked(identity)``, which must answer at once.
    """

    def __init__(self, path: str, lengths: Lengths = USUAL) -> None:
        """``path`` is ``module:attribute``.

        Raises:
            ConfigError: there is nothing like that.
        """
        self._longest_user = lengths.user
        target = load_attribute(path, "identity_hook")
        if isinstance(target, type):
            target = target()
        self._identify = cast(
            Callable[[Visitor], Awaitable[Identity | None] | Identity | None], getattr(target, "identify", target)
        )
        if not callable(self._identify):
            raise ConfigError(f"identity_hook: {path} is not a function, nor has it an identify method")
        self._is_revoked = cast(Callable[[Identity], bool], getattr(target, "is_revoked", lambda _identity: False))

    async def identify(self, visitor: Visitor) -> Identity | None:
        """Ask the hook."""
        answer = self._identify(_with_token(visitor))
        identity = await answer if isawaitable(answer) else answer
        longest = self._longest_user
        if identity is not None and not is_user(identity.user, longest):
            logger.error("the identity hook gave a user's name that is not 1 to %d printable characters", longest)
            raise Unauthorized
        return identity

    def is_revoked(self, identity: Identity) -> bool:
        """Ask the hook."""
        return bool(self._is_revoked(identity))

    def refresh(self) -> None:
        """The hook looks after itself."""


def _with_token(visitor: Visitor) -> Visitor:
    """``visitor`` with the token that it shows, wherever it shows it; other credentials are the hook's to read."""
    scheme, _, token = visitor.headers.get("authorization", "").partition(" ")
    if visitor.token is not None or scheme.lower() != "bearer":
        return visitor
    return visitor._replace(token=token.strip() or None)


# -- what is configured


def is_user(name: str, longest: int = MAX_USER) -> bool:
    """Whether ``name`` can be a user's: in logs and in file names of backups it must not do harm."""
    return 0 < len(name) <= longest and name.isprintable()


def configured(config: Config, environ: Mapping[str, str]) -> list[Identifier]:
    """The kinds of credentials that are set up. Secrets come from files and variables only.

    Raises:
        ConfigError: one is not set up rightly.
    """
    found: list[Identifier] = []
    lengths = Lengths.of(config)
    if config.tokens_file is not None:
        found.append(StaticTokens.from_file(config.tokens_file, lengths))
    if environ.get("WSSTREAM_TOKENS"):
        found.append(StaticTokens(environ["WSSTREAM_TOKENS"], "WSSTREAM_TOKENS", lengths=lengths))
    keys = [
        key
        for path, variable in (
            (config.jwt_key_file, "WSSTREAM_JWT_KEY"),
            (config.jwt_previous_key_file, "WSSTREAM_JWT_PREVIOUS_KEY"),
        )
        if (key := _key(path, environ.get(variable)))
    ]
    if keys:
        claims = {"audience": config.jwt_audience, "issuer": config.jwt_issuer}
        found.append(SignedTokens(config.jwt_algorithm, keys, **claims, lengths=lengths))
    if config.identity_hook is not None:
        found.append(Hook(config.identity_hook, lengths))
    return found


def _key(path: str | None, variable: str | None) -> bytes:
    if path is not None:
        return _read_secret(path, "jwt_key_file").strip().encode()
    return (variable or "").strip().encode()


def _read_secret(path: str, setting: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path}: it is not UTF-8") from None
