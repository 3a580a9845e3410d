"""All answers of a process, one room for each of: what an answer is, whom it asks, when it runs, what it leaves."""

from wsstream.streams.all import Streams, StreamsStatistics
from wsstream.streams.stream import Stream, Watcher

__all__ = ["Stream", "Streams", "StreamsStatistics", "Watcher"]
