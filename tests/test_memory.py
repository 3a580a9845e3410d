"""How much memory there is: read from files that a test can write."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wsstream import memory
from wsstream.memory import Memory, MemoryReader, Spare

MIB = 1024 * 1024


def write(root: Path, **files: str) -> None:
    """Write files; ``__`` in a name is a slash, ``_D_`` a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_D_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_this_process() -> None:
    """On this machine a reading is of this process, and a share of what it could have."""
    reading = MemoryReader().read()
    assert MIB < reading.rss <= reading.limit
    assert 0 < reading.share < 1


def test_a_limit_that_was_set(tmp_path: Path) -> None:
    """Where it is the nearest, the share is that of the limit."""
    reading = MemoryReader(limit=50 * MIB, root=tmp_path).read()
    assert reading.limit == 50 * MIB
    assert reading.share == reading.rss / (50 * MIB)


def test_a_group_of_version_two(tmp_path: Path) -> None:
    """Its limit counts, and of its usage what could not be taken back at any time."""
    write(
        tmp_path,
        proc__self__cgroup="0::/app/web\n",
        sys__fs__cgroup__app__web__memory_D_max="1000000\n",
        sys__fs__cgroup__app__web__memory_D_current="900000\n",
        sys__fs__cgroup__app__web__memory_D_stat="anon 5\ninactive_file 200000\n",
        sys__fs__cgroup__app__memory_D_max="max\n",
    )
    reading = MemoryReader(root=tmp_path).read()
    assert (reading.used, reading.limit) == (700_000, 1_000_000)


def test_the_narrowest_group_around_it_counts(tmp_path: Path) -> None:
    """A limit further up holds for everybody below."""
    write(
        tmp_path,
        proc__self__cgroup="0::/pod/app\n",
        sys__fs__cgroup__pod__app__memory_D_max="9000000\n",
        sys__fs__cgroup__pod__app__memory_D_current="900000\n",
        sys__fs__cgroup__pod__memory_D_max="1000000\n",
        sys__fs__cgroup__pod__memory_D_current="950000\n",
    )
    assert MemoryReader(root=tmp_path).read()[2:] == (950_000, 1_000_000)


def test_a_group_of_version_one(tmp_path: Path) -> None:
    """It has other names, and a number so large that it means none."""
    write(
        tmp_path,
        proc__self__cgroup="5:cpu:/x\n4:memory:/x\n",
        sys__fs__cgroup__memory__x__memory_D_limit_in_bytes="2000000\n",
        sys__fs__cgroup__memory__x__memory_D_usage_in_bytes="1900000\n",
        sys__fs__cgroup__memory__x__memory_D_stat="total_inactive_file 100000\n",
        sys__fs__cgroup__memory__memory_D_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__memory__memory_D_usage_in_bytes="9223372036854771711\n",
    )
    assert MemoryReader(root=tmp_path).read()[2:] == (1_800_000, 2_000_000)


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """The path that the kernel tells may be one outside; then what is visible is ours."""
    write(
        tmp_path,
        proc__self__cgroup="0::/../../somewhere/else\n",
        sys__fs__cgroup__memory_D_max="1000000\n",
        sys__fs__cgroup__memory_D_current="910000\n",
    )
    assert MemoryReader(root=tmp_path).read()[2:] == (910_000, 1_000_000)


def test_the_kernels_memory_for_sockets_counts(tmp_path: Path) -> None:
    """Of all TCP memory as much is taken for ours as of all sockets are ours."""
    write(
        tmp_path, proc__net__sockstat="sockets: used 9\nTCP: inuse 10 orphan 0 tw 0 alloc 10 mem 1000\nUDP: inuse 0\n"
    )
    reading = MemoryReader(limit=50 * MIB, sockets=lambda: 5, root=tmp_path).read()
    assert reading.tcp == 1000 * os.sysconf("SC_PAGESIZE")
    assert reading.used == reading.rss + reading.tcp // 2


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::\n", "::\n:", "4:memory\n"])
def test_a_system_of_another_kind(tmp_path: Path, text: str) -> None:
    """What cannot be read is left out; the machine's own memory is always known."""
    write(tmp_path, proc__self__cgroup=text)
    reading = MemoryReader(root=tmp_path).read()
    assert (reading.tcp, reading.used) == (0, reading.rss)


def test_a_limit_of_nothing_is_full() -> None:
    """There is no share of nothing."""
    assert Memory(1, 0, 1, 0).share == 1.0


def test_memory_can_be_given_back() -> None:
    """It is asked for without harm, whatever the C library is."""
    memory.give_back()


def test_what_is_in_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is used is not in it, one that was freed is, until it is returned."""
    if sys.platform != "linux" or memory._mallinfo is None:
        pytest.skip("the C library does not tell")
    reader = MemoryReader()
    memory.give_back()
    before = reader.unused()
    parts = [bytearray(50_000) for _ in range(400)]
    assert abs(reader.unused() - before) < 2 * MIB
    last = parts.pop()  # what is freed below it stays with the C library
    parts.clear()
    assert reader.unused() - before > 10 * MIB
    memory.trim()
    assert abs(reader.unused() - before) < 2 * MIB
    assert last


def test_a_c_library_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known to be in no use, and to ask for its return does no harm."""
    monkeypatch.setattr(memory, "_mallinfo", None)
    monkeypatch.setattr(memory, "_malloc_trim", None)
    monkeypatch.setattr(memory, "_mallopt", None)
    memory.share_one_heap()
    assert MemoryReader().unused() == 0
    memory.trim()


def test_what_is_spare() -> None:
    """It is what was in no use at the last two looks, beyond the least that was since the last trim."""
    spare = Spare()
    assert [spare.observe(unused) for unused in (50, 90, 80, 20, 95, 95)] == [0, 0, 30, 0, 0, 75]
    spare.begin_anew(60)
    assert [spare.observe(unused) for unused in (60, 100, 100)] == [0, 0, 40]
