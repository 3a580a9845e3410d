"""How much memory this process has taken, of how much it could have.

What it could have is bounded by whichever is nearest: a limit that was set, the limit of its control group (both
versions; the container's, that is), or what the machine has left. The kernel's memory for sockets counts, since clients
that do not read fill it: a group of version 2 includes it, elsewhere our part is estimated by the number of sockets.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

M_ARENA_MAX = -8
"""Of ``malloc.h``."""
UNLIMITED = 1 << 60
"""A group's limit from here on is none; version 1 writes the largest number of pages."""


class Memory(NamedTuple):
    """One reading; bytes."""

    rss: int
    tcp: int
    """The kernel's memory for all TCP sockets of the machine."""
    used: int
    """Of the narrowest limit."""
    limit: int

    @property
    def share(self) -> float:
        """How much of it is taken."""
        return self.used / self.limit if self.limit else 1.0


class Spare:
    """How much is resident and in no use: what a trim would return is what of it has come since the last one.

    The rest is the program itself, pages that something small lives on, and what Python's own allocator keeps. None of
    it is known; it is whatever was in no use behind the last trim, or less.
    """

    def __init__(self) -> None:
        self._floor = self._before = UNLIMITED

    def observe(self, unused: int) -> int:
        """What of ``unused`` bytes could be returned, and was not in use at the last look either."""
        self._floor = min(self._floor, unused)
        lasting = min(self._before, unused)
        self._before = unused
        return max(0, lasting - self._floor)

    def begin_anew(self, unused: int) -> None:
        """There was a trim, and so many bytes could not be returned."""
        self._floor = self._before = unused


class MemoryReader:
    """Reads, in a few small files of the kernel's."""

    def __init__(
        self, limit: int | None = None, sockets: Callable[[], int] = lambda: 0, root: Path = Path("/")
    ) -> None:
        """``limit``: one that was set; ``sockets``: how many are ours; ``root``: where ``proc`` and ``sys`` are."""
        self._limit = limit
        self._sockets = sockets
        self._proc = root / "proc"
        self._groups = list(_groups(root))
        self._process = psutil.Process()

    def read(self) -> Memory:
        """The memory now."""
        rss = int(self._process.memory_info().rss)
        sockstat = _read_words(self._proc / "net" / "sockstat", "TCP:")
        tcp = int(sockstat.get("mem", 0)) * mmap.PAGESIZE
        own_tcp = tcp * min(1.0, self._sockets() / max(1, int(sockstat.get("inuse", 1))))
        own = rss + int(own_tcp)
        found = [(own, own + int(psutil.virtual_memory().available))]
        if self._limit is not None:
            found.append((own, self._limit))
        for group in self._groups:
            limit = group.limit()
            if limit is not None:
                found.append((group.used(), limit))
        used, limit = max(found, key=lambda pair: pair[0] / pair[1] if pair[1] else 1.0)
        return Memory(rss, tcp, used, limit)

    def unused(self) -> int:
        """Bytes that are resident and not in use; 0 where the C library does not tell.

        It counts them piece by piece: 4 ms for a quarter of a million pieces, microseconds where all is well.
        """
        if _mallinfo is None:
            return 0
        info = _mallinfo()
        return max(0, int(self._process.memory_info().rss) - int(info.uordblks) - int(info.hblkhd))


class _Group(NamedTuple):
    """One control group: the files of its limit and usage, and what of that can be taken back at any time."""

    limit_file: Path
    used_file: Path
    stat_file: Path
    reclaimable: str

    def limit(self) -> int | None:
        value = _read_number(self.limit_file)
        return value if value is not None and 0 < value < UNLIMITED else None

    def used(self) -> int:
        stat = _read_table(self.stat_file)
        return max(0, (_read_number(self.used_file) or 0) - stat.get(self.reclaimable, 0))


def _groups(root: Path) -> Iterator[_Group]:
    """The groups of this process and those around them, as far as they are visible; in a container only its own is."""
    for line in _read_lines(root / "proc" / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _upwards(root / "sys/fs/cgroup", path):
                yield _Group(folder / "memory.max", folder / "memory.current", folder / "memory.stat", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _upwards(root / "sys/fs/cgroup/memory", path):
                yield _Group(
                    folder / "memory.limit_in_bytes",
                    folder / "memory.usage_in_bytes",
                    folder / "memory.stat",
                    "total_inactive_file",
                )


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.strip().split("/") if part and part != ".."]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not this kind of system
        return []


def _read_number(path: Path) -> int | None:
    text = "".join(_read_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _read_table(path: Path) -> dict[str, int]:
    pairs = [line.split() for line in _read_lines(path)]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read_words(path: Path, begin: str) -> dict[str, str]:
    """The line that begins so, as name and value in turn."""
    for line in _read_lines(path):
        if line.startswith(begin):
            words = line.split()[1:]
            return dict(zip(words[::2], words[1::2], strict=False))
    return {}


def give_back() -> None:
    """Return to the system what was freed, garbage too; the C library would keep most of it for later."""
    gc.collect()
    trim()


def trim() -> None:
    """The same of what is free already, where `give_back` looks at every object.

    It takes a tenth of a millisecond for each MiB, in which nobody else can allocate: in a thread of its own it would
    hold the loop up just as long.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def share_one_heap() -> None:
    """Have all threads take memory from one place; before the first of them begins.

    The C library would give each its own, up to 64 MiB of whose end no trim returns: the store's thread holds whole
    answers for a moment.
    """
    if _mallopt is not None:
        _mallopt(M_ARENA_MAX, 1)


class _Mallinfo(ctypes.Structure):
    """What ``mallinfo2`` gives: see mallinfo(3)."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def _of_c_library(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


_malloc_trim = _of_c_library("malloc_trim")
_mallopt = _of_c_library("mallopt")
_mallinfo = _of_c_library("mallinfo2")
if _mallinfo is not None:
    _mallinfo.restype = _Mallinfo
