"""What the server's processes use up. They are read at the moments between which tokens are counted."""

from __future__ import annotations

import os
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]


class Usage(NamedTuple):
    """CPU seconds since the processes began, and their memory now in bytes."""

    user: float = 0.0
    system: float = 0.0
    rss: int = 0


class Meter:
    """Reads the usage of the server's processes, where they could be found."""

    def __init__(self, processes: list[psutil.Process], missing: str | None = None) -> None:
        """``missing`` says why there are no processes to read."""
        self._processes = processes
        self.missing = missing

    @property
    def pids(self) -> list[int]:
        """The processes read."""
        return [process.pid for process in self._processes]

    def read(self) -> Usage | None:
        """The usage now; None where it cannot be known (any more)."""
        if self.missing is not None:
            return None
        try:
            cpu = [process.cpu_times() for process in self._processes]
            memory = [process.memory_info() for process in self._processes]
        except psutil.Error as error:
            self.missing = _explain(error)
            return None
        return Usage(
            sum(times.user + times.children_user for times in cpu),
            sum(times.system + times.children_system for times in cpu),
            sum(info.rss for info in memory),
        )


def find_meter(pid: int | None, port: int, loopback: bool) -> Meter:
    """A meter of the process ``pid`` and its children, else of those that listen on ``port`` of this machine."""
    if pid is None and not loopback:
        return Meter([], "the server is not on this machine")
    try:
        pids = {pid} if pid is not None else _listeners(port)
        if os.getpid() in pids:
            return Meter([], "the server runs in the load tester's own process")
        parents = [psutil.Process(number) for number in sorted(pids)]
        family = {process.pid: process for parent in parents for process in [parent, *parent.children(recursive=True)]}
    except psutil.Error as error:
        return Meter([], _explain(error))
    if not family:
        return Meter([], f"the process that listens on port {port} could not be found: give --pid")
    return Meter(list(family.values()))


def _listeners(port: int) -> set[int]:
    connections = psutil.net_connections(kind="tcp")
    found = (c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port)
    return {c.pid for c in found if c.pid is not None}


def _explain(error: psutil.Error) -> str:
    if isinstance(error, psutil.NoSuchProcess):
        return f"the process {error.pid} is not there"
    return "the server's process may not be looked at: give --pid, or run as its user"
