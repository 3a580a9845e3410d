"""What is kept of ended answers, and for how long: in the store, and in memory where they are read again."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable

from wsstream.chunklog import ChunkLog
from wsstream.config import Config
from wsstream.shelf import Shelf
from wsstream.stores.base import Store, StoredLog, untold
from wsstream.streams.directory import Directory
from wsstream.streams.stream import Stream


class Retention:
    """Keeps ended answers for a while, and forgets them."""

    def __init__(self, config: Config, store: Store, directory: Directory) -> None:
        """``directory``: where forgotten answers are taken out."""
        self._store = store
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        limit = config.max_retained_bytes if store.durable else config.max_memory_bytes
        self._kept = Shelf(config.retention, config.max_retained, limit, self._forget)
        self._in_memory = Shelf(None, config.max_retained, config.max_memory_bytes, self._unload)
        self.unsent = 0
        """Chunks of ended answers that nobody was sent."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._kept.size

    @property
    def memory_size(self) -> int:
        """Bytes of it in memory."""
        return self._in_memory.size

    def take_over(self, stream: Stream, size: int, age: float) -> None:
        """It ended ``age`` seconds ago, and the store has it."""
        self._kept.put(stream.stream_id, size, age=age)

    def keep(self, stream: Stream, log: ChunkLog) -> None:
        """It has ended: let it be read for a while."""
        if log.outcome is not None and stream.stream_id in self._directory:
            self._kept.put(stream.stream_id, log.weight)
            self._in_memory.put(stream.stream_id, log.weight)
            if not log.attachments:
                self.count_unsent(stream)

    def on_deserted(self, stream: Stream) -> None:
        """The last viewer of an ended answer has left."""
        self.count_unsent(stream)
        if stream.stream_id not in self._directory:
            stream.log.let_go()
        elif self._in_memory.overfull and stream.stream_id in self._in_memory:
            # It could not go while it was followed, and it may be long until something else ends.
            self._in_memory.drop(stream.stream_id)
            self._unload(stream.stream_id)

    def count_unsent(self, stream: Stream) -> None:
        """Count anew what nobody was sent of an ended answer."""
        unsent = stream.log.unsent
        self.unsent += unsent - stream.unsent
        stream.unsent = unsent

    def load(self, stream: Stream) -> Future[StoredLog | None] | None:
        """See that the stream's chunks are in memory; None where they are, else a future of when they will be.

        Raises (by the future):
            StoreError: they cannot be read.
        """
        if stream.log.loaded:
            self._in_memory.touch(stream.stream_id)
            return None
        if stream.loading is None:
            stream.loading = self._store.load(stream.stream_id)
            stream.loading.add_done_callback(lambda loaded: self._on_loaded(stream, loaded))
        return stream.loading

    def _on_loaded(self, stream: Stream, loaded: Future[StoredLog | None]) -> None:
        stream.loading = None
        if loaded.cancelled() or loaded.exception() is not None:
            return
        stored = loaded.result()
        if stored is not None:
            stream.log.fill(stored.bodies, stored.kinds)
            self._loop.call_soon(self._keep_in_memory, stream)  # not before those who waited for it have attached

    def _keep_in_memory(self, stream: Stream) -> None:
        if stream.stream_id in self._directory:
            self._in_memory.put(stream.stream_id, stream.log.weight)

    def _unload(self, stream_id: str) -> None:
        stream = self._directory.find(stream_id)
        if stream is None or not self._store.durable:
            return
        if stream.log.attachments:
            self._in_memory.put(stream_id, stream.log.weight)  # its turn comes again
        else:
            stream.log.empty()

    def drop_from_memory(self) -> int:
        """Leave the ended logs that nobody follows to a durable store; how many bytes of memory that gives back."""
        before = self._in_memory.size
        if self._store.durable:
            self._in_memory.clear()
        return before - self._in_memory.size

    def discard(self, stream_id: str, deleted: Callable[[], None] = untold) -> None:
        """Forget it now; ``deleted`` is called when that is stored."""
        if stream_id in self._directory:
            self._kept.drop(stream_id)
            self._forget(stream_id, deleted)
        else:  # its deletion may be under way still
            self._store.delete(stream_id, deleted)

    def _forget(self, stream_id: str, deleted: Callable[[], None] = untold) -> None:
        self._directory.remove(stream_id).log.let_go()
        self._in_memory.drop(stream_id)
        self._store.delete(stream_id, deleted)

    def close(self) -> None:
        """Stop waiting for anything to grow old."""
        self._kept.close()
        self._in_memory.close()
