"""The journal: one packed row for every group commit, whatever number of streams it holds.

So a commit touches the end of one table and nothing else. When an answer ends, its whole log becomes a row elsewhere,
and rows that no running answer needs are deleted: they are needed from the first one of the oldest answer that runs.
Answers that take very long are gathered now and then into one row, so that they do not hold on to everybody else's.
(A row per chunk in a table ordered by stream stalls for up to 97 ms at checkpoints: docs/benchmarks.md, "Stores".)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import apsw
import msgspec

from wsstream.errors import StoreCorrupt
from wsstream.stores.operations import Append
from wsstream.stores.rows import LARGE, checked, pack, sealed

logger = logging.getLogger(__name__)

COMPACT_BYTES = 16 * 1024 * 1024
"""The size from which the journal is looked through for answers that take long."""

Logs = dict[int, tuple[bytearray, list[bytes]]]
"""The kinds and bodies of streams, by their numbers."""

_unpack = msgspec.msgpack.Decoder(list[Append]).decode


class _Gathered(NamedTuple):
    """A row that is all the journal has of a stream."""

    number: int
    row: int
    size: int


class Journal:
    """The books of the table: which rows there are, how large they are, and who needs them.

    A write is made in a transaction of the caller's. What it changes in the books is given back, and entered when the
    transaction was committed (`keep`, `keep_anew`): after a failure the books say what is in the file.
    """

    def __init__(self) -> None:
        self._row = 0
        self._rows: deque[tuple[int, int]] = deque()
        self._needed: dict[int, int] = {}
        self._size = 0
        self._compact_at = COMPACT_BYTES

    # -- a commit

    def begin(self) -> dict[int, int]:
        """Begin a row. What is given is for `write`, which changes it, and `keep`: the first row each stream needs."""
        self._row += 1  # never used twice: a commit that failed may yet be found in the file
        return dict(self._needed)

    def write(self, db: apsw.Connection, appends: list[Append], over: set[int], needed: dict[int, int]) -> int:
        """Write the row, without what is ``over``, and delete what nobody needs; the bytes that were written."""
        if over:
            appends = [append for append in appends if append.number not in over]
            for number in over:
                needed.pop(number, None)
            self._trim(db, needed)
        if not appends:
            return 0
        for append in appends:
            needed.setdefault(append.number, self._row)
        return _write(db, self._row, appends)

    def keep(self, needed: dict[int, int], size: int) -> None:
        """Enter what was committed: a row of so many bytes, or none, and what is needed now."""
        shrunk = not self._needed.keys() <= needed.keys()
        self._needed = needed
        if size:
            self._account(self._row, size)
        if shrunk:
            self._forget_rows()

    def _trim(self, db: apsw.Connection, needed: dict[int, int]) -> None:
        oldest = min(needed.values(), default=self._row)
        if self._rows and self._rows[0][0] < oldest:
            db.execute("DELETE FROM journal WHERE number < ?", (oldest,))

    def _account(self, row: int, size: int) -> None:
        self._rows.append((row, size))
        self._size += size

    def _forget_rows(self) -> None:
        rows = self._rows
        oldest = min(self._needed.values(), default=self._row + 1)
        while rows and rows[0][0] < oldest:
            self._size -= rows.popleft()[1]

    def has_lost(self, db: apsw.Connection) -> bool:
        """Whether the newest row that was committed is not in the table."""
        newest = self._rows[-1][0] if self._rows else None
        return newest is not None and not db.execute("SELECT 1 FROM journal WHERE number = ?", (newest,)).fetchall()

    # -- a row for each log

    def is_large(self) -> bool:
        """Whether it is time for `compact`."""
        return self._size >= self._compact_at

    def compact(self, db: apsw.Connection) -> None:
        """Gather what long answers have in many rows: the journal must not grow for as long as they run.

        A transaction of its own.
        """
        middle = self._rows[len(self._rows) // 2][0]
        slow = {number for number, first in self._needed.items() if first <= middle}
        with db:
            gathered = self._gather(db, journalled(db, slow)[0])
            needed = self._needed | {each.number: each.row for each in gathered}
            self._trim(db, needed)
        self._needed = needed
        for each in gathered:
            self._account(each.row, each.size)
        self._forget_rows()
        self._compact_at = max(COMPACT_BYTES, 2 * self._size)

    def begin_anew(self, db: apsw.Connection, logs: Mapping[int, tuple[bytes, list[bytes]]]) -> list[_Gathered]:
        """Have nothing in the table but a row for each of ``logs``. What is given is for `keep_anew`."""
        db.execute("DELETE FROM journal")
        return self._gather(db, logs)

    def keep_anew(self, gathered: list[_Gathered]) -> None:
        """Enter what `begin_anew` has written, when it is committed."""
        for each in gathered:
            self._needed[each.number] = each.row
            self._account(each.row, each.size)

    def _gather(
        self, db: apsw.Connection, logs: Mapping[int, tuple[bytes | bytearray, list[bytes]]]
    ) -> list[_Gathered]:
        gathered = []
        for number, (kinds, bodies) in logs.items():
            self._row += 1
            size = _write(db, self._row, [Append(number, 1, bytes(kinds), bodies)])
            gathered.append(_Gathered(number, self._row, size))
        return gathered


def _write(db: apsw.Connection, row: int, appends: list[Append]) -> int:
    entries = sealed(pack(appends), row)
    db.execute("INSERT INTO journal VALUES (?, ?)", (row, entries), can_cache=len(entries) < LARGE)
    return len(entries)


def journalled(db: apsw.Connection, numbers: set[int] | None = None) -> tuple[Logs, bool]:
    """The logs in the journal, or only those of ``numbers``, and whether every row could be read.

    A log ends before a gap, which a row that cannot be read leaves.

    Raises:
        StoreCorrupt: a row cannot be read, and only ``numbers`` were asked for.
    """
    logs: Logs = {}
    is_whole = True
    for row, packed in db.execute("SELECT number, entries FROM journal ORDER BY number"):
        try:
            entries = _unpack(checked(packed, row))
        except StoreCorrupt as error:
            if numbers is not None:
                raise
            logger.critical("row %d of the journal is lost, the answers in it end before: %s", row, error)
            is_whole = False
            continue
        for entry in entries:
            if numbers is not None and entry.number not in numbers:
                continue
            kinds, bodies = logs.setdefault(entry.number, (bytearray(), []))
            if entry.first == len(bodies) + 1:
                kinds += entry.kinds
                bodies += entry.bodies
    return logs, is_whole
