"""How often a client acknowledges, and what that costs: both ends of the core, 50 ms apart, at several paces."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import accumulate
from typing import Any

import pytest

from wsstream import messages as m
from wsstream.client_protocol import ClientProtocol, ClientSettings, View
from wsstream.flow import SendWindow
from wsstream.protocol import ServerProtocol, ServerSettings

ONE_WAY = 0.025
TICK = 0.001
SECONDS = 6.0
WEIGHT = 110


class Far:
    """A producer of ``rate`` chunks a second, and a reader who reads every ``frame`` seconds all that there is."""

    def __init__(self, rate: int, frame: float, *, adaptive: bool = True, max_window: int = 1000) -> None:
        self.now = 0.0
        self.rate = rate
        self.frame = frame
        self.server = ServerProtocol(ServerSettings(max_window=max_window), self.now)
        self.client = ClientProtocol(ClientSettings(adaptive=adaptive))
        self.writer = m.ChunkWriter("s")
        self.totals = list(accumulate([WEIGHT] * int(rate * SECONDS), initial=0))
        self.window: SendWindow
        self.widest = 0
        self.acks: list[float] = []
        self.read: list[tuple[float, int]] = []
        self._wire: list[tuple[float, int, bool, bytes]] = []
        self._count = 0
        self.client.connect(self.now)
        self._up()
        self.view = self._begin()

    def _begin(self) -> View:
        view = self.client.chat("r", "?")
        self.now = ONE_WAY
        self._arrive()
        self.now = 2 * ONE_WAY
        self._arrive()
        self.now = 3 * ONE_WAY
        self._arrive()
        return view

    def run(self) -> Far:
        """Go on until everything should have been said."""
        ticks = int(SECONDS / TICK)
        for tick in range(ticks):
            self.now = 1.0 + tick * TICK
            self._arrive()
            self._send(min(len(self.totals) - 1, int(self.rate * tick * TICK)))
            if (tick + 1) % max(1, round(self.frame / TICK)) == 0:
                while self.client.take(self.view, self.now) is not None:
                    pass
            self.client.handle_timer(self.now)
            self._up()
            self.read.append((self.now, self.view.processed))
        return self

    def _send(self, tail: int) -> None:
        last = self.window.grant(tail, self.totals)
        for n in range(self.window.sent + 1, last + 1):
            self._push(to_client=True, data=self.writer.chunk(n, b"word ", 0))
        self.window.sent = last
        self.widest = max(self.widest, self.window.limit)

    def _push(self, *, to_client: bool, data: bytes) -> None:
        self._count += 1
        heappush(self._wire, (self.now + ONE_WAY, self._count, to_client, data))

    def _up(self) -> None:
        for data in self.client.messages_to_send():
            if b"chunk_ack" in data:
                self.acks.append(self.now)
            self._push(to_client=False, data=data)

    def _arrive(self) -> None:
        while self._wire and self._wire[0][0] <= self.now + 1e-9:
            _, _, to_client, data = heappop(self._wire)
            if to_client:
                self.client.receive_message(data, self.now)
                self.client.events_received()
            else:
                self._serve(data)
        self._up()

    def _serve(self, data: bytes) -> None:
        self.server.receive_message(data, self.now)
        for event in self.server.events_received():
            self._on_event(event)
        for out in self.server.messages_to_send():
            assert b'"error"' not in out
            self._push(to_client=True, data=out)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, m.Hello):
            self.server.establish("c", "ses", [])
        elif isinstance(event, m.ChatRequested):
            self.window = self.server.start_stream(
                event.request_id, "s", session_id="ses", epoch="e", model=None, timestamp=0.0
            )

    @property
    def most_acks(self) -> int:
        """Acks in the second that had most of them."""
        return max(sum(at <= other < at + 1.0 for other in self.acks) for at in self.acks)

    @property
    def pace(self) -> float:
        """Chunks read a second, after the first two."""
        (since, before), (until, after) = self.read[2000], self.read[-1]
        return (after - before) / (until - since)


@pytest.mark.parametrize("frame", [0.001, 0.0167], ids=["token by token", "frame by frame"])
@pytest.mark.parametrize("rate", [30, 500, 2_000, 5_000])
def test_acks_are_few_and_nobody_waits(rate: int, frame: float) -> None:
    """At any of these paces no second has more than 21 acks, and the window holds nothing up 50 ms away."""
    far = Far(rate, frame).run()
    assert 0 < far.most_acks <= 21
    assert far.pace >= 0.98 * rate
    assert far.widest <= 1000


def test_a_fixed_window_is_acknowledged_by_halves() -> None:
    """Whoever fixes their window has many acks, and waits for them."""
    far = Far(5_000, 0.001, adaptive=False).run()
    assert far.most_acks > 30
    assert far.pace < 1_500
    assert far.widest == 50


def test_a_server_s_limit_is_kept_and_acks_are_few_all_the_same() -> None:
    """Where the server allows no more, the answer waits for its window, and acks stay rare."""
    far = Far(5_000, 0.001, max_window=100).run()
    assert far.widest == 100
    assert far.most_acks <= 21
    assert far.pace >= 0.9 * 100 / (2 * ONE_WAY + 0.05)


def test_who_reads_nothing_gets_no_wider_window() -> None:
    """A client that is sent as much as it can be, and renders none of it, is at its first window for ever."""
    far = Far(5_000, 3600.0).run()
    assert (far.widest, far.acks, far.view.received) == (50, [], 50)
