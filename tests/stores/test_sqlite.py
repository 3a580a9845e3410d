"""The store in one SQLite file: group commit, order, what survives, and how it begins and ends."""

from __future__ import annotations

import asyncio
import glob
import itertools
import os
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores.byhand import ByHand
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import Kind, Outcome, StreamState
from wsstream.errors import ConfigError, StoreError, StoreLocked
from wsstream.stores import open_store
from wsstream.stores.base import StoredLog, StreamRecord
from wsstream.stores.database import Database
from wsstream.stores.operations import Append, Cancelled, Create, Finish, SaveMessage
from wsstream.stores.sqlite import RETRY, SLOW, WINDOW, SqliteStore
from wsstream.testing.contracts import CHECKS, Bench, check_store, message, record


def _end(_: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), None


async def opened(path: Path | str, **options: Any) -> SqliteStore:
    """An open store."""
    store = SqliteStore(str(path), **options)
    await store.open(_end)
    return store


async def by_hand(path: Path) -> ByHand:
    """An open store whose thread is the loop."""
    store = ByHand(str(path))
    await store.open(_end)
    return store


def nothing(*_: object) -> None:
    """Whoever it is, does not mind."""


# -- the contract


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_it_keeps_the_contract(tmp_path: Path, durability: Any) -> None:
    """It is a store like any other, whatever it is to survive."""
    await check_store(lambda place: SqliteStore(str(tmp_path / place), durability))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@in_virtual_time
async def test_it_keeps_the_contract_while_commits_take_long(tmp_path: Path, check: Any) -> None:
    """Nor does it matter how long the disk takes."""

    def make(place: str) -> ByHand:
        store = ByHand(str(tmp_path / place))
        store.takes = 0.05
        return store

    bench = Bench(make, "x")
    await bench.start()
    await check(bench)
    await bench.store.close()
    assert bench.failures == []


TEXTS = st.lists(st.text(max_size=12), min_size=1, max_size=4)
STREAM = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), STREAM, TEXTS, st.sampled_from(Kind)),
        st.tuples(st.just("finish"), STREAM),
        st.tuples(st.just("delete"), STREAM),
        st.tuples(st.just("say"), STREAM, st.text(max_size=8)),
        st.tuples(st.just("renew"), STREAM, st.text(max_size=8)),
        st.tuples(st.just("rename"), STREAM, st.text(max_size=8)),
        st.tuples(st.just("delete_session"), STREAM),
        st.tuples(st.sampled_from(["turn", "settle", "restart"])),
    ),
    max_size=40,
)


class Model:
    """The same in dictionaries. Stream and session ``n`` are the same here; names are never used again."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.current: dict[int, str] = {}
        self.ended: dict[str, Outcome] = {}
        self.messages: dict[str, list[tuple[str | None, str]]] = {}
        self.titles: dict[str, str | None] = {}
        self._made = 0

    def _running(self, slot: int) -> str:
        name = self.current.get(slot)
        if name is None or name in self.ended:
            self._made += 1
            name = self.current[slot] = f"s{self._made}"
            self.bench.create(name, f"ses{slot}")
        return name

    async def do(self, step: tuple[Any, ...]) -> None:
        """Do one step to the store and to the model."""
        await getattr(self, "_" + step[0])(*step[1:])

    async def _append(self, slot: int, texts: list[str], kind: Kind) -> None:
        self.bench.append(self._running(slot), *texts, kind=kind)

    async def _finish(self, slot: int) -> None:
        name = self._running(slot)
        self.ended[name] = self.bench.finish(name)

    async def _delete(self, slot: int) -> None:
        name = self.current.get(slot)
        if name in self.ended:
            self.bench.store.delete(self.current.pop(slot))
            del self.ended[name]

    async def _say(self, slot: int, text: str) -> None:
        self._note(slot, None, text)

    async def _renew(self, slot: int, text: str) -> None:
        self._note(slot, self._running(slot), text)

    def _note(self, slot: int, stream_id: str | None, text: str) -> None:
        session = f"ses{slot}"
        self.bench.store.save_message(message(session, text, stream_id=stream_id))
        said = self.messages.setdefault(session, [])
        self.titles.setdefault(session, None)
        place = next((i for i, (owner, _) in enumerate(said) if owner is not None and owner == stream_id), len(said))
        said[place:] = [(stream_id, text), *said[place + 1 :]]

    async def _rename(self, slot: int, title: str) -> None:
        self.bench.store.rename_session(f"ses{slot}", title)
        if f"ses{slot}" in self.titles:
            self.titles[f"ses{slot}"] = title

    async def _delete_session(self, slot: int) -> None:
        self.bench.store.delete_session(f"ses{slot}")
        self.messages.pop(f"ses{slot}", None)
        self.titles.pop(f"ses{slot}", None)

    async def _turn(self) -> None:
        await asyncio.sleep(0)

    async def _settle(self) -> None:
        await self.bench.settle()
        for name, outcome in self.ended.items():
            await self.bench.expect_log(name, outcome)

    async def _restart(self) -> None:
        await self.bench.restart()
        for name in self.current.values():
            if name not in self.ended:
                self._cut_off(name)
        await self._settle()
        await self.compare()

    def _cut_off(self, name: str) -> None:
        self.ended[name] = Outcome(StreamState.INTERRUPTED, len(self.bench.written[name][0]), error_type="interrupted")
        for said in self.messages.values():
            said[:] = [(owner, "cut off" if owner == name else text) for owner, text in said]

    async def compare(self) -> None:
        """See that both have the same messages and titles."""
        for slot in range(4):
            session = f"ses{slot}"
            found = await self.bench.store.history(session)
            assert [(each.stream_id, each.content) for each in found] == self.messages.get(session, [])
            info = await self.bench.store.session(session)
            assert (info is None) == (session not in self.titles)
            assert info is None or info.title == self.titles[session]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_it_agrees_with_a_dictionary(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]) -> None:
    """Whatever is written in whatever order, with restarts in between, is what is read."""
    path = tmp_path_factory.mktemp("model") / "x.db"

    async def run() -> None:
        bench = Bench(lambda _: SqliteStore(str(path)), "")
        await bench.start()
        model = Model(bench)
        try:
            for step in [*steps, ("settle",), ("restart",)]:
                await model.do(step)
            assert bench.failures == []
        finally:
            await bench.store.close()
            shutil.rmtree(path.parent)

    asyncio.run(run())


async def test_what_is_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    """At the moment of each acknowledgement a copy of the files, as after SIGKILL, holds what it is for."""
    store = await opened(tmp_path / "x.db")
    place = tmp_path / "copy"
    place.mkdir()
    seen: list[int] = []

    def look(last: int) -> None:
        for suffix in ("", "-wal"):
            shutil.copy(f"{tmp_path}/x.db{suffix}", f"{place}/x.db{suffix}")
        copy = Database(str(place / "x.db"))
        copy.recover(_end)
        found = copy.load("s")
        assert found is not None
        seen.append(last)
        assert len(found.bodies) >= last
        copy.abandon()

    store.create(record("s"), nothing)
    for number in range(12):
        store.append("s", number + 1, [b"x%d" % number], b"\0", look)
        await asyncio.sleep(0.002 if number % 3 else 0)
    await store.history("")
    await store.close()
    assert seen
    assert seen[-1] == 12


# -- group commit


@in_virtual_time
async def test_a_lone_append_is_committed_at_once(tmp_path: Path) -> None:
    """Where nothing was written for a while, a token waits for nobody."""
    store = await by_hand(tmp_path / "x.db")
    store.create(record("s"), nothing)
    await asyncio.sleep(1)
    acks: list[int] = []
    for number in range(1, 4):
        before = time.monotonic()
        store.append("s", number, [b"x"], b"\0", acks.append)
        await turns()
        assert (acks[-1], time.monotonic()) == (number, before)
        await asyncio.sleep(1)
    await store.close()


@in_virtual_time
async def test_under_load_tokens_share_commits(tmp_path: Path) -> None:
    """Commits begin a window apart and take along what has come meanwhile; acknowledgements stay in order."""
    store = await by_hand(tmp_path / "x.db")
    acks: list[int] = []
    store.create(record("s"), nothing)
    for number in range(1, 201):
        store.append("s", number, [b"x"], b"\0", acks.append)
        await asyncio.sleep(0.0005)
    await asyncio.sleep(1)
    starts = [start for start, _ in store.commits]
    assert all(later - earlier >= WINDOW - 1e-9 for earlier, later in itertools.pairwise(starts))
    assert 0.1 <= len(starts) * WINDOW <= 0.14  # as long as the load lasted, and little more
    assert acks == sorted(acks)
    assert acks[-1] == 200
    await store.close()


@in_virtual_time
async def test_a_commit_under_way_gathers_the_next(tmp_path: Path) -> None:
    """However slow the disk is, one commit runs at a time and the next takes everything that has come."""
    store = await by_hand(tmp_path / "x.db")
    store.create(record("s"), nothing)
    await asyncio.sleep(1)
    store.takes = 0.1
    acks: list[int] = []
    begun = len(store.commits)
    for number in range(1, 51):
        store.append("s", number, [b"x"], b"\0", acks.append)
        await asyncio.sleep(0.001)
    assert acks == []
    await asyncio.sleep(1)
    assert acks == [1, 50]
    assert len(store.commits) == begun + 2
    await store.close()


@in_virtual_time
async def test_what_is_written_in_one_turn_is_one_commit(tmp_path: Path) -> None:
    """A request, its messages and its stream are there together or not at all, and so are an end and its message."""
    store = await by_hand(tmp_path / "x.db")
    store.create(record("s"), nothing)
    store.save_message(message("ses", "hi"))
    store.save_message(message("ses", "", stream_id="s"))
    await asyncio.sleep(1)
    store.append("s", 1, [b"x"], b"\0", nothing)
    store.save_message(message("ses", "x", stream_id="s"))
    store.cancel("s")
    store.finish("s", Outcome(StreamState.COMPLETE, 1), [b"x"], b"\0", nothing)
    await asyncio.sleep(1)
    kinds = [[type(operation) for operation in operations] for _, operations in store.commits]
    assert kinds == [[Create, SaveMessage, SaveMessage], [Append, SaveMessage, Cancelled, Finish]]
    await store.close()


@in_virtual_time
async def test_a_stream_is_told_of_in_order(tmp_path: Path) -> None:
    """When all of a stream is in one commit, its beginning is acknowledged first, then its chunks, then its end."""
    store = await by_hand(tmp_path / "x.db")
    told: list[object] = []
    store.create(record("s"), lambda: told.append("begun"))
    store.append("s", 1, [b"x"], b"\0", told.append)
    store.finish("s", Outcome(StreamState.COMPLETE, 1), [b"x"], b"\0", lambda: told.append("ended"))
    await asyncio.sleep(1)
    assert told == ["begun", 1, "ended"]
    await store.close()


@in_virtual_time
async def test_acknowledgements_that_write_do_not_commit_twice(tmp_path: Path) -> None:
    """What is written by whoever is told of a commit goes into the next, of which there is one at a time."""
    store = await by_hand(tmp_path / "x.db")
    store.takes = 0.01
    acks: list[int] = []

    def more(last: int) -> None:
        acks.append(last)
        if last < 20:
            store.append("s", last + 1, [b"x"], b"\0", more)
            store.history("ses")

    store.create(record("s"), nothing)
    store.append("s", 1, [b"x"], b"\0", more)
    await asyncio.sleep(2)
    assert acks == list(range(1, 21))
    assert len(store.commits) == 20
    await store.close()


@in_virtual_time
async def test_a_question_has_its_place_between_writes(tmp_path: Path) -> None:
    """Asked while a commit runs, it sees what was written before it, and nothing that comes behind it."""
    store = await by_hand(tmp_path / "x.db")
    store.takes = 0.01
    answers = []
    for number in range(6):
        store.save_message(message("ses", str(number)))
        answers.append(store.history("ses"))
        if number == 3:
            await asyncio.sleep(0.005)
    assert [len(await answer) for answer in answers] == [1, 2, 3, 4, 5, 6]
    await store.close()


@in_virtual_time
async def test_an_idle_store_does_nothing(tmp_path: Path) -> None:
    """Without anything to write there is no commit and no timer."""
    store = await by_hand(tmp_path / "x.db")
    store.create(record("s"), nothing)
    await asyncio.sleep(10)
    assert len(store.commits) == 1
    assert not [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    await store.close()


@in_virtual_time
async def test_who_cannot_take_an_acknowledgement_keeps_no_other_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in one callback is logged, and the others are called."""
    store = await by_hand(tmp_path / "x.db")
    acks: list[int] = []

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    store.create(record("a"), fail)
    store.create(record("b"), nothing)
    store.append("a", 1, [b"x"], b"\0", fail)
    store.append("b", 1, [b"x"], b"\0", acks.append)
    await asyncio.sleep(1)
    assert acks == [1]
    assert "a bug" in caplog.text
    await store.close()


@in_virtual_time
async def test_a_disk_that_hangs_is_trouble(tmp_path: Path) -> None:
    """A commit that does not end is seen by whoever asks how the store is."""
    store = await by_hand(tmp_path / "x.db")
    store.takes = 2 * SLOW
    store.create(record("s"), nothing)
    await asyncio.sleep(SLOW)
    assert store.trouble() is None
    await asyncio.sleep(SLOW / 2)
    assert store.trouble() is not None
    await asyncio.sleep(SLOW)
    assert store.trouble() is None
    store.takes = 0.0
    await store.close()


# -- the beginning and the end


async def test_closing_is_final(tmp_path: Path) -> None:
    """After `close` the file is free and whole, the thread has ended, and what is still written is ignored."""
    store = await opened(tmp_path / "x.db")
    store.create(record("s"), nothing)
    await store.close()
    await store.close()
    assert not store._thread.is_alive()
    store.append("s", 1, [b"x"], b"\0", nothing)
    with pytest.raises(StoreError, match="closed"):
        await store.history("ses")
    await (await opened(tmp_path / "x.db")).close()


async def test_what_an_acknowledgement_writes_is_written_too(tmp_path: Path) -> None:
    """`close` comes to its end only when nothing is pending any more."""
    store = await opened(tmp_path / "x.db")
    store.create(record("s"), lambda: store.save_message(message("ses", "late")))
    await store.close()
    store = await opened(tmp_path / "x.db")
    assert [each.content for each in await store.history("ses")] == ["late"]
    await store.close()


async def test_a_file_has_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second store is told so, and closing it then is fine and leaves no thread."""
    monkeypatch.setattr("wsstream.stores.database.BUSY_TIMEOUT_MS", 10)
    first = await opened(tmp_path / "x.db")
    second = SqliteStore(str(tmp_path / "x.db"))
    with pytest.raises(StoreLocked, match=r"x\.db: another process is using it"):
        await second.open(_end)
    await second.close()
    second._thread.join(1)
    assert not second._thread.is_alive()
    await first.close()


async def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    """The files hold conversations: they are nobody else's."""
    store = await opened(tmp_path / "x.db")
    store.create(record("s"), nothing)
    await store.history("")
    assert {os.stat(path).st_mode & 0o777 for path in glob.glob(f"{tmp_path}/*")} == {0o600}
    await store.close()


async def test_the_thread_survives_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody has thought of fails one commit like any other."""
    store = await opened(tmp_path / "x.db")
    failures: list[set[str]] = []
    store.on_failure = lambda _error, streams: failures.append(streams)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "_write", lambda *_: 1 // 0)
        store.create(record("a"), nothing)
        await store.history("")
        assert store.trouble() is not None
        patch.setattr(Database, "_write", _out_of_memory)
        await asyncio.sleep(RETRY / 50)
    assert failures == [{"a"}]
    begun: list[bool] = []
    store._last_commit = -RETRY  # not to wait for it here
    store.create(record("b"), lambda: begun.append(True))
    store._commit()
    await store.close()
    assert begun == [True]


def _out_of_memory(*_: object) -> int:
    raise MemoryError


def test_a_path_is_needed() -> None:
    """A name without a path is refused in one line."""
    with pytest.raises(ConfigError, match="needs a path"):
        SqliteStore("")


def test_the_table_knows_it(tmp_path: Path) -> None:
    """It is opened by its name, path and durability."""
    store: Any = open_store(f"sqlite:{tmp_path}/x.db", "power")
    assert isinstance(store, SqliteStore)
    assert (store._path, store._durability) == (f"{tmp_path}/x.db", "power")


async def test_nothing_of_a_commit_is_kept_when_it_is_over(tmp_path: Path) -> None:
    """What was written last does not stay in memory until something else is written."""

    class Told:
        """Somebody to tell."""

        def __call__(self) -> None:
            finished.set()

    finished = asyncio.Event()
    store = await opened(tmp_path / "store.db")
    store.create(record("s_1"), lambda: None)
    told = Told()
    kept = weakref.ref(told)
    store.finish("s_1", Outcome(StreamState.COMPLETE, 1), [b"x"], b"\0", told)
    del told
    await finished.wait()
    async with asyncio.timeout(5):
        while kept() is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert store.statistics().commits.count >= 1
    assert (store.statistics().failures, store.statistics().pending) == (0, 0)
    await store.close()
