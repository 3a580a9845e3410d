"""The seam where apsw's exceptions become ours: no exception of SQLite's gets out of a store."""

from __future__ import annotations

import apsw
import msgspec

from wsstream.errors import StoreCorrupt, StoreError, StoreLocked

_CORRUPT = (
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.MismatchError,
    apsw.FormatError,
    msgspec.DecodeError,
    UnicodeDecodeError,
)


class translated:
    """A block whose failures are `StoreError`: `StoreCorrupt` for damage, `StoreLocked` for another process.

    While opening, a statement that fails means damaged tables. One of it serves for any number of blocks.
    """

    __slots__ = ("_corrupt", "_path")

    def __init__(self, path: str, opening: bool = False) -> None:
        self._path = path
        self._corrupt = (*_CORRUPT, apsw.SQLError) if opening else _CORRUPT

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, StoreError) or not isinstance(error, Exception):
            return
        if isinstance(error, self._corrupt):
            raise StoreCorrupt(f"{self._path}: {error}") from error
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            raise StoreLocked(f"{self._path}: another process is using it") from error
        if isinstance(error, apsw.Error | MemoryError):
            raise StoreError(f"{self._path}: {str(error) or type(error).__name__}") from error
