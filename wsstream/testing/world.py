"""A virtual world: real ends of the protocol core, a faulty link between them, and time that costs nothing.

A world is made from its seed alone. The seed draws a `Plan` (how many answers, how fast, which windows, which faults);
then one heap of events runs until every viewer has read every answer to its end. There is no socket, no task and no
clock, and all chance comes from one `random.Random`: the same seed gives the same trace, event for event.

What may go wrong: connections drop with everything in flight, or fall silent in one or both directions until a
heartbeat is missed; acks arrive twice, late and out of order; chunks arrive twice or swapped; readers are slow or stop;
sockets stop taking bytes; pages are reloaded; answers are cancelled; stores commit late. Faults are bounded in number,
so a sound core brings every world to its end. Where something is not as docs/protocol.md says, `WorldFailure` tells the
seed and what happened last.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any, NoReturn, TypeVar, cast

from wsstream import messages as m
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Kind, Outcome, StreamState
from wsstream.client_protocol import ClientSettings
from wsstream.protocol import ServerSettings
from wsstream.stores.memory import MemoryStore
from wsstream.testing.ends import CLOSE, ClientEnd, Ledger, ServerEnd

T = TypeVar("T")

DEADLINE = 900.0
"""Virtual seconds in which every world must have ended."""
MAX_EVENTS = 50_000
ENDLESS = 1 << 30
LAST_WORDS = 0.3
"""Virtual seconds a world goes on after its last viewer is done, so that the last acks are seen too."""


class WorldFailure(AssertionError):
    """A world did not behave as the protocol says."""


# Every answer is a stretch of this text. No two pieces are alike, and now and then one is larger than a small window.
_DRAW = Random(1)
_TEXTS = [
    f"{n} " + '"naïve\n \U0001f642 '[: _DRAW.randrange(12)] + "." * (_DRAW.randrange(200, 3000) if n % 17 == 0 else 0)
    for n in range(600)
]
_BODIES = [m.encode_body(text) for text in _TEXTS]
_MIXED = b"".join(bytes((_DRAW.randrange(4),)) * _DRAW.randrange(1, 12) for _ in range(150))


class Plan:
    """What one world is like, and the only source of its chance."""

    def __init__(self, seed: int) -> None:
        self._random = random = Random(seed).random
        pick = self.pick
        self.answers = pick((1, 1, 1, 2, 2, 3))
        self.second_viewer = random() < 0.3
        self.terse = self.answers == 1 and random() < 0.2
        """Whether clients leave out the stream id where only one stream can be meant."""
        self.high = pick((6, 12, 25, 50))
        self.low = self.high // 2
        self.slice = pick((300, 2000, 16 * 1024, 16 * 1024))
        self.commit_delay = pick((0.0, 0.0, 0.0, 0.004))
        self._burst = pick((1, 4, 6, 8, 12, 20))
        self._pace = pick((0.001, 0.005, 0.02, 0.06))
        self._mixed = random() < 0.1
        self._rewinds = pick((1, 2, 3)) if random() < 0.2 else 0
        self.counts = random() < 0.5
        """Whether rewinds say how much they withdraw; else clients fetch again what they cannot cut."""
        self._pauses = pick((0.0, 0.0, 0.0, 0.1))
        self._plan_windows()
        self._plan_reader()
        self._plan_faults()

    def _plan_windows(self) -> None:
        pick = self.pick
        wanted = pick((None, None, 2, 5, 12, 40))
        wanted_bytes = pick((None, None, None, 600, 2500))
        beat = pick((1.0, 2.0))
        self.settings = ServerSettings(
            window=pick((1, 4, 8, 16, 32, 50)),
            window_bytes=pick((500, 4000, 65536, 65536)),
            max_window=64,
            adaptive_window=self._random() < 0.3,
            heartbeat_interval=beat,
            heartbeat_timeout=beat * 2.5,
        )
        self.client = ClientSettings(
            window=wanted,
            window_bytes=wanted_bytes,
            batch=self._random() < 0.8,
            ack_delay=pick((0.02, 0.1, 0.25)),
            greeting_timeout=2.0,
        )
        self.limit: int = wanted or self.settings.window
        self.limit_bytes: int = wanted_bytes or self.settings.window_bytes

    def _plan_reader(self) -> None:
        pick = self.pick
        self.eager = self._random() < 0.4
        self._mouthful, self._reading = pick(((2, 0.02), (4, 0.05), (10, 0.3), (1000, 0.8)))
        self._stops = pick((0.0, 0.0, 0.05))
        self._whims = pick((0.0, 0.0, 0.0, 0.1))

    def _plan_faults(self) -> None:
        pick = self.pick
        self._drops = pick((0, 1, 1, 2, 2, 3))
        self._half_opens = pick((0, 0, 0, 0, 1))
        self._fault_time = pick((0.03, 0.2, 0.5, 1.5))
        self._reloads = pick((0.0, 0.0, 0.0, 0.3))
        self._ack_faults = pick((0.0, 0.1, 0.3))
        self.swaps = pick((0, 0, 0, 3))
        self._cancels = self._random() < 0.1
        self._repeats = pick((0.0, 0.5))
        self.delays = (pick((0.0005, 0.01, 0.04, 0.15)), pick((0.0005, 0.01, 0.04, 0.15)))

    # -- chance

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[int(self._random() * len(options))]

    def below(self, end: int) -> int:
        """0 … ``end`` - 1."""
        return int(self._random() * end)

    def toss(self) -> bool:
        """A coin."""
        return self._random() < 0.5

    def jitter(self, mean: float) -> float:
        """Seconds around ``mean``."""
        return mean * (0.5 + self._random())

    # -- answers

    def script(self) -> tuple[list[str], list[bytes], bytes, dict[int, int]]:
        """An answer: texts, bodies and kinds of its chunks, and where its rewinds go back to."""
        size = 20 + int(41 * self._random() ** 2)
        start = self.below(len(_TEXTS) - size)
        texts, bodies = _TEXTS[start : start + size], _BODIES[start : start + size]
        kinds = _MIXED[start : start + size] if self._mixed else bytes(size)
        rewinds: dict[int, int] = {}
        for at in sorted({1 + self.below(size - 1) for _ in range(self._rewinds)}):
            to = rewinds[at + 1] = self.below(at)
            texts[at], bodies[at] = "", m.rewind_body(to, "retry")
            kinds = b"%b%c%b" % (kinds[:at], Kind.REWIND, kinds[at + 1 :])
        return texts, bodies, kinds, rewinds

    def ending(self) -> Outcome:
        """How an answer ends, if nobody cancels it."""
        if self._random() < 0.05:
            return Outcome(StreamState.FAILED, 0, error_type="provider_error", message="It failed.")
        return Outcome(StreamState.COMPLETE, 0, finish_reason="stop")

    def burst(self) -> int:
        """Chunks the provider brings at once."""
        return 1 + int(self._random() * self._burst)

    def pause(self) -> float:
        """Seconds until it brings more."""
        return self._pace * 2 * self._random()

    # -- readers

    def mouthful(self) -> int:
        """Pieces a reader takes at once."""
        return 1 + int(self._random() * self._mouthful)

    def reading(self) -> float:
        """Seconds until it takes more."""
        seconds = self._reading * self._random()
        return seconds + 2.0 if self._stops and self._random() < self._stops else seconds

    def has_whim(self) -> bool:
        """Whether a client now does something that it may do."""
        return self._whims > 0 and self._random() < self._whims

    def cancel_time(self) -> float | None:
        """When somebody cancels an answer, if anybody does."""
        return 2.0 * self._random() ** 2 if self._cancels else None

    # -- faults

    def fault_time(self) -> float:
        """Seconds until the next fault of a connection."""
        return self._fault_time * self._random()

    def next_fault(self) -> str | None:
        """What will happen to the next connection."""
        if self._half_opens and self._random() < 0.6:
            self._half_opens -= 1
            return "half-open"
        if self._drops:
            self._drops -= 1
            return "drop"
        return None

    def back_off(self) -> float:
        """Seconds until a client comes back."""
        return 0.3 * self._random()

    def lateness(self) -> float:
        """Seconds that a middle keeps a message."""
        return 0.4 * self._random() ** 2

    def reloads(self) -> bool:
        """Whether the page is loaded anew before the next connection."""
        return self._reloads > 0 and self._random() < self._reloads

    def pauses(self) -> bool:
        """Whether the server's socket takes no more bytes for a while."""
        return self._pauses > 0 and self._random() < self._pauses

    def disturbs_ack(self) -> bool:
        """Whether an ack comes twice or late."""
        return self._ack_faults > 0 and self._random() < self._ack_faults

    def swaps_chunk(self) -> bool:
        """Whether a chunk comes twice or late."""
        if self.swaps == 0 or self._random() > 0.1:
            return False
        self.swaps -= 1
        return True

    def repeats_request(self) -> bool:
        """Whether a request comes twice."""
        return self._repeats > 0 and self._random() < self._repeats


class LateStore(MemoryStore):
    """A store whose writes take a moment, in order (written before sent)."""

    durable = True

    def __init__(self, world: World) -> None:
        self._world = world
        self._delay = world.plan.commit_delay
        self.safe = 0
        """The last chunk that is committed."""

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Commit after the plan's delay."""
        write = (first + len(bodies) - 1, committed)
        if self._delay:
            self._world.after(self._delay, self._commit, write)
        else:
            self._commit(write)

    def _commit(self, write: tuple[int, Callable[[int], None]]) -> None:
        self.safe, committed = write
        committed(self.safe)

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        """Commit after the plan's delay."""
        self._world.after(self._delay, lambda _: committed())


class Gate:
    """What a log wakes its producer by: as much of a future as `ChunkLog` uses, without an event loop."""

    __slots__ = ("_opened", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._opened = False

    def done(self) -> bool:
        """Whether it was opened."""
        return self._opened

    def set_result(self, _: None) -> None:
        """Open it."""
        self._opened = True
        self._wake()


class Answer:
    """One stream: what will be said, its log, and the producer that writes it there."""

    __slots__ = ("_bodies", "_ending", "_kinds", "_stopped", "_world", "ledgers", "log", "rewinds", "store", "texts")

    def __init__(self, world: World, number: int) -> None:
        plan = world.plan
        self._world = world
        self.texts, self._bodies, self._kinds, self.rewinds = plan.script()
        self._ending = plan.ending()
        self._stopped = False
        self.ledgers: list[Ledger] = []
        stream_id = f"s_{number}"
        overhead = m.ChunkWriter(stream_id).overhead
        self.store = LateStore(world)
        self.log = ChunkLog(stream_id, "e_1", self.store, overhead=overhead, high=plan.high, low=plan.low)
        world.after(plan.pause(), self._produce)

    @property
    def floor(self) -> int:
        """The ack of the slowest attached viewer, by the world's own books."""
        return min((ledger.acked for ledger in self.ledgers), default=self.log.tail)

    def text_at(self, chunk_id: int) -> str:
        """The text that stands at that chunk, as a history would show it."""
        return m.text_of(self.log.bodies(1, chunk_id), self._kinds)

    def cancel(self) -> None:
        """Stop producing; idempotent."""
        if not self._stopped:
            self._stopped = True
            self._ending = Outcome(StreamState.CANCELLED, 0, finish_reason="cancelled")
            self._world.after(self._world.plan.pause(), self._finish)

    def _produce(self, _: None) -> None:
        if self._stopped:
            return
        world, log = self._world, self.log
        first = len(log)
        last = min(first + world.plan.burst(), len(self.texts))
        world.note("produce", log.stream_id, last)
        self._append(first, last)
        if last == len(self.texts):
            self._stopped = True
            world.after(world.plan.pause(), self._finish)
        elif self._has_room():
            world.after(world.plan.pause(), self._produce)
        else:
            log._room = cast(Any, Gate(self._go_on))  # what ChunkLog.wait_room does on an event loop

    def _append(self, first: int, last: int) -> None:
        for at in range(first, last):
            if at + 1 in self.rewinds:
                if first < at:
                    self.log.append_bodies(self._bodies[first:at], self._kinds[first:at])
                if self._world.plan.counts:
                    self.log.rewind(self.rewinds[at + 1], "retry")
                else:
                    self.log.append_bodies(self._bodies[at : at + 1], self._kinds[at : at + 1])
                first = at + 1
        if first < last:
            self.log.append_bodies(self._bodies[first:last], self._kinds[first:last])

    def _has_room(self) -> bool:
        room = self.log.has_room()
        lead = len(self.log) - self.floor
        if room != (lead < self.log.high):
            self._world.fail(f"the producer is {lead} chunks ahead of the slowest viewer and has room: {room}")
        return room

    def _go_on(self) -> None:
        self.log._room = None
        if self._stopped:
            return
        lead = len(self.log) - self.floor
        if lead > self.log.low:
            self._world.fail(f"the producer was woken while still {lead} chunks ahead")
        self._world.after(0.0, self._produce)

    def _finish(self, _: None) -> None:
        ending = self._ending
        self._world.note("finish", self.log.stream_id, ending.state)
        self.log.finish(
            Outcome(
                ending.state,
                len(self.log),
                finish_reason=ending.finish_reason,
                error_type=ending.error_type,
                message=ending.message,
            )
        )


class Link:
    """One connection: two pipes that keep their order, and what becomes of them."""

    __slots__ = ("_client", "_delays", "_down_clock", "_down_left", "_server", "_up_clock", "_up_left", "_world", "cut")

    def __init__(self, world: World, client: ClientEnd) -> None:
        self._world = world
        self._client = client
        self._delays = world.plan.delays
        self._up_clock = self._down_clock = world.now
        self._up_left = self._down_left = ENDLESS
        self.cut = False
        self._server = ServerEnd(world, self)

    def send_up(self, messages: list[bytes]) -> None:
        """Client to server."""
        world = self._world
        self._up_clock = max(self._up_clock, world.now + world.plan.jitter(self._delays[0]))
        world.at(self._up_clock, self._arrive_up, messages)

    def send_down(self, messages: list[bytes]) -> None:
        """Server to client."""
        world = self._world
        self._down_clock = max(self._down_clock, world.now + world.plan.jitter(self._delays[1]))
        world.at(self._down_clock, self._arrive_down, messages)

    def _arrive_up(self, messages: list[bytes]) -> None:
        if self._up_left < len(messages):
            messages = messages[: self._up_left]
        self._up_left -= len(messages)
        if messages and not self._server.gone:
            self._server.receive(messages)

    def _arrive_down(self, messages: list[bytes]) -> None:
        if self._down_left < len(messages):
            messages = messages[: self._down_left]
        self._down_left -= len(messages)
        if messages and self._client.link is self:
            self._client.receive(messages)

    def drop(self, _: None) -> None:
        """The connection breaks: little of what is in flight arrives, and both ends notice, each in its time."""
        if self.cut or self._client.link is not self:
            return
        world = self._world
        self._cut("drop", world.plan.below(3), world.plan.below(3))
        world.totals.drops += 1
        world.after(world.plan.lateness(), self._server.lost)
        world.after(world.plan.lateness(), self._client.lost, self)

    def fall_silent(self, _: None) -> None:
        """The connection goes half-open: nobody is told."""
        if self.cut or self._client.link is not self:
            return
        both = self._world.plan.toss()
        down_only = self._world.plan.toss()
        self._cut("half-open", 0 if both or not down_only else ENDLESS, 0 if both or down_only else ENDLESS)
        self._world.totals.half_opens += 1

    def _cut(self, how: str, up_left: int, down_left: int) -> None:
        self._world.note(how, up_left, down_left)
        self.cut = True
        self._up_left, self._down_left = up_left, down_left

    def close(self) -> None:
        """The client closes its socket."""
        self.send_up([CLOSE])


class Totals:
    """What happened, in one world or in many."""

    __slots__ = ("chunks", "drops", "duplicates", "half_opens", "resumes", "sessions", "swaps", "virtual_seconds")

    def __init__(self) -> None:
        self.sessions = self.drops = self.half_opens = self.duplicates = self.swaps = self.resumes = self.chunks = 0
        self.virtual_seconds = 0.0

    def add(self, other: Totals) -> None:
        """Add those of another world."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, name):,.10g} {name.replace('_', ' ')}" for name in self.__slots__)


class World:
    """One seed's world. `run` it once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.plan = Plan(seed)
        self.now = 0.0
        self.totals = Totals()
        self.gaps_due = 0
        """Gaps that clients may still see, because chunks were held back."""
        self.answers: dict[str, Answer] = {}
        self.dirty: list[ServerEnd] = []
        self.trace: list[tuple[float, str, Any, Any]] = []
        self._requests: dict[str, Answer] = {}
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._clients: list[ClientEnd] = []
        self._unfinished = 0
        self._over = False
        self._populate()

    # -- what the inhabitants use

    def at(self, when: float, act: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``act(argument)`` at ``when``, behind what is due then already."""
        self._count += 1
        heappush(self._heap, (when, self._count, act, argument))

    def after(self, seconds: float, act: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``act(argument)`` in ``seconds``."""
        self._count += 1
        heappush(self._heap, (self.now + seconds, self._count, act, argument))

    def note(self, what: str, which: Any, detail: Any) -> None:
        """Write an event down."""
        self.trace.append((self.now, what, which, detail))

    def fail(self, why: str) -> NoReturn:
        """Give up.

        Raises:
            WorldFailure: always.
        """
        raise WorldFailure(self._story(why))

    def was_asked(self, request_id: str) -> bool:
        """Whether a server has seen this request."""
        return request_id in self._requests

    def answer_to(self, request_id: str) -> Answer:
        """The answer to this request, begun when it is asked for the first time."""
        answer = self._requests.get(request_id)
        if answer is None:
            answer = self._requests[request_id] = Answer(self, len(self._requests) + 1)
            self.answers[answer.log.stream_id] = answer
        return answer

    def open_link(self, client: ClientEnd) -> Link:
        """A new connection, perhaps with a fault to come."""
        link = Link(self, client)
        fault = self.plan.next_fault()
        self.note("connect", fault, None)
        if fault is not None:
            self.after(self.plan.fault_time(), link.drop if fault == "drop" else link.fall_silent)
        return link

    def on_done(self) -> None:
        """A viewer has read its answer to the end."""
        self._unfinished -= 1
        if self._unfinished == 0:
            self.after(LAST_WORDS, self._end)

    # -- the course of things

    def run(self) -> Totals:
        """Run to the end.

        Raises:
            WorldFailure: something was not as it should be.
        """
        try:
            self._run()
        except WorldFailure:
            raise
        except Exception as error:
            raise WorldFailure(self._story(repr(error))) from error
        self.totals.sessions = self._sessions
        self.totals.chunks = sum(len(answer.log) for answer in self.answers.values())
        self.totals.virtual_seconds = self.now
        return self.totals

    def digest(self) -> str:
        """A fingerprint of everything that happened."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()

    def _story(self, why: str) -> str:
        events = [f"  {when:10.4f}  {what} {which} {detail}" for when, what, which, detail in self.trace[-30:]]
        return "\n".join([f"seed {self.seed}, at {self.now:.4f} s: {why}", *events])

    def _populate(self) -> None:
        plan = self.plan
        client = ClientEnd(self)
        self._clients.append(client)
        for number in range(1, plan.answers + 1):
            self.after(0.0 if number == 1 else plan.fault_time(), client.ask, f"r_{number}")
        self.at(0.0, client.connect)
        if plan.second_viewer:
            self.after(plan.fault_time(), self._join)
        cancel_time = plan.cancel_time()
        if cancel_time is not None:
            self.after(cancel_time, client.cancel)
        self._sessions = self._unfinished = plan.answers + plan.second_viewer

    def _join(self, _: None) -> None:
        """Somebody else follows one of the answers: from its start, or from where an earlier page had come to."""
        if not self.answers and self._unfinished == 1:
            self.on_done()  # all were cancelled before anybody was asked
            return
        if not self.answers:
            self.after(0.1, self._join)
            return
        client = ClientEnd(self)
        self._clients.append(client)
        log = self.plan.pick(list(self.answers.values())).log
        client.follow(log.stream_id, self.plan.below(log.tail + 1) if self.plan.toss() else 0)
        client.connect(None)

    def _run(self) -> None:
        heap, dirty = self._heap, self.dirty
        for _ in range(MAX_EVENTS):
            if not heap:
                self.fail("nothing is left to happen")
            self.now, _count, act, argument = heappop(heap)
            act(argument)
            while dirty:
                dirty.pop().flush()
            if self._over:
                return
            if self.now > DEADLINE:
                self.fail("this world does not end")
        self.fail("this world spins")

    def _end(self, _: None) -> None:
        for client in self._clients:
            client.see_debts()
        for answer in self.answers.values():
            if answer.log.outcome is None:
                self.fail(f"{answer.log} has not ended")
        self._over = True


def run(seeds: range) -> Totals:
    """Run the worlds of these seeds.

    Raises:
        WorldFailure: one of them failed.
    """
    totals = Totals()
    for seed in seeds:
        totals.add(World(seed).run())
    return totals


def _seeds(text: str) -> range:
    first, _, end = text.partition("-")
    return range(int(first), int(end)) if end else range(int(first), int(first) + 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run worlds and print what happened in them."""
    parser = argparse.ArgumentParser(prog="python -m wsstream.testing.world", description=main.__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(1000), help="first-end, the end not included; or one")
    seeds = parser.parse_args(arguments).seeds
    started = time.perf_counter()
    try:
        totals = run(seeds)
    except WorldFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    wall = time.perf_counter() - started
    print(f"{len(seeds):,} worlds: {totals}, {wall:.1f} wall seconds, {totals.sessions / wall:,.0f} sessions a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
