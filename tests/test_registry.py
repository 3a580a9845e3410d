"""The live connections: admitted up to a limit, told to go, counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.errors import CloseCode, RateLimited
from wsstream.registry import ConnectionInfo, Registry


class Member:
    """A connection that remembers what it was told."""

    def __init__(self, connection_id: str, registry: Registry | None = None) -> None:
        self.connection_id = connection_id
        self.registry = registry
        self.told: list[tuple[int, int]] = []
        self.closed: list[tuple[int, str]] = []
        self.session_key: str | None = None
        self.access: object = None
        self.changes: list[object] = []

    def statistics(self) -> ConnectionInfo:
        """Nothing much."""
        return ConnectionInfo(self.connection_id, None, None, "local", 0.0, 0, 0, 0, None)

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Remember it."""
        self.told.append((deadline_ms, reconnect_after_ms))

    def tell_session_changed(self, change: object) -> None:
        """Remember it."""
        self.changes.append(change)

    def close(self, code: int, reason: str) -> None:
        """Remember it, and leave."""
        self.closed.append((code, reason))
        if self.registry is not None:
            self.registry.remove(self)


@in_virtual_time
async def test_admits_up_to_its_limit() -> None:
    """No more connections are let in than the limit; when one leaves, the next may come."""
    registry = Registry(2)
    first, second, third = Member("a"), Member("b"), Member("c")
    assert [registry.admit(first), registry.admit(second), registry.admit(third)] == [True, True, False]
    registry.remove(first)
    assert registry.admit(third)
    assert (len(registry), list(registry)) == (2, [second, third])
    assert (registry.get("c"), registry.get("a")) == (third, None)


@in_virtual_time
async def test_counts() -> None:
    """The statistics tell how many are here, were here at once, came in all and were refused."""
    registry = Registry(2)
    members = [Member(name) for name in "abc"]
    for member in members:
        registry.admit(member)
    registry.remove(members[0])
    registry.remove(members[0])
    assert registry.statistics()[:4] == (1, 2, 2, 1)


@in_virtual_time
async def test_waits_until_nobody_is_left() -> None:
    """Waiting for an empty house ends when the last one leaves, and at once where nobody is."""
    registry = Registry(5)
    await registry.wait_empty()
    first, second = Member("a"), Member("b")
    registry.admit(first)
    registry.admit(second)
    waiting = asyncio.create_task(registry.wait_empty())
    registry.remove(first)
    await turns()
    assert not waiting.done()
    registry.remove(second)
    await waiting


@in_virtual_time
async def test_a_drain_tells_everybody_and_lets_nobody_in() -> None:
    """At the end everybody is told the deadline and a moment of its own to come back; nobody new is let in."""
    registry = Registry(500)
    members = [Member(str(n)) for n in range(200)]
    for member in members:
        registry.admit(member)
    registry.announce_drain(10.0, spread=5.0)
    assert all(len(member.told) == 1 and member.told[0][0] == 10_000 for member in members)
    moments = [member.told[0][1] for member in members]
    assert all(100 <= moment <= 5000 for moment in moments)
    assert len(set(moments)) > 100
    assert max(moments) - min(moments) > 3000
    assert not registry.admit(Member("late"))
    assert registry.draining


@in_virtual_time
async def test_a_session_is_told_of_its_changes() -> None:
    """What somebody does to a session is told to the other connections of that session, and to nobody else."""
    registry = Registry(5)
    members = [Member(name) for name in "abcd"]
    for member, session_id in zip(members, ["s", "s", "s", "t"], strict=True):
        registry.admit(member)
        member.session_key = session_id
        registry.join(member)
    registry.tell_session_changed("s", "renamed", besides="a")
    registry.remove(members[1])
    registry.tell_session_changed("s", "deleted", besides="d")
    registry.tell_session_changed("u", "unknown", besides="d")
    assert [member.changes for member in members] == [["deleted"], ["renamed"], ["renamed", "deleted"], []]


@in_virtual_time
async def test_keeps_nothing_of_those_who_left() -> None:
    """When the last connection of a session is gone, the session is not known here any more."""
    registry = Registry(5)
    for name in "abc":
        member = Member(name, registry)
        registry.admit(member)
        member.session_key = "s"
        registry.join(member)
    registry.close_all()
    assert not registry._sessions


@pytest.mark.parametrize("code", [None, CloseCode.TRY_AGAIN_LATER])
@in_virtual_time
async def test_closes_everybody(code: int | None) -> None:
    """Everybody is closed, as a restart unless said otherwise, even though they leave while it is done."""
    registry = Registry(5)
    members = [Member(name, registry) for name in "abc"]
    for member in members:
        registry.admit(member)
    if code is None:
        registry.close_all()
    else:
        registry.close_all(code, "busy")
    expected = (1012, "service restart") if code is None else (1013, "busy")
    assert [member.closed for member in members] == [[expected]] * 3
    await registry.wait_empty()


@in_virtual_time
async def test_each_address_has_its_share() -> None:
    """At the limit of an address one more is refused, ten more are, others are not, and who leaves makes room."""
    registry = Registry(1000, per_address=2)
    members = [Member(str(number)) for number in range(20)]
    for member in members[:2]:
        assert registry.admit(member, "192.0.2.1")
    for member in members[2:12]:
        with pytest.raises(RateLimited):
            registry.admit(member, "192.0.2.1")
    assert registry.admit(members[12], "192.0.2.2")
    assert all(registry.admit(member, "") for member in members[13:])
    registry.remove(members[0])
    assert registry.admit(members[2], "192.0.2.1")
    assert registry.rejections.statistics()["connections_per_address"] == 10


@in_virtual_time
async def test_those_who_have_not_said_hello_have_a_smaller_share() -> None:
    """An address may have few connections that nobody knows; one that has said who it is counts no more among them."""
    registry = Registry(1000, greeting=1)
    first, second = Member("a"), Member("b")
    registry.admit(first, "192.0.2.1")
    with pytest.raises(RateLimited):
        registry.admit(second, "192.0.2.1")
    registry.join(first)
    assert registry.admit(second, "192.0.2.1")
    assert registry.rejections.statistics()["greeting_per_address"] == 1


@in_virtual_time
async def test_each_user_has_their_share() -> None:
    """At the limit of a user one more is refused and ten more are; nobody in particular is not counted."""
    registry = Registry(1000, per_user=2)
    members = [Member(str(number)) for number in range(20)]
    for member in members:
        registry.admit(member)
    for member in members[:2]:
        registry.join(member, "alice")
    for member in members[2:12]:
        with pytest.raises(RateLimited):
            registry.join(member, "alice")
    registry.join(members[12], "bob")
    for member in members[13:]:
        registry.join(member, "")
    registry.remove(members[0])
    registry.join(members[2], "alice")
    assert registry.rejections.statistics()["connections_per_user"] == 10
