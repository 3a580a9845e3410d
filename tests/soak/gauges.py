"""What a server takes: memory, files, threads, its store, and how late its loop is. One sample a second."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024
LIMITS = {
    # A server at rest has 90 MiB of memory, 18 files and 3 threads; one of the crowd's clients has three files at most.
    "rss_mib": 300.0,
    "files": 300.0,
    "threads": 24.0,
    # docs/operations.md: about 16 MiB, unless one large answer makes it larger for a while.
    "wal_mib": 32.0,
}
"""What no sample may be beyond."""
_LINE = re.compile(r'^(\w+)(?:\{le="([^"]+)"\})? (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """One look."""

    rss_mib: float
    files: float
    threads: float
    cpu: float
    """Cores."""
    store_mib: float
    wal_mib: float


class Gauges:
    """All samples of all lives of a server."""

    def __init__(self, store: Path, object_: Callable[[str], None]) -> None:
        self.samples: list[Sample] = []
        self._store = store
        self._object = object_
        self._process: psutil.Process | None = None
        self._lags: Counter[float] = Counter()
        """Timers by how late they came, in lives that are over; upper bounds."""
        self._lag: Mapping[float, float] = {}

    def attach(self, pid: int) -> None:
        """Look at a new process from now on."""
        self._lags.update(self._lag)
        self._lag = {}
        self._process = psutil.Process(pid)
        self._process.cpu_percent()
        self._since = time.monotonic()

    def sample(self) -> Sample | None:
        """Look; None where there is nothing to be seen."""
        if self._process is None:
            return None
        try:
            found = Sample(
                self._process.memory_info().rss / MIB,
                self._process.num_fds(),
                self._process.num_threads(),
                self._cores(self._process),
                _size(self._store),
                _size(self._store.with_name(self._store.name + "-wal")),
            )
        except psutil.Error:
            return None
        self.samples.append(found)
        for name, limit in LIMITS.items():
            if (value := getattr(found, name)) > limit:
                self._object(f"{name} is {value:.0f}, beyond {limit:.0f}")
        return found

    def _cores(self, process: psutil.Process) -> float:
        """Since the last sample; nothing where that is too short to tell."""
        now = time.monotonic()
        if now - self._since < 0.5:
            return 0.0
        self._since = now
        return process.cpu_percent() / 100

    def scraped(self, text: str) -> dict[str, float]:
        """Read what the server's metrics say: those without labels."""
        metrics: dict[str, float] = {}
        lag: dict[float, float] = {}
        for name, bound, value in _LINE.findall(text):
            if not bound:
                metrics[name] = float(value)
            elif name == "wsstream_loop_lag_seconds_bucket":
                lag[float(bound)] = float(value)
        below = 0.0
        for bound, count in sorted(lag.items()):
            lag[bound], below = count - below, count
        self._lag = lag
        return metrics

    def lag(self, share: float) -> float:
        """The time within which such a share of all timers came: a bucket's upper bound."""
        counts = self._lags + Counter(self._lag)
        left = share * sum(counts.values())
        for bound, count in sorted(counts.items()):
            left -= count
            if left <= 0:
                return bound
        return 0.0


def _size(path: Path) -> float:
    try:
        return path.stat().st_size / MIB
    except FileNotFoundError:
        return 0.0
