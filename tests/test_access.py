"""The gate, and the streams behind it as one caller's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.house import House, asked
from tests.virtual import in_virtual_time, turns
from wsstream.access import PATROL, Access, Guard, Patrol, within_limits
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
    ConfigError,
    Forbidden,
    LogTrimmed,
    MalformedMessage,
    RateLimited,
    RequestError,
    Unauthorized,
    UnknownStream,
)
from wsstream.flow import SendWindow
from wsstream.identity import Identity
from wsstream.messages import ChatConfig
from wsstream.registry import Registry
from wsstream.wires.base import Visitor, counted_address

ALICE, BOB, SHOP = "alice-token-0123456789", "bob-token-0123456789", "shop-token-0123456789"
TOKENS = f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n[applications]\nshop = "{SHOP}"\n'


def bearer(token: str, **headers: str) -> Visitor:
    """Somebody who shows ``token`` in a header."""
    return Visitor({"authorization": f"Bearer {token}", **headers}, "192.0.2.7")


class Tenants(House):
    """Streams behind a gate that knows two users and an application."""

    def __init__(self, tokens: str = TOKENS, **settings: Any) -> None:
        super().__init__(**settings)
        config = Config(**{"store": "memory:", **settings})
        self.guard = Guard(config, {"WSSTREAM_TOKENS": tokens} if tokens else {})
        self.guard.streams = self.streams

    async def enter(self, token: str) -> Access:
        """What that user sees."""
        return await self.guard.enter(bearer(token))

    def rejected(self, reason: str) -> int:
        """How many were turned away for that."""
        return self.guard.rejections.statistics()[reason]


@asynccontextmanager
async def tenants(**settings: Any) -> AsyncIterator[Tenants]:
    """Two tenants; nothing runs on behind them."""
    it = Tenants(**settings)
    yield it
    await it.streams.close()
    await turns()


# -- coming in


@in_virtual_time
async def test_whoever_shows_nothing_good_stays_outside() -> None:
    """Without a credential, with a wrong one, and with another scheme, nobody comes in, and it is counted."""
    async with tenants() as t:
        for visitor in (Visitor({}, ""), bearer("wrong-token-0123456789"), Visitor({"authorization": "Basic x"}, "")):
            with pytest.raises(Unauthorized):
                await t.guard.enter(visitor)
        assert t.rejected("unauthorized") == 3


LONG = "l" * 100


@pytest.mark.parametrize(("size", "taken"), [(100, True), (101, False), (1000, False)])
@in_virtual_time
async def test_max_token_chars(size: int, *, taken: bool) -> None:
    """A token of as many characters as max_token_chars is looked at; a longer one is refused, and that is counted."""
    shown = LONG + "l" * (size - 100)
    async with tenants(tokens=f'[users]\nlong = "{LONG}"\n', max_token_chars=100) as t:
        with nullcontext() if taken else pytest.raises(Unauthorized):
            assert (await t.enter(shown)).user == "long"
        assert t.rejected("unauthorized") == int(not taken)


@pytest.mark.parametrize(("size", "taken"), [(100, True), (101, False), (1000, False)])
@in_virtual_time
async def test_a_hook_is_shown_no_longer_token(size: int, *, taken: bool) -> None:
    """What is longer than max_token_chars is nobody's to look at, an operator's own hook included."""
    seen.clear()
    guard = Guard(Config(identity_hook=f"{__name__}:notice", max_token_chars=100), {})
    with nullcontext() if taken else pytest.raises(Unauthorized):
        await guard.identify(bearer("t" * size))
    assert len(seen) == int(taken)


seen: list[Visitor] = []


def notice(visitor: Visitor) -> Identity:
    """A hook that remembers whom it was asked about."""
    seen.append(visitor)
    return Identity("carol")


@pytest.mark.parametrize("name", ["request_id", "session_id"])
@in_virtual_time
async def test_max_name_chars(name: str) -> None:
    """A name of a request or a session has as many characters as max_name_chars; a longer one is malformed."""
    async with tenants(max_name_chars=64) as t:
        access = await t.enter(ALICE)
        for size, taken in ((64, True), (65, False), (640, False)):
            names = {"request_id": "r", "session_id": "ses", name: "n" * size}
            with nullcontext() if taken else pytest.raises(MalformedMessage, match=f"<= 64 - at `\\$.{name}`"):
                access.start(names["session_id"], asked(names["request_id"]))


@in_virtual_time
async def test_a_token_in_a_hello_wins_over_the_header() -> None:
    """The token of a hello is looked at, not the header beside it."""
    async with tenants() as t:
        access = await t.guard.enter(bearer(BOB)._replace(token=ALICE))
        assert access.user == "alice"


@in_virtual_time
async def test_anonymous_is_let_in_beside_users_only_where_allowed() -> None:
    """With allow_anonymous nobody in particular comes in, but never somebody with a bad credential."""
    async with tenants(allow_anonymous=True) as t:
        assert (await t.guard.enter(Visitor({}, ""))).user == ""
        with pytest.raises(Unauthorized):
            await t.guard.enter(bearer("wrong-token-0123456789"))


@in_virtual_time
async def test_without_credentials_everybody_is_nobody() -> None:
    """A server that is told of no credentials lets everybody in, whatever they show."""
    async with tenants(tokens="") as t:
        assert (await t.guard.enter(bearer("anything"))).user == ""


def test_a_public_address_without_credentials_is_refused() -> None:
    """A server that others reach and that asks nobody does not start, unless it is told to."""
    with pytest.raises(ConfigError, match="allow-anonymous"):
        Guard(Config(host="0.0.0.0"), {})
    Guard(Config(host="0.0.0.0", allow_anonymous=True), {})
    Guard(Config(host="0.0.0.0"), {"WSSTREAM_TOKENS": TOKENS})
    Guard(Config(host="127.0.0.2"), {})


ANYWHERE = {"host": "0.0.0.0", "allow_anonymous": True}
REBOUND = Visitor({"host": "evil.example:8765", "origin": "http://evil.example:8765"}, "")


@pytest.mark.parametrize(
    ("settings", "environ", "is_checked"),
    [
        ({}, {}, True),
        (ANYWHERE, {}, True),
        (ANYWHERE, {"WSSTREAM_TOKENS": TOKENS}, True),
        ({"host": "0.0.0.0"}, {"WSSTREAM_TOKENS": TOKENS}, False),
        ({**ANYWHERE, "trusted_proxies": "10.0.0.0/8"}, {}, False),
        ({**ANYWHERE, "allowed_origins": "http://evil.example:8765"}, {}, False),
    ],
    ids=["at home", "in a container", "users or not", "users", "behind a proxy", "listed"],
)
def test_names_are_checked_where_anybody_may_come(
    settings: dict[str, Any], environ: dict[str, str], is_checked: bool
) -> None:
    """Wherever no credential is needed, a page cannot come in by giving its own name our address."""
    guard = Guard(Config(**settings), environ)
    with pytest.raises(Forbidden) if is_checked else nullcontext():
        guard.look_at(REBOUND)
    assert guard.rejections.statistics()["host"] == is_checked


class Hook:
    """An operator's own: the cookie names the user."""

    gone: ClassVar[set[str]] = set()

    async def identify(self, visitor: Visitor) -> Identity | None:
        """By cookie."""
        await asyncio.sleep(0)
        user = visitor.headers.get("cookie")
        return None if user is None else Identity(user)

    def is_revoked(self, identity: Identity) -> bool:
        """Whoever is on the list."""
        return identity.user in self.gone


@in_virtual_time
async def test_a_cookie_counts_only_beside_a_page_that_may() -> None:
    """A hook sees a cookie when the page was checked, and none where no page has sent it."""
    async with tenants(tokens="", identity_hook=f"{__name__}:Hook") as t:
        own = {"host": "chat.example", "origin": "https://chat.example", "cookie": "alice"}
        assert (await t.guard.enter(Visitor(own, ""))).user == "alice"
        with pytest.raises(Unauthorized):
            await t.guard.enter(Visitor({"host": "chat.example", "cookie": "alice"}, ""))
        with pytest.raises(Forbidden):
            await t.guard.enter(Visitor({**own, "origin": "https://evil.example"}, ""))
        assert t.rejected("origin") == 1


@in_virtual_time
async def test_the_revoked_are_refused_on_resume_and_shown_out_by_the_patrol(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is revoked can neither come in nor resume, and their connections end within a minute."""
    monkeypatch.setattr(Hook, "gone", set())
    async with tenants(tokens="", identity_hook=f"{__name__}:Hook") as t:
        alice = await t.guard.enter(Visitor({"host": "h", "origin": "http://h", "cookie": "alice"}, ""))
        stream = alice.start("ses", asked("r"))
        registry = Registry(10, rejections=t.guard.rejections)
        member = Leaving(registry, alice)
        registry.admit(member)
        patrol = Patrol(t.guard, registry)
        patrol.begin()
        await asyncio.sleep(PATROL + 1)
        assert member.closed == []
        Hook.gone.add("alice")
        with pytest.raises(Forbidden):
            alice.resume(stream.stream_id)
        await asyncio.sleep(PATROL)
        assert member.closed == [3003]
        assert PATROL <= 60
        patrol.close()
        assert t.rejected("revoked") == 2


class Leaving:
    """A connection that can be told to go."""

    connection_id = "c"
    session_key = None

    def __init__(self, registry: Registry, access: object) -> None:
        self.access = access
        self.closed: list[int] = []

    def close(self, code: int, reason: str) -> None:
        """Remember it."""
        self.closed.append(code)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@in_virtual_time
async def test_a_token_that_is_taken_out_of_the_file_is_revoked(tmp_path: Path) -> None:
    """The file is read again when it has changed; a broken one changes nothing."""
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    async with tenants(tokens="", tokens_file=str(path)) as t:
        alice = await t.enter(ALICE)
        path.write_text("[users")
        t.guard.refresh()
        assert not t.guard.is_revoked(alice.identity)
        path.write_text(f'[users]\nbob = "{BOB}"\n')
        t.guard.refresh()
        assert t.guard.is_revoked(alice.identity)
        with pytest.raises(Unauthorized):
            await t.enter(ALICE)


# -- whose is what


@in_virtual_time
async def test_a_strangers_stream_looks_like_none() -> None:
    """Running, ended and forgotten streams of somebody else are answered exactly like ids that never were."""
    async with tenants(retention=5.0) as t:
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        running = alice.start("ses", asked("r1"))
        await turns()
        forgotten = alice.start("ses", asked("r2"))
        await turns()
        await t.provider.end()
        await asyncio.sleep(6)
        with pytest.raises(LogTrimmed):
            alice.get(forgotten.stream_id)
        seen = set()
        for stream_id in (running.stream_id, forgotten.stream_id, "s_never"):
            for ask in (bob.get, bob.resume):
                with pytest.raises(UnknownStream) as refused:
                    ask(stream_id)
                seen.add((type(refused.value), str(refused.value)))
        assert len(seen) == 1


@in_virtual_time
async def test_sessions_of_one_name_are_each_users_own() -> None:
    """Two users may call their sessions the same: streams, requests, history, titles and deletion stay apart."""
    async with tenants() as t:
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        hers, his = alice.start("ses", asked("r")), bob.start("ses", asked("r"))
        assert hers is not his
        assert alice.start("ses", asked("r")) is hers
        assert [stream.stream_id for stream in bob.of_session("ses")] == [his.stream_id]
        assert [info.stream_id for info in bob.running_in("ses")] == [his.stream_id]
        alice.rename_session("ses", "hers", lambda _: None)
        assert (await alice.history("ses"))[1] == "hers"
        assert (await bob.history("ses"))[1] is None
        bob.delete_session("ses", lambda: None)
        await turns()
        assert (await bob.history("ses"))[0] == []
        assert len((await alice.history("ses"))[0]) == 2
        assert not hers.log.state.final
        assert alice.session_key("ses") != bob.session_key("ses")


@in_virtual_time
async def test_what_is_nobodys_belongs_to_who_knows_its_id() -> None:
    """A stream that nobody in particular began can be followed by its id."""
    async with tenants(allow_anonymous=True) as t:
        nobody = await t.guard.enter(Visitor({}, ""))
        stream = nobody.start("ses", asked("r"))
        assert (await t.enter(ALICE)).get(stream.stream_id) is stream


# -- limits: at the limit, one past it, ten times past it


@in_virtual_time
async def test_starts_are_limited_and_cancelled_ones_are_not_given_back() -> None:
    """Five answers at once and ten a minute; cancelling them frees nothing, asking the same again costs nothing."""
    async with tenants(max_running_per_user=1000) as t:
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        for number in range(5):
            alice.cancel(alice.start("ses", asked(f"r{number}")))
        for number in range(50):
            with pytest.raises(RateLimited) as refused:
                alice.start("ses", asked(f"more{number}"))
        assert 0 < (refused.value.retry_after or 0) <= 6
        assert t.rejected("starts_per_user") == 50
        assert t.streams.statistics().started == 5
        alice.start("ses", asked("r0"))
        bob.start("ses", asked("r"))
        await asyncio.sleep(6.01)
        alice.start("ses", asked("later"))


@in_virtual_time
async def test_one_address_is_limited_whatever_its_users() -> None:
    """Many users of one address share a larger bucket."""
    async with tenants(starts_per_minute=1000, starts_burst=1000, starts_per_address=4, max_running_per_user=100) as t:
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        alice.start("ses", asked("r"))
        bob.start("ses", asked("r"))
        with pytest.raises(RateLimited):
            alice.start("ses", asked("r2"))
        assert t.rejected("starts_per_address") == 1


@pytest.mark.parametrize(
    ("addresses", "limited"),
    [
        (("2001:db8::1", "2001:db8::ffff:2"), True),
        (("2001:db8::1", "2001:db8:0:1::1"), False),
        (("::ffff:192.0.2.1", "192.0.2.1"), True),
        (("::ffff:192.0.2.1", "::ffff:192.0.2.2"), False),
        (("192.0.2.1", "192.0.2.2"), False),
    ],
)
@in_virtual_time
async def test_who_has_many_addresses_has_one_account(addresses: tuple[str, str], *, limited: bool) -> None:
    """All addresses of one network of IPv6 are charged as one, and one of IPv4 as itself, whatever socket has it."""
    async with tenants(tokens="", allow_anonymous=True, host="0.0.0.0", starts_burst=1) as t:
        first, second = [await t.guard.enter(Visitor({}, address)) for address in addresses]
        first.start("ses", asked("r"))
        if limited:
            with pytest.raises(RateLimited):
                second.start("ses", asked("r2"))
        else:
            second.start("ses", asked("r2"))


@pytest.mark.parametrize(
    ("remote", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("local", ""),
    ],
)
def test_addresses_as_connections_are_counted(remote: str, counted: str) -> None:
    """By network, IPv4 by itself, and this machine not at all, in whatever form a socket has them."""
    assert counted_address(remote) == counted


@in_virtual_time
async def test_running_answers_of_one_user_are_limited() -> None:
    """The fifth answer of a user waits; where none may wait, it is refused, and others are not concerned."""
    async with tenants(starts_burst=100, max_queued=1) as t:
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        for number in range(4):
            alice.start("ses", asked(f"r{number}"))
        assert alice.start("ses", asked("r5")).log.state == "queued"
        with pytest.raises(RequestError) as refused:
            alice.start("ses", asked("r6"))
        assert refused.value.error_type == "queue_full"
        assert bob.start("ses", asked("r")).log.state == "running"


@in_virtual_time
async def test_unknown_streams_may_be_asked_for_ten_times() -> None:
    """Guessing ids ends after ten a minute, and what is known is still found."""
    async with tenants() as t:
        alice = await t.enter(ALICE)
        stream = alice.start("ses", asked("r"))
        for _ in range(10):
            with pytest.raises(UnknownStream):
                alice.get("s_guess")
        for _ in range(100):
            with pytest.raises(RateLimited):
                alice.get("s_guess")
        assert alice.get(stream.stream_id) is stream
        assert t.rejected("lookups") == 100


@in_virtual_time
async def test_reading_again_and_again_is_limited_by_bytes() -> None:
    """Whoever has read more than their bytes is refused until they have come together again."""
    async with tenants(replay_per_minute=10_000) as t:
        t.provider.text = "x" * 6000
        alice, bob = await t.enter(ALICE), await t.enter(BOB)
        stream = alice.start("ses", asked("r"))
        await turns()
        for _ in range(2):
            alice.attach(alice.resume(stream.stream_id), SendWindow(50, 1 << 20), lambda _: None)
        with pytest.raises(RateLimited) as refused:
            alice.resume(stream.stream_id)
        assert (refused.value.retry_after or 0) > 1
        alice.get(stream.stream_id)
        with pytest.raises(UnknownStream):
            bob.resume(stream.stream_id)
        await asyncio.sleep(60)
        alice.resume(stream.stream_id)
        assert t.rejected("replay") == 1


@in_virtual_time
async def test_at_home_nobody_is_counted() -> None:
    """On a loopback address without credentials the quotas are off, unless one is set."""
    async with tenants(tokens="") as t:
        me = await t.guard.enter(Visitor({}, "127.0.0.1"))
        for number in range(100):
            me.start("ses", asked(f"r{number}"))
        for _ in range(100):
            with pytest.raises(UnknownStream):
                me.get("s_guess")
    async with tenants(tokens="", starts_per_minute=60, starts_burst=2) as t:
        me = await t.guard.enter(Visitor({}, "127.0.0.1"))
        me.start("ses", asked("a"))
        me.start("ses", asked("b"))
        with pytest.raises(RateLimited):
            me.start("ses", asked("c"))


def test_tokens_are_clamped() -> None:
    """The ceiling is given to the provider where a request asks for more or for none, and less stays less."""
    config = Config(max_output_tokens=100)
    for wish, given in ((None, 100), (50, 50), (100, 100), (101, 100), (1000, 100)):
        clamped = within_limits(asked("r", config=ChatConfig(max_tokens=wish)), config, frozenset())
        assert clamped.config is not None
        assert clamped.config.max_tokens == given
    assert within_limits(asked("r"), Config(), frozenset()).config is None


def test_models_and_messages_are_limited() -> None:
    """Only listed models may be named, and only so many messages given."""
    within_limits(asked("r", model="good"), Config(), frozenset({"good"}))
    within_limits(asked("r"), Config(), frozenset({"good"}))
    with pytest.raises(BadRequest):
        within_limits(asked("r", model="dear"), Config(), frozenset({"good"}))


@in_virtual_time
async def test_tickets_are_for_oneself_or_from_an_application() -> None:
    """A user gets a ticket for themselves only, an application for anybody; each is good once, in a hello."""
    async with tenants() as t:
        alice, shop = await t.enter(ALICE), await t.enter(SHOP)
        own, _ = t.guard.issue_ticket(alice, None)
        theirs, lifetime = t.guard.issue_ticket(shop, "carol")
        assert lifetime <= 30
        with pytest.raises(Forbidden):
            t.guard.issue_ticket(alice, "bob")
        with pytest.raises(BadRequest):
            t.guard.issue_ticket(shop, "a\nb")
        assert (await t.guard.enter(Visitor({}, "", own))).user == "alice"
        carol = await t.guard.enter(Visitor({}, "", theirs))
        assert (carol.user, carol.identity.is_application) == ("carol", False)
        with pytest.raises(Forbidden):
            t.guard.issue_ticket(carol, "bob")
        for used in (own, theirs):
            with pytest.raises(Unauthorized):
                await t.guard.enter(Visitor({}, "", used))


@in_virtual_time
async def test_validity_is_told_in_the_servers_own_clock() -> None:
    """An identity that expires gives streams that are valid that long."""
    async with tenants() as t:
        access = Access(t.guard, Identity("alice", time.time() + 100), "")
        assert access.valid_until is not None
        assert 99 < access.valid_until - time.monotonic() <= 100
