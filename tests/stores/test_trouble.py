"""Disks that are full, fail, lie or are somebody else's: what was acknowledged stays, and everything is said."""

from __future__ import annotations

import asyncio
import glob
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import ROOT, clean_environ
from tests.stores.byhand import ByHand
from tests.stores.power import Disk
from tests.virtual import in_virtual_time
from wsstream import cli
from wsstream.chunks import Outcome, StreamState
from wsstream.errors import ConfigError, StoreError
from wsstream.stores import database as module
from wsstream.stores import journal, open_store
from wsstream.stores.base import StoredLog, StreamRecord
from wsstream.stores.database import Database
from wsstream.stores.sqlite import RETRY, SqliteStore
from wsstream.testing.contracts import message, record


def _end(_: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), None


def nothing(*_: object) -> None:
    """Whoever it is, does not mind."""


class Answers:
    """A store on a disk, with answers that run in it as `wsstream.streams` would have them run."""

    def __init__(self, store: SqliteStore, disk: Disk | None = None) -> None:
        self.store = store
        self.disk = disk
        self.bodies: dict[str, list[bytes]] = {}
        self.safe: dict[str, int] = {}
        self.begun: set[str] = set()
        self.ended: set[str] = set()
        self.over: set[str] = set()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.stubborn = False  # says on after it was told that it has failed
        store.on_failure = self._on_failure

    def begin(self, name: str) -> None:
        """Begin an answer."""
        self.bodies[name] = []
        self.safe[name] = 0
        self.store.create(record(name), lambda: self.begun.add(name))
        self.store.save_message(message("ses", "q " + name))
        self.store.save_message(message("ses", "", stream_id=name))

    def say(self, name: str, count: int = 3) -> None:
        """Add to it, while it runs."""
        if name in self.over or (name in self.failed and not self.stubborn):
            return
        bodies = self.bodies[name]
        new = [b"%s-%d" % (name.encode(), len(bodies) + n) for n in range(count)]
        self.bodies[name] = bodies + new if name not in self.failed else bodies
        self.store.append(name, len(bodies) + 1, new, bytes(count), lambda last: self._on_safe(name, last))

    def _on_safe(self, name: str, last: int) -> None:
        self._expect(name not in self.failed, f"a chunk of {name} was acknowledged after it had failed")
        self._expect(self.safe[name] < last <= len(self.bodies[name]), f"{last} of {name} was acknowledged")
        self.safe[name] = last

    def _expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.wrong.append(what)  # whoever calls would not let an exception through

    def finish(self, name: str) -> None:
        """End it well, if it still runs."""
        if name not in self.failed:
            self._finish(name, StreamState.COMPLETE)

    def _finish(self, name: str, state: StreamState) -> None:
        self.over.add(name)
        bodies = self.bodies[name]
        self.store.save_message(message("ses", "said " + name, stream_id=name))
        self.store.finish(name, Outcome(state, len(bodies)), bodies, bytes(len(bodies)), lambda: self.ended.add(name))

    def _on_failure(self, _: StoreError, names: set[str]) -> None:
        for name in sorted(names):
            self._expect(name not in self.failed, f"the failure of {name} was said twice")
            self._expect(name not in self.ended, f"{name} failed after its end")
            self.failed.append(name)
            del self.bodies[name][self.safe[name] :]
            if name in self.over:
                self._finish(name, StreamState.FAILED)
            else:
                asyncio.get_running_loop().call_later(0.02, self._finish, name, StreamState.FAILED)
        if self.disk is not None:
            asyncio.get_running_loop().call_later(0.018, self._check_now)

    def _check_now(self) -> None:
        assert self.disk is not None
        try:
            self.check("x.db", self.disk)
        except AssertionError as error:
            self.wrong.append(str(error))

    def check(self, path: str, disk: Disk) -> None:
        """See that a store opened anew on what the disk holds has what was acknowledged, and knows how it ended."""
        assert self.wrong == []
        left = Disk(disk.copy())
        database = Database(path, vfs=left.name)
        database.recover(_end)
        found = {summary.record.stream_id: summary for summary in database.summaries()}
        for name in self.begun:
            log = database.load(name)
            assert log is not None, f"{name} is lost"
            assert log.bodies[: self.safe[name]] == self.bodies[name][: self.safe[name]]
            if name in self.ended and name in self.failed:
                assert found[name].outcome == Outcome(StreamState.FAILED, self.safe[name])
            elif name in self.ended:
                assert found[name].outcome.state is StreamState.COMPLETE
            elif name in self.failed and self.disk is not None:
                assert found[name].outcome.state is not StreamState.COMPLETE, f"{name} was said to have failed"
        assert self.begun <= found.keys()
        database.abandon()


async def play(answers: Answers) -> None:
    """A few answers, one after the other and at once."""
    for number in range(5):
        answers.begin(f"a{number}")
        await asyncio.sleep(0.004)
        for _ in range(4):
            for other in list(answers.bodies):
                answers.say(other)
            await asyncio.sleep(0.004)
        if number % 2:
            answers.finish(f"a{number}")
    await asyncio.sleep(0.1)


async def on_disk(disk: Disk, durability: Any = "power") -> ByHand:
    """An open store on it."""
    store = ByHand("x.db", durability, disk.name)
    await store.open(_end)
    return store


# -- trouble while it runs


@pytest.mark.parametrize("takes", [0.0, 0.006])
@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE])
@in_virtual_time
async def test_a_disk_that_is_full_from_some_write_on(code: int, takes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write is the first that fails: nothing acknowledged is lost, and all is well again with the disk."""
    monkeypatch.setattr(module, "PAGES_PER_CHECKPOINT", 12)
    monkeypatch.setattr(journal, "COMPACT_BYTES", 600)
    for k in range(0, 170, 3):
        disk = Disk()
        store = await on_disk(disk, "process")  # with syncs, a commit may fail and be found in the file all the same
        store.takes = takes
        answers = Answers(store, disk)
        last = disk.counts["write"] + k
        disk.trouble = lambda kind, count, last=last: (  # type: ignore[misc]
            code if kind == "write" and count > last else None
        )
        await play(answers)
        assert answers.failed or store.trouble() is not None or disk.counts["write"] <= last
        answers.check("x.db", disk)
        await asyncio.sleep(2 * RETRY)
        disk.trouble = lambda *_: None
        await asyncio.sleep(module.TIDY_RETRY + 3 * RETRY)
        assert store.trouble() is None
        assert answers.begun & set(answers.failed) <= answers.ended, "an end that failed is tried again"
        answers.begin("new")
        answers.say("new")
        answers.finish("new")
        await asyncio.sleep(0.1)
        assert "new" in answers.ended
        answers.check("x.db", disk)
        await store.close()


@in_virtual_time
async def test_what_gathers_behind_a_commit_that_fails_is_lost_with_it() -> None:
    """Chunks behind a gap are never stored, wherever they wait; streams without a gap are not concerned."""
    disk = Disk()
    store = await on_disk(disk, "process")
    answers = Answers(store, disk)
    answers.stubborn = True
    for name in ("a", "b"):
        answers.begin(name)
        answers.say(name)
    await asyncio.sleep(1)
    store.takes = 0.05
    disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
    answers.say("a")
    answers.begin("c")
    await asyncio.sleep(0.01)  # under way, and is going to fail
    asked = []
    for name in ("a", "b", "c"):
        answers.say(name)
        asked.append(store.history("ses"))
    answers.begin("d")
    await asyncio.sleep(0.02)
    disk.trouble = lambda kind, count: apsw.SQLITE_FULL if kind == "write" and count <= failed_at else None
    failed_at = disk.counts["write"] + 1
    for _ in range(200):
        answers.say("a")
        answers.say("c")
        await asyncio.sleep(0.01)
    assert answers.failed == ["a", "c"]
    assert {"a", "b", "d"} <= answers.begun
    assert answers.safe["b"] == 6
    answers.say("b")
    await asyncio.sleep(1)
    assert answers.safe == {"a": 3, "b": 9, "c": 0, "d": 0}
    assert answers.ended == {"a"}
    for each in asked:
        assert len(await each) == 4
    answers.check("x.db", disk)
    await store.close()


@in_virtual_time
async def test_a_commit_that_failed_and_is_found_all_the_same() -> None:
    """A commit whose sync failed may be there when the file is opened anew: what is written later fits behind it."""
    cases = [(groups, others) for groups in (["say"], ["finish"], ["say", "finish"], ["begin"]) for others in ("", "z")]
    for groups, others in cases:
        disk = Disk()
        store = await on_disk(disk)
        answers = Answers(store)
        for name in ("a", *others):
            answers.begin(name)
            answers.say(name)
        await asyncio.sleep(1)
        store.takes = 0.01
        last = disk.counts["sync"] + 1
        disk.trouble = lambda kind, count, last=last: (  # type: ignore[misc]
            apsw.SQLITE_IOERR_FSYNC if kind == "sync" and count == last else None
        )
        for group in groups:
            getattr(answers, group)("b" if group == "begin" else "a")
        await asyncio.sleep(0.005)
        for name in others:
            answers.say(name)
        await asyncio.sleep(1)
        assert all(answers.safe[name] == 6 for name in others)
        assert disk.counts["sync"] >= last
        assert answers.failed == (["b"] if groups == ["begin"] else ["a"])
        assert store.trouble() is None
        answers.say("a")
        answers.begin("c")
        answers.say("c")
        await asyncio.sleep(1)
        assert answers.safe["c"] == 3
        answers.check("x.db", disk)
        await store.close()


@in_virtual_time
async def test_a_sync_that_fails_is_never_believed_afterwards() -> None:
    """Whichever sync fails: its commit is not acknowledged, and the file is opened anew before any other is."""
    for k in range(1, 40):
        disk = Disk()
        store = await on_disk(disk)
        answers = Answers(store)
        last = disk.counts["sync"] + k
        opened = disk.opened
        disk.trouble = lambda kind, count, last=last: (  # type: ignore[misc]
            apsw.SQLITE_IOERR_FSYNC if kind == "sync" and count == last else None
        )
        await play(answers)
        await asyncio.sleep(module.TIDY_RETRY + 3 * RETRY)
        assert (disk.opened > opened) == (disk.counts["sync"] >= last), "the connection is used again"
        assert store.trouble() is None
        answers.check("x.db", disk)
        await store.close()


@in_virtual_time
async def test_a_read_that_fails() -> None:
    """Whoever asked is told; the next who asks gets the answer."""
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    answers.begin("s")
    answers.store.append("s", 1, [b"x" * 20_000] * 400, bytes(400), nothing)
    answers.bodies["s"] = [b"x" * 20_000] * 400
    answers.safe["s"] = 0
    answers.finish("s")
    await store.load("s")
    disk.trouble = lambda kind, _: apsw.SQLITE_IOERR_READ if kind == "read" else None
    with pytest.raises(StoreError, match=r"x\.db"):
        await store.load("s")
    disk.trouble = lambda *_: None
    found = await store.load("s")
    assert found is not None
    assert len(found.bodies) == 400
    await store.close()


@in_virtual_time
async def test_a_lost_beginning_is_lost_with_all_that_belongs_to_it() -> None:
    """Of a stream whose beginning was not stored, nothing later is stored either, not even when the disk is well."""
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    await asyncio.sleep(1)
    disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
    answers.begin("s")
    await asyncio.sleep(0.01)
    assert answers.failed == ["s"]
    disk.trouble = lambda *_: None
    store.append("s", 1, [b"x"], b"\0", lambda _: pytest.fail("it was acknowledged"))
    store.save_message(message("ses", "x", stream_id="s"))
    store.cancel("s")
    store.delete("s")
    await asyncio.sleep(2 * RETRY)
    assert store.trouble() is None
    assert (await store.load("s"), await store.history("ses")) == (None, [])
    assert answers.ended == set()
    await store.close()


@in_virtual_time
async def test_what_must_not_be_forgotten_stays_owed() -> None:
    """Deletions that fail are done when the disk works again, in their order, and told only then."""
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    for name in ("a", "b"):
        answers.begin(name)
        answers.finish(name)
    await asyncio.sleep(1)
    disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
    told: list[object] = []
    store.delete("a", lambda: told.append("a"))
    store.rename_session("ses", "first", told.append)
    await asyncio.sleep(1)
    store.delete_session("ses", lambda: told.append("ses"))
    await asyncio.sleep(1)
    assert store.trouble() is not None
    assert answers.failed == []
    assert told == []
    disk.trouble = lambda *_: None
    await asyncio.sleep(2 * RETRY)
    assert told == ["a", True, "ses"]
    assert await store.load("a") is None
    assert await store.load("b") is not None
    assert await store.session("ses") is None
    await store.close()


@in_virtual_time
async def test_what_is_owed_is_bounded() -> None:
    """However many answers are begun on a disk that is full, nothing of them is kept."""
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
    for number in range(100):
        answers.begin(str(number))
        await asyncio.sleep(RETRY)
    await asyncio.sleep(1)
    assert len(answers.failed) == 100
    assert store._group.operations == []
    assert store._numbers == {}
    await store.close()


@in_virtual_time
async def test_reading_goes_on_while_the_disk_is_full() -> None:
    """What was stored can be read though nothing can be written."""
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    answers.begin("s")
    answers.say("s")
    answers.finish("s")
    await asyncio.sleep(1)
    disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
    answers.begin("t")
    await asyncio.sleep(1)
    assert store.trouble() is not None
    found = await store.load("s")
    assert found is not None
    assert len(found.bodies) == 3
    assert len(await store.history("ses")) == 2
    await store.close()


@in_virtual_time
async def test_trouble_with_a_checkpoint_loses_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that has succeeded is acknowledged though its checkpoint fails; the trouble is seen."""
    monkeypatch.setattr(module, "PAGES_PER_CHECKPOINT", 4)
    disk = Disk()
    store = await on_disk(disk)
    answers = Answers(store)
    checkpoint = Database._checkpoint
    monkeypatch.setattr(Database, "_checkpoint", _fail_to_sync)
    await play(answers)
    assert answers.failed == []
    assert len(answers.begun) == 5
    assert store.trouble() is not None
    monkeypatch.setattr(Database, "_checkpoint", checkpoint)
    answers.begin("new")
    await asyncio.sleep(1)
    await asyncio.sleep(module.TIDY_RETRY)
    assert store.trouble() is None
    answers.check("x.db", disk)
    await store.close()


def _fail_to_sync(_: Database) -> None:
    raise apsw.exception_for(apsw.SQLITE_IOERR)


# -- files that are not what they were


def test_sqlite_in_memory_is_another_store() -> None:
    """SQLite's name for it is no file of ours: who asks for it is told what to write instead."""
    with pytest.raises(ConfigError, match="--store memory:"):
        open_store("sqlite::memory:")


async def test_tables_that_break_while_it_runs_are_set_aside(tmp_path: Path) -> None:
    """When a commit finds the file damaged, all its streams are lost, a new file is begun, and new answers work."""
    store = SqliteStore(str(tmp_path / "x.db"))
    await store.open(_end)
    answers = Answers(store)
    answers.begin("a")
    await store.history("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "_write", _find_damage)
        answers.begin("b")
        await store.history("")
        await asyncio.sleep(0)
    assert sorted(answers.failed) == ["a", "b"]
    assert len(glob.glob(f"{tmp_path}/x.db.corrupt-*")) >= 1
    store._last_commit = -RETRY
    answers.begin("c")
    answers.say("c")
    answers.finish("c")
    await store.close()
    assert "c" in answers.ended


def _find_damage(*_: object) -> int:
    raise apsw.exception_for(apsw.SQLITE_CORRUPT)


# -- at the start, in one line


def _refused(store: str, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """Start a server with it; the one line that says why it does not."""
    assert cli.main(["serve", "--provider", "demo", "--port", "0", "--listeners", "1", "--store", store]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere/x.db", "No such file or directory"),
        (".", "Is a directory"),
        ("file/x.db", "Not a directory"),
        ("other.db", "is a database of something else"),
        ("letter.txt", "is not a database of wsstream"),
        ("newer.db", "was written by a newer wsstream (schema 4, this one knows 3)"),
        ("held.db", "another process is using it"),
    ],
)
def test_a_store_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    """The server does not start, says why in one line, exits with 1 or, for a wrong path, 2; the file is as it was."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 10)
    (tmp_path / "file").write_text("")
    (tmp_path / "letter.txt").write_text("Dear all")
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("CREATE TABLE customers (name)")
    other.close()
    newer = Database(str(tmp_path / "newer.db"))
    newer._connection().pragma("user_version", 4)
    newer.close()
    held = Database(str(tmp_path / "held.db"))
    before = (tmp_path / "other.db").read_bytes(), (tmp_path / "newer.db").read_bytes()
    line = _refused(f"sqlite:{tmp_path}/{path}", capsys, 2 if path in ("other.db", "letter.txt") else 1)
    assert reason in line
    assert str(tmp_path) in line
    held.close()
    assert before == ((tmp_path / "other.db").read_bytes(), (tmp_path / "newer.db").read_bytes())
    assert not glob.glob(f"{tmp_path}/*.corrupt*")


def test_two_servers_on_one_file(tmp_path: Path) -> None:
    """A second process is refused while the first is there."""
    held = Database(str(tmp_path / "x.db"))
    command = [sys.executable, "-m", "wsstream", "--provider", "demo", "--port", "0"]
    done = subprocess.run(
        [*command, "--store", f"sqlite:{tmp_path}/x.db"],
        cwd=ROOT,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    held.close()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"wsstream: {tmp_path}/x.db: another process is using it\n"


_FULL = """
import asyncio, resource, signal, sys
from tests.stores.test_trouble import Answers, _end
from wsstream.stores import sqlite

async def main():
    store = sqlite.SqliteStore(sys.argv[1])
    await store.open(_end)
    answers = Answers(store)
    answers.begin("a")
    for _ in range(5):
        answers.say("a")
        await store.history("")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    while not answers.failed:
        answers.say("a", 500)
        await store.history("")
        await asyncio.sleep(0)
    assert store.trouble()
    seen = answers.safe["a"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(200):
        await asyncio.sleep(0.02)
        if not store.trouble():
            break
    answers.begin("b")
    answers.say("b")
    answers.finish("b")
    await store.close()
    store = sqlite.SqliteStore(sys.argv[1])
    await store.open(_end)
    a, b = await store.load("a"), await store.load("b")
    assert (a.outcome.state, len(a.bodies), len(b.bodies)) == ("failed", seen, 3)
    await store.close()
    print("well")

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sqlite.RETRY = 0.02
asyncio.run(main())
"""


def test_a_real_file_that_may_not_grow(tmp_path: Path) -> None:
    """With real files and a real limit it is the same: the answer fails, and when there is room all is well."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "x.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "well\n", done.stderr
