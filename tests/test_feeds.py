"""Logs that clients write: kept over restarts, lost with nothing that was acknowledged, bounded, expiring, forked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import apsw
import pytest

from tests.stores.byhand import ByHand
from tests.stores.power import Disk
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import StreamState
from wsstream.config import Config
from wsstream.content import to_chunks
from wsstream.errors import (
    BadRequest,
    Capacity,
    Conflict,
    Draining,
    LogTrimmed,
    MessageTooLarge,
    RateLimited,
    StoreError,
    UnknownStream,
)
from wsstream.feeds import NO_ROOM_RETRY, OVERHEAD, Feed, Feeds
from wsstream.flow import SendWindow
from wsstream.limits import Quotas
from wsstream.stores import open_store
from wsstream.stores.database import Database
from wsstream.streams import Streams
from wsstream.writers import Claim, FeedConfig, Fork, Verdict

TEXT = FeedConfig("text/plain")


@asynccontextmanager
async def feeds(store: Any = "memory:", **settings: Any) -> AsyncIterator[Feeds]:
    """The feeds of a server with that store, until it stops."""
    store = open_store(store, "process") if isinstance(store, str) else store
    config = Config(**settings)
    quotas = Quotas.of(config, at_home=True)
    streams = Streams(config, store, lambda _: None, quotas=quotas)  # type: ignore[arg-type, return-value]
    await streams.open()
    yield streams.feeds
    await streams.close()
    await store.close()


async def made(feeds: Feeds, name: str, data: bytes = b"", wish: FeedConfig = TEXT, **options: Any) -> Feed:
    """A new feed, stored."""
    feed, is_new = feeds.create("", name, wish, data, close=options.get("close", False))
    assert is_new
    await feed.settled()
    return feed


def say(feeds: Feeds, feed: Feed, text: str, claim: Claim | None = None, *, close: bool = False) -> Verdict:
    """Append text."""
    content = to_chunks(feed.form, text.encode())
    return feeds.append(feed, content, claim, None, close=close).verdict


async def test_they_survive_a_restart(store: str) -> None:
    """Chunks, writers, the end and everything else of a feed are as they were, where the store keeps anything."""
    async with feeds(store) as before:
        feed = await made(before, "a", b"one")
        closed = await made(before, "b", b"all", close=True)
        assert say(before, feed, "two", Claim("w", 1, 0)) is Verdict.TAKEN
        await feed.settled()
    async with feeds(store) as after:
        if store == "memory:":
            assert len(after) == 0
            return
        again = await after.find("", "a")
        assert (again.log.text(), again.stored) == ("onetwo", feed.state)
        assert say(after, again, "two", Claim("w", 1, 0)) is Verdict.DUPLICATE
        assert say(after, again, "three", Claim("w", 1, 1)) is Verdict.TAKEN
        await again.settled()
        over = await after.find("", "b")
        assert (over.is_closed, over.log.text()) == (True, "all")
        assert closed.state == over.state
        assert after.size == again.log.weight + over.log.weight
    async with feeds(store) as last:
        assert (await last.find("", "a")).log.text() == "onetwothree"
    database = Database(store.removeprefix("sqlite:"))
    assert len(database.summaries()) == 2, "a log that goes on elsewhere is forgotten"
    database.close()


async def test_a_crash_while_a_log_begins_anew_leaves_one_of_the_two(sqlite: str) -> None:
    """Where the new log was stored and the old one was not yet forgotten, the new one counts."""
    async with feeds(sqlite) as before:
        await made(before, "a", b"one")
    async with feeds(sqlite) as between:
        between._store.delete = lambda stream_id: None  # type: ignore[method-assign]
        feed = await between.find("", "a")
        say(between, feed, "two")
        await feed.settled()
    async with feeds(sqlite) as after:
        assert len(after) == 1
        assert (await after.find("", "a")).log.text() == "onetwo"


async def test_names_belong_to_users() -> None:
    """The same name is another feed for another user."""
    async with feeds() as all_feeds:
        await made(all_feeds, "a", b"mine")
        with pytest.raises(UnknownStream):
            await all_feeds.find("somebody", "a")


async def test_asking_again_and_asking_for_something_else() -> None:
    """The same wish gives the same feed, another is refused."""
    async with feeds() as all_feeds:
        feed = await made(all_feeds, "a", b"x")
        assert all_feeds.create("", "a", TEXT, b"ignored", close=False) == (feed, False)
        for wish, close in ((FeedConfig("text/html"), False), (TEXT, True)):
            with pytest.raises(Conflict):
                all_feeds.create("", "a", wish, b"", close=close)
        assert feed.log.text() == "x"


async def test_limits() -> None:
    """A feed, all feeds, their number and memory are bounded, and what is refused has left nothing behind."""
    async with feeds(max_feeds=2, max_feed_bytes=2 * OVERHEAD + 10, max_feeds_bytes=3 * OVERHEAD + 10) as all_feeds:
        feed = await made(all_feeds, "a", b"12345")
        with pytest.raises(MessageTooLarge):
            say(all_feeds, feed, "123456")
        assert say(all_feeds, feed, "12345") is Verdict.TAKEN
        other = await made(all_feeds, "b")
        with pytest.raises(Capacity):
            all_feeds.create("", "c", TEXT, b"", close=False)
        with pytest.raises(Capacity):
            say(all_feeds, other, "x")
        await all_feeds.delete("", "a")
        all_feeds.pressed = True
        with pytest.raises(Capacity):
            say(all_feeds, other, "x")
        all_feeds.pressed = False
        assert say(all_feeds, other, "x") is Verdict.TAKEN
        assert (len(all_feeds), all_feeds.size) == (1, OVERHEAD + 1)


async def test_one_users_share() -> None:
    """A user has so many feeds and bytes of them; what is deleted is given back, and nobody else is charged."""
    async with feeds(max_feeds_per_user=2, max_feeds_bytes_per_user=2 * (OVERHEAD + 10)) as all_feeds:
        for name in ("a", "b"):
            feed, _ = all_feeds.create("ann", name, TEXT, b"x" * 10, close=False)
        await feed.settled()
        for _ in range(10):
            with pytest.raises(RateLimited) as refused:
                all_feeds.create("ann", "c", TEXT, b"", close=False)
            assert refused.value.retry_after == NO_ROOM_RETRY
            with pytest.raises(RateLimited):
                say(all_feeds, feed, "x")
        assert all_feeds.create("ann", "b", TEXT, b"", close=False)[1] is False  # which she has
        other, _ = all_feeds.create("bob", "a", TEXT, b"y" * 10, close=False)
        assert say(all_feeds, other, "x") is Verdict.TAKEN
        await all_feeds.delete("ann", "a")
        assert say(all_feeds, feed, "z" * 10) is Verdict.TAKEN
        all_feeds.create("ann", "c", TEXT, b"", close=False)
        await all_feeds.delete("bob", "a")
        assert set(all_feeds._held) == {"ann"}
        counts = all_feeds._rejections.statistics()
        assert (counts["feeds_per_user"], counts["feed_bytes_per_user"], counts["feeds"]) == (10, 10, 0)


async def test_one_users_share_is_known_after_a_restart(sqlite: str) -> None:
    """What a user had before counts in the next process, once, also when it was opened and changed."""
    share = {"max_feeds_per_user": 1, "max_feeds_bytes_per_user": OVERHEAD + 10}
    async with feeds(sqlite) as before:
        feed, _ = before.create("ann", "a", TEXT, b"x" * 10, close=False)
        await feed.settled()
    async with feeds(sqlite, **share) as after:
        with pytest.raises(RateLimited):
            after.create("ann", "b", TEXT, b"", close=False)
        again = await after.find("ann", "a")
        with pytest.raises(RateLimited):
            say(after, again, "x")
        await after.delete("ann", "a")
        assert after.create("ann", "b", TEXT, b"x" * 10, close=False)[1]


@in_virtual_time
async def test_expiry_counts_from_the_last_use() -> None:
    """A feed with a time to live is gone when nobody has used it that long, and not before."""
    async with feeds() as all_feeds:
        feed = await made(all_feeds, "a", wish=FeedConfig("text/plain", ttl=10))
        await asyncio.sleep(9)
        all_feeds.touch(feed)
        await asyncio.sleep(9)
        assert await all_feeds.find("", "a") is feed
        reader = all_feeds.attach(feed, SendWindow(1, 1, 0), lambda _: None)
        await asyncio.sleep(100)
        assert await all_feeds.find("", "a") is feed, "somebody reads it"
        feed.log.detach(reader)
        await asyncio.sleep(21)
        with pytest.raises(UnknownStream):
            await all_feeds.find("", "a")
        assert len(all_feeds) == 0


async def test_a_time_that_is_over() -> None:
    """A feed whose time has come is gone, and its name is free."""
    async with feeds() as all_feeds:
        all_feeds.create("", "a", FeedConfig("text/plain", expires_at="2020-01-01T00:00:00Z"), b"", close=False)
        with pytest.raises(UnknownStream):
            await all_feeds.find("", "a")
        await made(all_feeds, "a")


async def test_forks(store: str) -> None:
    """A fork begins with what its source had up to there, and goes its own way, also after a restart."""
    async with feeds(store) as before:
        source = await made(before, "a", b"one")
        say(before, source, "two")
        await source.settled()
        fork = await made(before, "f", b"!", FeedConfig(fork=Fork("a", 1, 2)))
        assert fork.log.text() == "onetw!"
        say(before, source, "three")
        await source.settled()
    if store != "memory:":
        async with feeds(store) as after:
            assert (await after.find("", "f")).log.text() == "onetw!"
            assert (await after.find("", "a")).log.text() == "onetwothree"


async def test_forks_that_cannot_be() -> None:
    """A source that is not there, not of that type or not that long is refused."""
    async with feeds() as all_feeds:
        await made(all_feeds, "a", b"one")
        for wish, error in (
            (FeedConfig(fork=Fork("b")), UnknownStream),
            (FeedConfig("text/html", fork=Fork("a")), Conflict),
            (FeedConfig(fork=Fork("a", 2)), BadRequest),
            (FeedConfig(fork=Fork("a", 0, 4)), BadRequest),
            (FeedConfig(fork=Fork("a", 1, 1)), BadRequest),
        ):
            with pytest.raises(error):
                all_feeds.create("", "f", wish, b"", close=False)
        await all_feeds.delete("", "a")
        assert len(all_feeds) == 0


async def test_a_source_stays_while_it_has_forks(store: str) -> None:
    """It is gone for readers at once, its name is free when the last fork is deleted, and so down the chain."""
    async with feeds(store) as before:
        await made(before, "a", b"one")
        await made(before, "b", wish=FeedConfig(fork=Fork("a")))
        await made(before, "c", wish=FeedConfig(fork=Fork("b")))
        for name in ("a", "b"):
            await before.delete("", name)
            with pytest.raises(LogTrimmed):
                await before.find("", name)
            with pytest.raises(Conflict):
                before.create("", name, TEXT, b"", close=False)
        if store == "memory:":
            await before.delete("", "c")
            assert len(before) == 0
            return
    async with feeds(store) as after:
        with pytest.raises(LogTrimmed):
            await after.find("", "a")
        await after.delete("", "c")
        assert len(after) == 0
    async with feeds(store) as last:
        assert len(last) == 0


async def test_deleted_is_deleted(sqlite: str) -> None:
    """When a deletion was acknowledged, no restart brings the feed back, and whoever reads is let go."""
    async with feeds(sqlite) as before:
        feed = await made(before, "a", b"one")
        await before.delete("", "a")
        await turns()
        assert feed.log.state is StreamState.INTERRUPTED
        await made(before, "a", b"two")
    async with feeds(sqlite) as after:
        assert (await after.find("", "a")).log.text() == "two"


@in_virtual_time
async def test_what_was_lost_is_not_remembered_as_taken() -> None:
    """After a failure and a restart a writer's retry is taken, because what it had appended is not there."""
    disk = Disk()
    async with feeds(ByHand("x.db", vfs=disk.name)) as before:
        feed = await made(before, "a", b"one")
        disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
        say(before, feed, "two", Claim("w", 0, 0))
        with pytest.raises(StoreError):
            await feed.settled()
        disk.trouble = lambda *_: None
        await asyncio.sleep(10)
    async with feeds(ByHand("x.db", vfs=disk.name)) as after:
        again = await after.find("", "a")
        assert again.log.text() == "one"
        assert say(after, again, "two", Claim("w", 0, 0)) is Verdict.TAKEN
        await again.settled()


@in_virtual_time
async def test_a_disk_that_is_full_for_a_while() -> None:
    """An append that cannot be stored is refused and as if it had never been; later the feed goes on where it was."""
    disk = Disk()
    store = ByHand("x.db", vfs=disk.name)
    async with feeds(store) as all_feeds:
        feed = await made(all_feeds, "a", b"one")
        disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
        assert say(all_feeds, feed, "two", Claim("w", 0, 0)) is Verdict.TAKEN
        with pytest.raises(StoreError):
            await feed.settled()
        with pytest.raises(StoreError):
            await all_feeds.find("", "a")
        disk.trouble = lambda *_: None
        await asyncio.sleep(10)
        again = await all_feeds.find("", "a")
        assert again.log.text() == "one"
        assert say(all_feeds, again, "two", Claim("w", 0, 0)) is Verdict.TAKEN
        await again.settled()
        assert again.log.text() == "onetwo"


async def test_the_end_of_the_server() -> None:
    """Nothing is taken any more, and nobody can stop a feed for others."""
    async with feeds() as all_feeds:
        feed = await made(all_feeds, "a")
        with pytest.raises(BadRequest):
            all_feeds.cancel(feed)
        all_feeds.close()
        with pytest.raises(Draining):
            say(all_feeds, feed, "x")
