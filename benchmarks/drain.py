"""SIGTERM with many clients: after how long does the last of them know that the server goes away?

    python benchmarks/drain.py --clients 1000 --rounds 5

The server is a process of its own. Every round is a new one. Rounds of two kinds take turns:

* `sent`: the clients sleep, and ask the kernel afterwards when their sockets got the message (`tcpi_last_data_recv`, in
  steps of the kernel's clock, 1 to 10 ms). That is the server's share alone: nobody reads on the same cores.
* `read`: one thread reads all sockets as the message comes, and stamps each when it has it in hand.

An answer runs on one more connection, so that nothing is closed meanwhile. With `--rate`, every client follows an
answer of its own at so many tokens a second, and all rounds are of the second kind, as data never cease. Times are from
just before the signal. CPU is that of the server's process, from the signal until the last client was told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: drain\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: wsstream.v1\r\n\r\n"
)
LAST_DATA_RECV = 8 + 11 * 4
"""Where tcp_info(7) has the milliseconds since data came."""
SETTLE = 2.5
"""Seconds: the first heartbeats have come and gone by then; no other is due before all is over."""
PATIENCE = 1.5


class Times(NamedTuple):
    """Milliseconds from the signal, of all clients, in order of size; and of the server's CPU."""

    told: list[float]
    user: float
    system: float


def frame(message: dict[str, Any]) -> bytes:
    """One masked text frame; the mask changes nothing."""
    payload = json.dumps(message).encode()
    head = bytes((0x81, 0x80 | len(payload))) if len(payload) < 126 else b"\x81\xfe" + len(payload).to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def connect(port: int, rate: float = 0.0) -> socket.socket:
    """A client that has greeted and been greeted, and has asked for an answer if it is to follow one."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(HANDSHAKE + frame({"type": "hello", "window": 1000}))
    while b"connection_established" not in sock.recv(4096):
        pass
    if rate:
        model = f"demo:rate={rate:g},tokens=900"
        sock.sendall(frame({"type": "chat_request", "request_id": "r", "message": "?", "model": model}))
    return sock


def limits(clients: int) -> tuple[str, ...]:
    """So many of everything that nobody is refused."""
    return ("--max-connections", str(clients + 10), "--max-running-streams", str(clients + 10))


@contextmanager
def server(clients: int) -> Iterator[tuple[int, int]]:
    """A server process: its port and its process id."""
    options = ("--port", "0", "--store", "memory:", "--provider", "demo", "--drain-timeout", "5")
    quiet = ("--heartbeat-interval", "300", "--heartbeat-timeout", "600")
    process = subprocess.Popen(
        [sys.executable, "-m", "wsstream", *options, *quiet, *limits(clients)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().decode().rstrip("/\n").rpartition(":")[2]), process.pid
    finally:
        process.kill()
        process.wait()


def strike(port: int, pid: int, clients: int, rate: float = 0.0, *, asleep: bool) -> Times:
    """Connect everybody, send the signal, and see when each was told."""
    sockets = [connect(port, rate) for _ in range(clients)]
    runner = connect(port, rate=5)
    time.sleep(SETTLE)
    for sock in sockets:
        sock.setblocking(False)
        drop(sock)
    process = psutil.Process(pid)
    before = process.cpu_times()
    begun = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    told = (sleep if asleep else read)(sockets, begun)
    after = process.cpu_times()
    for sock in [*sockets, runner]:
        sock.close()
    return Times(sorted(told), (after.user - before.user) * 1000, (after.system - before.system) * 1000)


def drop(sock: socket.socket) -> None:
    """Read away what came before."""
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        pass


def sleep(sockets: list[socket.socket], begun: float) -> list[float]:
    """Sleep; afterwards, ask the kernel when it was."""
    time.sleep(PATIENCE)
    told = []
    for sock in sockets:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        ago = struct.unpack_from("=I", info, LAST_DATA_RECV)[0]
        told.append((time.monotonic() - begun) * 1000 - ago)
        assert b"going_away" in sock.recv(65536)
    return told


def read(sockets: list[socket.socket], begun: float) -> list[float]:
    """Read as it comes."""
    poll = select.epoll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    told: list[float] = []
    while len(told) < len(sockets) and time.monotonic() < begun + PATIENCE:
        for number, _ in poll.poll(0.1):
            if b"going_away" in by_number[number].recv(65536):
                told.append((time.monotonic() - begun) * 1000)
    assert len(told) == len(sockets), "somebody was not told in time"
    return told


def line(name: str, rounds: list[Times]) -> str:
    """What all rounds of one kind were like: the median of each figure, and the worst."""
    shares = [[times.told[int(len(times.told) * share)] for times in rounds] for share in (0.0, 0.5, 0.99)]
    lasts = sorted(times.told[-1] for times in rounds)
    first, half, most = (statistics.median(values) for values in shares)
    cpu = " + ".join(f"{statistics.median(times[n] for times in rounds):.0f}" for n in (1, 2))
    return (
        f"{name:>6}{first:>9.1f}{half:>9.1f}{most:>9.1f}{statistics.median(lasts):>9.1f}"
        f"{f'({lasts[0]:.1f} - {lasts[-1]:.1f})':>18}{cpu:>12}"
    )


def measure(clients: int, rounds: int, rate: float) -> None:
    """All rounds, the kinds in turns."""
    found: dict[str, list[Times]] = {"read": []} if rate else {"sent": [], "read": []}
    for _ in range(rounds):
        for name, times in random.sample(sorted(found.items()), len(found)):
            with server(clients) as (port, pid):
                times.append(strike(port, pid, clients, rate, asleep=name == "sent"))
    print(f"{clients} clients, {rounds} rounds of each kind: medians, ms after SIGTERM")
    print(f"{'':>6}{'first':>9}{'p50':>9}{'p99':>9}{'last':>9}{'(best - worst)':>18}{'user + sys':>12}")
    for name, times in found.items():
        print(line(name, times))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second that each client is sent meanwhile")
    given = parser.parse_args()
    measure(given.clients, given.rounds, given.rate)


if __name__ == "__main__":
    main()
