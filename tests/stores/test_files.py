"""Files that are not what they were: ours are known and set aside, others are left alone."""

from __future__ import annotations

import glob
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.stores.file import cut_off
from wsstream.chunks import Outcome, StreamState
from wsstream.errors import ConfigError, StoreCorrupt, StoreError
from wsstream.stores import schema
from wsstream.stores.database import Database
from wsstream.stores.files import is_ours
from wsstream.stores.operations import Append, Create, Finish, SaveMessage
from wsstream.stores.sqlite import SqliteStore
from wsstream.testing.contracts import message, record


def _damaged(path: Path, seed: int, spoil: Callable[[bytearray, random.Random], None]) -> dict[str, list[bytes]]:
    """A store that was killed, with damage in its file or its WAL; and what had been written."""
    database = Database(str(path))
    written: dict[str, list[bytes]] = {}
    for number in range(1, 7):
        name = f"s{number}"
        bodies = written[name] = [b"%d.%d" % (number, n) * (n % 50) for n in range(40)]
        database.commit([Create(number, record(name)), SaveMessage(message("ses", f"said {name}", stream_id=name))])
        for first in range(0, 40, 8):
            database.commit([Append(number, first + 1, bytes(8), bodies[first : first + 8])])
        if number < 4:
            database.commit([Finish(number, Outcome(StreamState.COMPLETE, 40), 1.0, bytes(40), bodies)])
        if number == 4:
            database._checkpoint()
    database.abandon()
    dice = random.Random(seed)
    victim = str(path) + dice.choice(("", "-wal"))
    with open(victim, "rb") as file:
        content = bytearray(file.read())
    spoil(content, dice)
    _write(victim, content)
    return written


def _write(path: Path | str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _flip(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 1, 3, 30))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def _truncate(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content) + 1) :]


def _blank(content: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(content))
    content[at : at + 4096] = bytes(len(content[at : at + 4096]))


@pytest.mark.parametrize("spoil", [_flip, _truncate, _blank])
async def test_damage_is_found_and_never_shown(tmp_path: Path, spoil: Any) -> None:
    """A store opens whatever happened to its file, shows only what was written, and takes what is new."""
    aside = 0
    for seed in range(60):
        directory = tmp_path / str(seed)
        directory.mkdir()
        path = directory / "x.db"
        written = _damaged(path, seed, spoil)
        store = SqliteStore(str(path))
        try:
            summaries = await store.open(cut_off)
        except StoreError as error:
            if "newer wsstream" in str(error):
                continue  # the version itself was hit
            raise
        except ConfigError:
            assert not is_ours(str(path))  # all that showed whose it was is gone, and it is left alone
            continue
        for summary in summaries:
            await _check_log(store, summary.record.stream_id, written)
        try:
            said = [each.content for each in await store.history("ses")]
        except StoreCorrupt:
            said = []
        assert set(said) <= {f"said {name}" for name in written}
        failures: list[StoreError] = []
        store.on_failure = lambda error, _, seen=failures: seen.append(error)  # type: ignore[misc]
        begun: list[bool] = []
        store.create(record("new"), lambda seen=begun: seen.append(True))  # type: ignore[misc]
        await store.load("new")
        assert begun or failures
        await store.close()
        aside += len(glob.glob(f"{path}.corrupt-*[0-9]"))
        again = SqliteStore(str(path))
        await again.open(cut_off)
        await again.close()
    assert aside < 60
    assert aside > 0 or spoil is not _blank


async def _check_log(store: SqliteStore, name: str, written: dict[str, list[bytes]]) -> None:
    try:
        log = await store.load(name)
    except StoreCorrupt:
        return
    assert log is None or list(log.bodies) == written[name][: len(log.bodies)]


@pytest.mark.parametrize(
    "content",
    [
        *(b"what is this? " * 1000, b"x", b"SQLite format 3", b"SQLite format 3\0" + bytes(8176), bytes(4096)),
        schema.SCHEMA.encode(),
    ],
)
async def test_a_file_that_was_never_ours_is_not_moved(tmp_path: Path, content: bytes) -> None:
    """A mistyped path takes nobody's file away: it is refused, and is where and what it was."""
    path = tmp_path / "letter.txt"
    _write(path, content)
    store = SqliteStore(str(path))
    with pytest.raises(ConfigError, match=r"letter\.txt is not a database of wsstream"):
        await store.open(cut_off)
    await store.close()
    assert os.listdir(tmp_path) == ["letter.txt"]
    assert path.read_bytes() == content


@pytest.mark.parametrize("at", [0, 16, 68, 100])
async def test_a_damaged_database_of_ours_is_known(tmp_path: Path, at: int) -> None:
    """Whatever part of its header is hit: it is ours, and set aside for a new one."""
    path = tmp_path / "x.db"
    _damaged(path, 1, lambda *_: None)
    with apsw.Connection(str(path)) as db:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    content = path.read_bytes()
    _write(path, content[:at] + b"\xff" * 8 + content[at + 8 :])
    assert is_ours(str(path))


async def test_a_database_that_cannot_be_read_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is kept under a name that says why, and the log says so; twice in a second is fine."""
    path = tmp_path / "x.db"
    Database(str(path)).close()
    damaged = path.read_bytes()[:100] + b"what is this? " * 1000
    for _ in range(2):
        _write(path, damaged)
        store = SqliteStore(str(path))
        assert await store.open(cut_off) == []
        await store.close()
        os.unlink(path)
    kept = [name for name in glob.glob(f"{path}.corrupt-*") if not name.endswith("-wal")]
    assert len(kept) == 2
    assert "cannot be read" in caplog.text
    assert kept[0].split(".corrupt-")[1][:8] in caplog.text
