"""A disk that loses power: an apsw VFS in memory whose writes are safe only when they were synced.

`Disk.cut` is the power cut: of what was written since the last sync, each piece is there, or not, or torn, in whatever
order, as the seed says. A disk can also be told to fail: see `Disk.trouble`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import apsw

SECTOR = 512
_names = itertools.count()

Trouble = Callable[[str, int], int | None]
"""Given the kind of access (`read`, `write`, `sync`, `truncate`) and its number, SQLite's code for its failure."""


class PowerCut(apsw.IOError):
    """The power is gone."""


class _File:
    """What is on the platter, and what only the kernel knows."""

    def __init__(self, content: bytes = b"") -> None:
        self.safe = bytearray(content)
        self.seen = bytearray(content)
        self.unsynced: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, data: bytes) -> None:
        """Write; a write without data is a truncation."""
        self.unsynced.append((offset, data))
        _apply(self.seen, offset, data)

    def truncate(self, size: int) -> None:
        """Cut it off."""
        self.unsynced.append((size, None))
        _apply(self.seen, size, None)

    def sync(self) -> None:
        """Make it safe."""
        self.safe[:] = self.seen
        self.unsynced.clear()

    def after_cut(self, dice: random.Random) -> bytes:
        """What a power cut leaves of it."""
        left = bytearray(self.safe)
        fate = dice.choice(("none", "some", "some", "torn", "all"))
        pieces = [] if fate == "none" else list(self.unsynced)
        if fate in ("some", "torn"):
            pieces = [piece for piece in pieces if dice.random() < 0.6]
            dice.shuffle(pieces)
        for offset, data in pieces:
            if data is not None and fate == "torn" and len(data) > SECTOR and dice.random() < 0.3:
                data = data[: SECTOR * dice.randrange(1, len(data) // SECTOR + 1)]
            _apply(left, offset, data)
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    elif len(content) < offset:
        content.extend(bytes(offset - len(content)))
        content.extend(data)
    else:
        content[offset : offset + len(data)] = data


class Disk(apsw.VFS):
    """One disk with its files, registered as a VFS under `name`."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.name = f"disk-{next(_names)}"
        self.files = {name: _File(content) for name, content in (files or {}).items()}
        self.trouble: Trouble = lambda _kind, _count: None
        self.cut_at: int | None = None
        self.counts = {"read": 0, "write": 0, "sync": 0, "truncate": 0}
        self.dead = False
        self.opened = 0
        super().__init__(self.name, "")

    def touch(self, kind: str) -> None:
        """Count an access, and fail it where it is to fail."""
        self.counts[kind] += 1
        if self.cut_at is not None and sum(self.counts.values()) >= self.cut_at:
            self.dead = True
        if self.dead:
            raise PowerCut("the power is gone")
        code = self.trouble(kind, self.counts[kind])
        if code is not None:
            raise _failure(code)

    def cut(self, seed: int) -> Disk:
        """Cut the power; the disk as it is found afterwards."""
        self.dead = True
        dice = random.Random(seed)
        return Disk({name: file.after_cut(dice) for name, file in self.files.items()})

    def copy(self) -> dict[str, bytes]:
        """What a process that is started now would read."""
        return {name: bytes(file.seen) for name, file in self.files.items()}

    # -- what SQLite calls

    def xOpen(self, name: Any, flags: list[int]) -> _OpenFile:
        path = (name.filename() if isinstance(name, apsw.URIFilename) else name) or ""
        self.opened += path.endswith(".db")
        path = path or f"temporary-{next(_names)}"
        self.files.setdefault(path, _File())
        flags[1] = flags[0]
        return _OpenFile(self, self.files[path])

    def xDelete(self, name: str, sync: bool) -> None:
        if self.files.pop(name, None) is None:
            raise _failure(apsw.SQLITE_IOERR_DELETE_NOENT)

    def xAccess(self, name: str, flags: int) -> bool:
        return name in self.files and (flags != apsw.SQLITE_ACCESS_EXISTS or bool(self.files[name].seen))

    def xFullPathname(self, name: str) -> str:
        return name


class _OpenFile:
    """One open file, as SQLite sees it."""

    def __init__(self, disk: Disk, file: _File) -> None:
        self._disk = disk
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.touch("read")
        return bytes(self._file.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.touch("write")
        self._file.write(offset, bytes(data))

    def xSync(self, flags: int) -> None:
        self._disk.touch("sync")
        self._file.sync()

    def xTruncate(self, size: int) -> None:
        self._disk.touch("truncate")
        self._file.truncate(size)

    def xFileSize(self) -> int:
        return len(self._file.seen)

    def xLock(self, level: int) -> None:
        """Nobody else is there."""

    def xUnlock(self, level: int) -> None:
        """Nobody else is there."""

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xClose(self) -> None:
        """Nothing is held."""


def _failure(code: int) -> apsw.Error:
    error = apsw.exception_for(code)
    assert isinstance(error, apsw.Error)
    error.extendedresult = code
    return error
