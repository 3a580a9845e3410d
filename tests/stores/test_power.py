"""The power is cut at any moment: what was acknowledged under ``durability=power`` is there afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from tests.stores.power import Disk
from wsstream.chunks import Outcome, StreamState
from wsstream.errors import StoreError
from wsstream.stores import database as module
from wsstream.stores import journal
from wsstream.stores.base import StoredLog, StoredMessage, StreamRecord
from wsstream.stores.database import Database, Durability
from wsstream.stores.operations import Append, Create, Delete, Finish, Operation, SaveMessage
from wsstream.testing.contracts import message, record

TRIALS = 200


@pytest.fixture(autouse=True)
def _busy_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and compactions happen all the time, so that the power is cut in them too."""
    monkeypatch.setattr(module, "PAGES_PER_CHECKPOINT", 12)
    monkeypatch.setattr(journal, "COMPACT_BYTES", 1500)


class Writer:
    """Writes at random, and knows what of it was acknowledged."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.bodies: dict[int, list[bytes]] = {}
        self.acked: dict[int, int] = {}
        self.ended: set[int] = set()
        self.deleted: set[int] = set()
        self.asked_to_delete: set[int] = set()
        self.said = 0
        self._next = 1

    def work(self, database: Database, commits: int) -> None:
        """Commit a few times."""
        for _ in range(commits):
            operations, acknowledge = self._group()
            database.commit(operations)
            for note in acknowledge:
                note()

    def _group(self) -> tuple[list[Operation], list[Callable[[], None]]]:
        operations: list[Operation] = []
        notes: list[Callable[[], None]] = []
        for _ in range(self.dice.randrange(1, 5)):
            running = [number for number in self.bodies if number not in self.ended]
            choice = self.dice.random()
            if not running or choice < 0.15:
                self._create(operations, notes)
            elif choice < 0.85:
                self._append(self.dice.choice(running), operations, notes)
            elif choice < 0.95:
                self._finish(self.dice.choice(running), operations, notes)
            elif done := sorted(self.ended - self.asked_to_delete):
                self._delete(self.dice.choice(done), operations, notes)
        return operations, notes

    def _create(self, operations: list[Operation], notes: list[Callable[[], None]]) -> None:
        number, self._next = self._next, self._next + 1
        self.bodies[number] = []
        said = message("ses", str(number))
        operations += [Create(number, record(f"s{number}")), SaveMessage(said)]

        def note() -> None:
            self.acked[number] = 0
            self.said += 1

        notes.append(note)

    def _append(self, number: int, operations: list[Operation], notes: list[Callable[[], None]]) -> None:
        bodies = self.bodies[number]
        new = [b"%d.%d " % (number, len(bodies) + n) * self.dice.randrange(1, 90) for n in range(1, 4)]
        operations.append(Append(number, len(bodies) + 1, bytes(3), new))
        bodies += new
        count = len(bodies)
        notes.append(lambda: self.acked.update({number: count}))

    def _finish(self, number: int, operations: list[Operation], notes: list[Callable[[], None]]) -> None:
        bodies = self.bodies[number]
        self.ended.add(number)
        outcome = Outcome(StreamState.COMPLETE, len(bodies))
        operations.append(Finish(number, outcome, 1.0, bytes(len(bodies)), list(bodies)))
        notes.append(lambda: self.acked.update({number: len(bodies)}))

    def _delete(self, number: int, operations: list[Operation], notes: list[Callable[[], None]]) -> None:
        operations.append(Delete(number))
        self.asked_to_delete.add(number)
        notes.append(lambda: self.deleted.add(number))


def _end(_: StreamRecord, __: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    return Outcome(StreamState.INTERRUPTED, len(log.bodies)), None


def _trial(seed: int, durability: Durability) -> tuple[int, int]:
    """Write until the power goes, look at what is left: how many chunks were acknowledged, and how many are lost."""
    writer, disk = Writer(seed), Disk()
    disk.cut_at = writer.dice.randrange(1, 900)
    database = None
    with contextlib.suppress(StoreError):
        database = Database("x.db", durability, disk.name)
        writer.work(database, 120)
    if database is not None:
        with contextlib.suppress(StoreError):
            database.abandon()
    left = disk.cut(seed)
    after = Database("x.db", durability, left.name)
    after.recover(_end)
    found = {}
    for summary in after.summaries():
        log = after.load(summary.record.stream_id)
        assert log is not None
        found[summary.number] = list(log.bodies)
        written = writer.bodies[summary.number]
        assert log.bodies == written[: len(log.bodies)], f"seed {seed}: stream {summary.number} is no prefix"
    if durability == "power":
        assert not writer.deleted & found.keys(), f"seed {seed}: a deleted stream came back"
        assert len(after.history("ses")) >= writer.said, f"seed {seed}: a message is lost"
    after.abandon()
    kept = {number: count for number, count in writer.acked.items() if number not in writer.asked_to_delete}
    return sum(kept.values()), sum(max(0, count - len(found.get(number, ()))) for number, count in kept.items())


def test_with_durability_power_nothing_is_lost() -> None:
    """Whatever the disk did with what was not synced, every acknowledged chunk is there and every log is a prefix."""
    trials = [_trial(seed, "power") for seed in range(TRIALS)]
    assert sum(acked for acked, _ in trials) > 10_000
    assert [seed for seed, (_, lost) in enumerate(trials) if lost] == []


def test_with_durability_process_chunks_are_lost_but_no_hole_is_shown() -> None:
    """The same cuts do lose acknowledged chunks where only the end of the process is to be survived."""
    trials = [_trial(seed, "process") for seed in range(TRIALS // 2)]
    assert sum(lost for _, lost in trials) > 100
