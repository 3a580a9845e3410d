"""The file among other files: private to its user, known as ours by its header, set aside where it is damaged."""

from __future__ import annotations

import os
import time

from wsstream.errors import StoreCorrupt, StoreError
from wsstream.stores.schema import APPLICATION_ID

HEADER_BYTES = 100
TRACES_BYTES = 4 * 1024 * 1024
"""How far of a file is looked through for our tables: they are on its first page, and early in its WAL."""
_MAGIC = b"SQLite format 3\0"
_TRACES = [b"table" + name * 2 for name in (b"journal", b"logs")]
"""How SQLite writes the names of our tables down; no text has them like that."""


def make_private(path: str) -> None:
    """Make the file where there is none, readable by our user alone, and so its companions, which inherit its mode.

    Raises:
        StoreError: that cannot be done.
        StoreCorrupt: it is too short for a database, and not empty: SQLite might take it for an empty one.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(directory)  # its name is to survive what its content survives
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if 0 < os.path.getsize(path) < HEADER_BYTES:
        raise StoreCorrupt(f"{path}: it is shorter than any database")


def is_ours(path: str) -> bool:
    """Whether a file that cannot be read is what is left of ours: its header says so, or it or its WAL has our tables.

    What shows nothing of us may be anything, a letter or somebody's photographs.
    """
    ours = APPLICATION_ID.to_bytes(4, "big")
    for suffix in ("", "-wal"):
        try:
            with open(path + suffix, "rb") as file:
                start = file.read(TRACES_BYTES)
        except OSError:
            continue
        if (not suffix and start[:16] == _MAGIC and start[68:72] == ours) or all(trace in start for trace in _TRACES):
            return True
    return False


def set_aside(path: str) -> str:
    """Rename a file that cannot be read, with its companions, and say where it is now.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = wanted = f"{path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}"
    count = 1
    while os.path.exists(aside):
        count += 1
        aside = f"{wanted}-{count}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside
