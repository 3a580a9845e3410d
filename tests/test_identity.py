"""Credentials: static tokens, signed tokens, hooks, and everything that only looks like one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from wsstream.config import Config
from wsstream.errors import ConfigError, Unauthorized
from wsstream.identity import (
    MAX_TOKEN,
    USUAL,
    Hook,
    Identity,
    Lengths,
    SignedTokens,
    StaticTokens,
    configured,
    credential,
    is_user,
)
from wsstream.wires.base import Visitor

KEY = b"0123456789abcdef0123456789abcdef"
OLD_KEY = b"fedcba9876543210fedcba9876543210"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    """A public key as files hold it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


def private_pem(key: Any) -> bytes:
    """A private key as files hold it."""
    return key.private_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signed(key: Any = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is good for a minute, but for what is said otherwise; None leaves a claim out."""
    everything = {"sub": "alice", "exp": time.time() + 60, **claims}
    kept = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def identify(identifier: Any, token: str) -> Identity | None:
    """What ``identifier`` makes of a token in a hello."""
    return asyncio.run(identifier.identify(Visitor({}, "", token)))  # type: ignore[no-any-return]


def forged(header: dict[str, Any], claims: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims or {"sub": "alice", "exp": time.time() + 60}).encode()]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (*parts, signature)).decode()


# -- where a credential is


@pytest.mark.parametrize(
    ("headers", "token", "found"),
    [
        ({}, None, None),
        ({"authorization": "Bearer abc"}, None, "abc"),
        ({"authorization": "bearer  abc "}, None, "abc"),
        ({"authorization": "Bearer abc"}, "def", "def"),
        ({}, "x" * MAX_TOKEN, "x" * MAX_TOKEN),
    ],
)
def test_where_it_is_found(headers: dict[str, str], token: str | None, found: str | None) -> None:
    """In the hello, or else behind the word Bearer in the header."""
    assert credential(Visitor(headers, "", token)) == found


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"authorization": "Basic abc"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer ä"}, None),
        ({}, ""),
        ({}, "x" * (MAX_TOKEN + 1)),
        ({}, "x" * 10 * MAX_TOKEN),
    ],
)
def test_what_cannot_be_one(headers: dict[str, str], token: str | None) -> None:
    """Another scheme, nothing at all, other letters than ASCII's, and more than 4 KiB."""
    with pytest.raises(Unauthorized):
        credential(Visitor(headers, "", token))


# -- static tokens


def test_static_tokens_name_their_users() -> None:
    """Each token of the file is its user's; several may be one user's, and other tokens are nobody's."""
    text = (
        '[users]\nalice = ["first-token-012345", "second-token-01234"]\n[applications]\nshop = "shops-token-0123456"\n'
    )
    tokens = StaticTokens(text, "it")
    found = [identify(tokens, token) for token in ("first-token-012345", "second-token-01234", "shops-token-0123456")]
    assert [(one.user, one.is_application) for one in found if one] == [
        ("alice", False),
        ("alice", False),
        ("shop", True),
    ]
    assert identify(tokens, "third-token-012345") is None
    assert all("token" not in one.token_id for one in found if one)


@pytest.mark.parametrize(
    "text",
    [
        "[users",
        "[friends]\n",
        'users = "x"',
        '[users]\nalice = "short"\n',
        "[users]\nalice = 7\n",
        f'[users]\nalice = "{"x" * (MAX_TOKEN + 1)}"\n',
        '[users]\n"" = "long-enough-token-1"\n',
        '[users]\n"a\\nb" = "long-enough-token-1"\n',
        '[users]\nalice = "long-enough-token-1"\nbob = "long-enough-token-1"\n',
    ],
)
def test_wrong_files_are_refused_without_showing_a_token(text: str) -> None:
    """A broken file is named in one line, and no token of it is in that."""
    with pytest.raises(ConfigError) as refused:
        StaticTokens(text, "tokens_file")
    assert str(refused.value).startswith("tokens_file: ")
    assert "long-enough-token-1" not in str(refused.value)
    assert "\n" not in str(refused.value)


# -- signed tokens


@pytest.mark.parametrize(
    ("algorithm", "private", "public"),
    [("HS256", KEY, KEY), ("RS256", RSA, pem(RSA.public_key())), ("EdDSA", ED, pem(ED.public_key()))],
)
def test_good_tokens_of_each_algorithm(algorithm: str, private: Any, public: bytes) -> None:
    """A token that is signed with our key names its user and its end."""
    found = identify(SignedTokens(algorithm, [public]), signed(private, algorithm, jti="one"))
    assert found is not None
    assert (found.user, found.token_id) == ("alice", "one")
    assert found.expires == pytest.approx(time.time() + 60, abs=5)


def test_two_keys_while_they_change() -> None:
    """During a change of keys tokens of both are good; afterwards only those of the new one."""
    both, new = SignedTokens("HS256", [KEY, OLD_KEY]), SignedTokens("HS256", [KEY])
    assert identify(both, signed()) is not None
    assert identify(both, signed(OLD_KEY)) is not None
    with pytest.raises(Unauthorized):
        identify(new, signed(OLD_KEY))


BAD = {
    "alg none": lambda: forged({"alg": "none", "typ": "JWT"}),
    "alg None": lambda: forged({"alg": "None"}),
    "no alg": lambda: forged({"typ": "JWT"}),
    "alg a list": lambda: forged({"alg": ["HS256"]}),
    "another algorithm": lambda: signed(KEY + KEY, "HS512"),
    "another key": lambda: signed(OLD_KEY),
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "a bit flipped": lambda: signed()[:-2] + ("AA" if not signed().endswith("AA") else "BB"),
    "crit": lambda: signed(headers={"crit": ["exp"]}),
    "crit of something": lambda: signed(headers={"crit": ["b64"], "b64": False}),
    "no exp": lambda: signed(exp=None),
    "no sub": lambda: signed(sub=None),
    "sub a number": lambda: jwt.encode({"sub": 7, "exp": time.time() + 60}, KEY, algorithm="HS256"),
    "sub empty": lambda: signed(sub=""),
    "sub too long": lambda: signed(sub="x" * 257),
    "sub with a line break": lambda: signed(sub="a\nb"),
    "exp a text": lambda: jwt.encode({"sub": "alice", "exp": "later"}, KEY, algorithm="HS256"),
    "exp endless": lambda: forged({"alg": "HS256"}, {"sub": "alice", "exp": 1e400}),
    "run out": lambda: signed(exp=time.time() - 61),
    "not yet": lambda: signed(nbf=time.time() + 120),
    "not JSON": lambda: "e30.e30x.e30",
    "deep": lambda: base64.urlsafe_b64encode(b"[" * 2900).decode().rstrip("=") + ".a.b",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_tokens_are_refused(make: Any) -> None:
    """Whatever is wrong with a signed token, it names nobody."""
    with pytest.raises(Unauthorized):
        identify(SignedTokens("HS256", [KEY]), make())


def test_a_public_key_is_no_secret() -> None:
    """A token that is signed with our public RSA key as if that were a secret is refused."""
    public = pem(RSA.public_key())
    head = forged({"alg": "HS256"}).rpartition(".")[0]
    mac = base64.urlsafe_b64encode(hmac.digest(public, head.encode(), hashlib.sha256)).rstrip(b"=").decode()
    with pytest.raises(Unauthorized):
        identify(SignedTokens("RS256", [public]), f"{head}.{mac}")


def test_audience_and_issuer_must_be_ours_where_set() -> None:
    """Where they are set, a token must be for us and by the right one; where not, they do not matter."""
    strict = SignedTokens("HS256", [KEY], audience="us", issuer="them")
    assert identify(strict, signed(aud="us", iss="them")) is not None
    for claims in ({}, {"aud": "us"}, {"aud": "other", "iss": "them"}, {"aud": "us", "iss": "other"}):
        with pytest.raises(Unauthorized):
            identify(strict, signed(**claims))
    assert identify(SignedTokens("HS256", [KEY]), signed(aud="any", iss="any")) is not None


def test_clocks_may_differ_by_a_minute() -> None:
    """A token that ran out less than a minute ago is taken for good."""
    assert identify(SignedTokens("HS256", [KEY]), signed(exp=time.time() - 50)) is not None


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("HS256", b"short"),
        ("HS256", KEY[:31]),
        ("HS256", pem(RSA.public_key())),
        ("RS256", KEY),
        ("RS256", private_pem(RSA)),
        ("EdDSA", pem(RSA.public_key())),
        ("EdDSA", private_pem(ED)),
        ("EdDSA", b"nothing"),
    ],
)
def test_weak_and_wrong_keys_are_refused(algorithm: str, key: bytes) -> None:
    """A key that is too short, of another kind or secret where a public one is meant does not start."""
    with pytest.raises(ConfigError) as refused:
        SignedTokens(algorithm, [key])
    assert key.decode(errors="replace") not in str(refused.value)


# -- hooks and configuration


async def by_name(visitor: Visitor) -> Identity | None:
    """A hook that believes everybody."""
    return None if visitor.token is None else Identity(visitor.token)


def test_a_function_is_a_hook() -> None:
    """An asynchronous function of a visitor is enough, but what it names must be a user's name."""
    hook = Hook(f"{__name__}:by_name", Lengths(user=5))
    assert identify(hook, "carol") == Identity("carol")
    for name in ("a\nb", "caroline"):
        with pytest.raises(Unauthorized):
            identify(hook, name)


async def test_the_hook_of_the_documentation() -> None:
    """What docs/security.md shows knows alice by her token, and nobody else."""
    text = (Path(__file__).parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.partition("```python hook\n")[2].partition("```")[0], names)
    assert await names["who"](Visitor({}, "", "at-least-sixteen-characters")) == Identity("alice")
    assert await names["who"](Visitor({}, "")) is None


def at_once(visitor: Visitor) -> Identity | None:
    """A hook that need not wait."""
    return None if visitor.token is None else Identity(visitor.token)


@pytest.mark.parametrize("name", ["by_name", "at_once"])
async def test_a_hook_is_shown_the_token_wherever_it_was(name: str) -> None:
    """A bearer token in a header is the visitor's token as one in a hello is, for a hook that waits and one that does
    not; what else is in the header is left as it is."""
    hook = Hook(f"{__name__}:{name}")
    header = Visitor({"authorization": "Bearer  carol "}, "")
    assert await hook.identify(header) == await hook.identify(Visitor({}, "", "carol")) == Identity("carol")
    assert await hook.identify(header._replace(token="dave")) == Identity("dave")
    for other in ("Basic Y2Fyb2w6", "Bearer ", ""):
        assert await hook.identify(Visitor({"authorization": other}, "")) is None


@pytest.mark.parametrize("path", ["nowhere:thing", "json:nothing", "json", ":x", "json:__name__"])
def test_hooks_that_are_none(path: str) -> None:
    """A hook that cannot be found, or is not a function, does not start."""
    with pytest.raises(ConfigError, match="identity_hook"):
        Hook(path)


def test_secrets_come_from_files_and_variables(tmp_path: Path) -> None:
    """Keys are read from a file or a variable; what is set up first is asked first."""
    key = tmp_path / "key"
    key.write_bytes(KEY + b"\n")
    (by_file,) = configured(Config(jwt_key_file=str(key)), {})
    (by_variable,) = configured(Config(), {"WSSTREAM_JWT_KEY": KEY.decode()})
    token = signed()
    assert identify(by_file, token) == identify(by_variable, token)
    rotating = configured(Config(jwt_key_file=str(key)), {"WSSTREAM_JWT_PREVIOUS_KEY": OLD_KEY.decode()})
    assert identify(rotating[0], signed(OLD_KEY)) is not None
    assert configured(Config(), {}) == []
    with pytest.raises(ConfigError, match="tokens_file"):
        configured(Config(tokens_file=str(tmp_path / "none")), {})


@pytest.mark.parametrize(
    ("name", "fine"), [("a", True), ("a" * 256, True), ("", False), ("a" * 257, False), ("a\x1b", False)]
)
def test_names_of_users(name: str, fine: bool) -> None:
    """A user's name has 1 to 256 printable characters."""
    assert is_user(name) is fine


@pytest.mark.parametrize("most", [64, MAX_TOKEN, 2 * MAX_TOKEN])
@pytest.mark.parametrize(("times", "more", "taken"), [(1, 0, True), (1, 1, False), (10, 0, False)])
def test_the_longest_token(most: int, times: int, more: int, *, taken: bool) -> None:
    """A token has as many characters as may be; one that has more, few or many, is refused unread."""
    size = times * most + more
    visitor = Visitor({"authorization": "Bearer " + "t" * size}, "here")
    if taken:
        assert credential(visitor, most) == "t" * size
    else:
        with pytest.raises(Unauthorized):
            credential(visitor, most)


def test_lengths_are_what_is_set() -> None:
    """A file of tokens holds none that could not be shown, and no name that nobody could have."""
    short = Lengths.of(Config(max_token_chars=64, max_user_chars=5))
    assert short == (64, 5)
    assert Lengths.of(Config()) == USUAL
    for name, size in (("alice", 65), ("alicia", 64)):
        text = f'[users]\n{name} = "{"x" * size}"\n'
        StaticTokens(text, "it")
        with pytest.raises(ConfigError):
            StaticTokens(text, "it", lengths=short)
    text = f'[users]\nalice = "{"x" * 64}"\n'
    assert identify(StaticTokens(text, "it", lengths=short), "x" * 64) is not None
    for kind in (StaticTokens(text, "it", lengths=short), SignedTokens("HS256", [KEY], lengths=short)):
        with pytest.raises(Unauthorized):
            identify(kind, "x.y.z" * 20)


def test_every_kind_of_credential_is_held_to_what_is_set(tmp_path: Path) -> None:
    """What is set for tokens and names counts wherever they come from: a file, a variable, a key, a hook."""
    file = tmp_path / "tokens.toml"
    file.write_text(f'[users]\nalice = "{"x" * 64}"\n', encoding="utf-8")
    hook = f"{__name__}:always_alice"
    ways: list[tuple[dict[str, str], dict[str, str], str]] = [
        ({"tokens_file": str(file)}, {}, "x" * 64),
        ({}, {"WSSTREAM_TOKENS": file.read_text(encoding="utf-8")}, "x" * 64),
        ({}, {"WSSTREAM_JWT_KEY": KEY.decode()}, signed()),
        ({"identity_hook": hook}, {}, "x" * 64),
    ]

    def who(config: Config, environ: dict[str, str], token: str) -> Identity | None:
        (kind,) = configured(config, environ)
        return identify(kind, token)

    for settings, environ, token in ways:
        assert who(Config(max_user_chars=5, **settings), environ, token) is not None  # type: ignore[arg-type]
        with pytest.raises((ConfigError, Unauthorized)):
            who(Config(max_user_chars=4, **settings), environ, token)  # type: ignore[arg-type]
    with pytest.raises(Unauthorized):
        who(Config(max_token_chars=64), {"WSSTREAM_JWT_KEY": KEY.decode()}, signed())


def always_alice(visitor: Visitor) -> Identity:
    """A hook that knows one user."""
    return Identity("alice")


def test_the_longest_name_that_somebody_else_gives() -> None:
    """A signed token for a longer name is not good, however well signed."""
    for most, taken in ((5, True), (4, False)):
        tokens = SignedTokens("HS256", [KEY], lengths=Lengths(user=most))
        if taken:
            assert identify(tokens, signed(sub="alice")) is not None
        else:
            with pytest.raises(Unauthorized):
                identify(tokens, signed(sub="alice"))
