"""What is made of a file after a crash: every stream that was running gets its end, or goes on."""

from __future__ import annotations

import time

import apsw
import msgspec

from wsstream.stores.base import End, StoredLog, StreamRecord
from wsstream.stores.journal import Journal, journalled
from wsstream.stores.operations import Finish, Update, finish, renew_message, update
from wsstream.stores.reading import readable_record


def recover(db: apsw.Connection, path: str, journal: Journal, end: End) -> dict[int, StoredLog]:
    """Give every stream that was running its end, or let it go on; the logs of those that do, by their numbers.

    A row that cannot be read ends the logs that it was part of: what is left of each is a prefix, and none is known
    to be whole. All is done in one transaction: where ``end`` raises, nothing is. ``path`` is for the log.
    """
    logs, is_whole = journalled(db)
    running: dict[int, StoredLog] = {}
    with db:
        rows = list(db.execute("SELECT number, record, cancelled FROM streams WHERE ending IS NULL"))
        for number, packed, cancelled in rows:
            kinds, bodies = logs.get(number, (bytearray(), []))
            record = readable_record(path, number, packed)
            if record is not None:
                log = StoredLog(record, bodies, bytes(kinds), None, is_whole)
                going_on = _recover_stream(db, number, bool(cancelled), log, end)
                if going_on is not None:
                    running[number] = going_on
        kept = {number: (log.kinds, list(log.bodies)) for number, log in running.items() if log.bodies}
        gathered = journal.begin_anew(db, kept)
    journal.keep_anew(gathered)
    return running


def _recover_stream(db: apsw.Connection, number: int, cancelled: bool, log: StoredLog, end: End) -> StoredLog | None:
    """Give a stream its end; or its new record, if it goes on with that."""
    ending = end(log.record, cancelled, log)
    if isinstance(ending, StreamRecord):
        update(db, Update(number, ending))
        return msgspec.structs.replace(log, record=ending)
    outcome, message = ending
    finish(db, Finish(number, outcome, time.time(), log.kinds, log.bodies))
    if log.record.again:  # nobody will ask for it any more
        update(db, Update(number, msgspec.structs.replace(log.record, again=b"")))
    if message is not None:
        renew_message(db, message)  # where it is gone, its session was deleted
    return None
