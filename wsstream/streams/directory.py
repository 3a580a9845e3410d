"""Every stream that there is, by its id, its request and its session; and the ids of those that are no longer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from wsstream.errors import LogTrimmed, UnknownStream
from wsstream.streams.stream import Stream

TOMBSTONES = 10_000
"""Forgotten streams whose ids are remembered, to say "no longer kept" instead of "never was"."""


class Directory:
    """Finds streams. A session is named by its key, which no other user's session has."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._sessions: dict[str, list[str]] = {}
        self._forgotten: OrderedDict[str, str] = OrderedDict()

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._streams

    def enter(self, stream: Stream) -> None:
        """It is found from now on."""
        record = stream.record
        self._streams[record.stream_id] = stream
        self._sessions.setdefault(record.session_key, []).append(record.stream_id)
        self._requests[record.session_key, record.request_id] = record.stream_id

    def remove(self, stream_id: str) -> Stream:
        """It is not found any more; that it was there is remembered for a while."""
        stream = self._streams.pop(stream_id)
        record = stream.record
        self._requests.pop((record.session_key, record.request_id), None)
        siblings = self._sessions[record.session_key]
        siblings.remove(stream_id)
        if not siblings:
            del self._sessions[record.session_key]
        self._forgotten[stream_id] = record.owner
        if len(self._forgotten) > TOMBSTONES:
            self._forgotten.popitem(last=False)
        return stream

    def find(self, stream_id: str) -> Stream | None:
        """The stream of that id, whoever's it is."""
        return self._streams.get(stream_id)

    def get(self, stream_id: str, owner: str = "") -> Stream:
        """The stream of that id, as ``owner`` may see it: theirs, or one that is nobody's.

        Raises:
            UnknownStream: there never was one; and as if there never was, where it is somebody else's.
            LogTrimmed: there was, but it is no longer kept.
        """
        stream = self._streams.get(stream_id)
        whose = self._forgotten.get(stream_id) if stream is None else stream.record.owner
        if whose is None or (whose and whose != owner):
            raise UnknownStream
        if stream is None:
            raise LogTrimmed
        return stream

    def of_request(self, key: str, request_id: str) -> Stream | None:
        """The stream that a session's request has begun."""
        stream_id = self._requests.get((key, request_id))
        return None if stream_id is None else self._streams[stream_id]

    def of_session(self, key: str) -> list[Stream]:
        """The session's streams, oldest first."""
        return [self._streams[stream_id] for stream_id in self._sessions.get(key, ())]
