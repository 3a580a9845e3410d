"""Tickets: good once, for half a minute, and not too many of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual import in_virtual_time
from wsstream.errors import RateLimited, Unauthorized
from wsstream.identity import Identity
from wsstream.tickets import MAX_PER_USER, Tickets
from wsstream.wires.base import Visitor

ALICE = Identity("alice")


async def use(tickets: Tickets, ticket: str) -> Identity | None:
    """Show it in a hello."""
    return await tickets.identify(Visitor({}, "", ticket))


@in_virtual_time
async def test_a_ticket_is_good_once() -> None:
    """Of a hundred who show the same ticket at once, one comes in."""
    tickets = Tickets(30)
    ticket, lifetime = tickets.issue(ALICE)
    found = await asyncio.gather(*(use(tickets, ticket) for _ in range(100)), return_exceptions=True)
    assert found.count(ALICE) == 1
    assert sum(isinstance(one, Unauthorized) for one in found) == 99
    assert (lifetime, len(tickets)) == (30, 0)


@in_virtual_time
async def test_a_ticket_runs_out() -> None:
    """After its time it is good no more, and is not kept."""
    tickets = Tickets(30)
    early, late = tickets.issue(ALICE)[0], tickets.issue(ALICE)[0]
    await asyncio.sleep(29)
    assert await use(tickets, early) == ALICE
    await asyncio.sleep(2)
    with pytest.raises(Unauthorized):
        await use(tickets, late)
    assert len(tickets) == 0


@in_virtual_time
async def test_a_ticket_in_a_header_is_burnt() -> None:
    """A ticket is for a hello; shown elsewhere it names nobody, and is used up."""
    tickets = Tickets(30)
    ticket, _ = tickets.issue(ALICE)
    with pytest.raises(Unauthorized):
        await tickets.identify(Visitor({"authorization": f"Bearer {ticket}"}, ""))
    with pytest.raises(Unauthorized):
        await use(tickets, ticket)


@in_virtual_time
async def test_burnt_tickets_are_not_counted() -> None:
    """Whoever shows tickets where they are none gets others: only unused ones keep somebody from more."""
    tickets = Tickets(30)
    for _ in range(2 * MAX_PER_USER):
        ticket, _ = tickets.issue(ALICE)
        with pytest.raises(Unauthorized):
            await tickets.identify(Visitor({"authorization": f"Bearer {ticket}"}, ""))
    assert len(tickets) == 0


@in_virtual_time
async def test_other_credentials_are_left_to_others() -> None:
    """What is no ticket is not decided here."""
    assert await use(Tickets(30), "another-kind") is None
    assert await Tickets(30).identify(Visitor({}, "")) is None


@in_virtual_time
async def test_unused_tickets_are_limited() -> None:
    """A user has so many unused tickets and not one more; used and old ones do not count."""
    tickets = Tickets(30)
    issued = [tickets.issue(ALICE)[0] for _ in range(MAX_PER_USER)]
    for _ in range(10):
        with pytest.raises(RateLimited):
            tickets.issue(ALICE)
    tickets.issue(Identity("bob"))
    await use(tickets, issued[0])
    tickets.issue(ALICE)
    await asyncio.sleep(31)
    tickets.issue(ALICE)
    assert len(tickets) == 1


@pytest.mark.parametrize(("seconds", "good"), [(10, True), (11, False), (100, False)])
@in_virtual_time
async def test_ticket_lifetime(seconds: int, *, good: bool) -> None:
    """A ticket is good for its lifetime, and neither a moment nor ten times as long."""
    tickets = Tickets(10.5)
    ticket = tickets.issue(ALICE)[0]
    await asyncio.sleep(seconds)
    if good:
        assert await use(tickets, ticket) == ALICE
    else:
        with pytest.raises(Unauthorized):
            await use(tickets, ticket)
