"""What is asked for in a soak, and the provider that answers: every answer is a function of its plan, faults or not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from wsstream.testing.upstream import CHUNKED, LAST, Chat, Script, Seen, Step, Upstream, chunked

WORDS = ("a", "to", "stream", "flow", "acknowledged", "日本", "naïve", "👋🏽", "\n", '"quoted"', "\\", "{}", "ß", "—")
BREAKS = ("closed", "reset", "truncated", "error", "stall")
"""Faults in the middle, that the server goes on behind if it may."""
FAULTS = (*BREAKS, "503", "400", "length")


@dataclass(eq=False)
class Plan:
    """One answer: what it says, how fast, and what goes wrong with it."""

    number: int
    """Its own; the model's name holds it, so that the provider knows what is meant."""
    tokens: int
    rate: float
    """Tokens a second; 0: as fast as they are read."""
    fault: str = "none"
    at: int = 0
    """Tokens before the fault, where that comes in the middle."""
    on_interrupt: str = "continue"
    killed: int = 0
    """How often the server had been killed before it was asked for."""
    terminated: int = 0
    tries: int = field(default=0, init=False)
    """How often the provider was asked."""

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.rate:g}/s, {self.fault} at {self.at}, {self.on_interrupt}"

    @property
    def model(self) -> str:
        """Its name as a model."""
        return f"soak-{self.number}"

    @property
    def words(self) -> list[str]:
        """Its tokens."""
        return _said(self.number, self.tokens)[0]

    @property
    def whole(self) -> str:
        """All it says."""
        return _said(self.number, self.tokens)[1]

    @property
    def finish(self) -> str:
        """How it ends if nothing comes between."""
        return "length" if self.fault == "length" else "stop"

    def rest(self, prefix: str) -> list[str]:
        """The tokens behind a prefix, which may end within one."""
        had = len(prefix)
        return [word[max(0, had - end + len(word)) :] for word, end in self._ends() if end > had]

    def _ends(self) -> Iterator[tuple[str, int]]:
        return zip(self.words, accumulate(map(len, self.words)), strict=True)


@lru_cache(maxsize=400)
def _said(number: int, tokens: int) -> tuple[list[str], str]:
    draw = random.Random(number)
    words = [f"{draw.choice(WORDS)}{draw.randrange(100)} " for _ in range(tokens)]
    return words, "".join(words)


def draw_plan(number: int, draw: random.Random, tokens: int | None = None, rate: float = 0.0) -> Plan:
    """A plan of some size, now and then with a fault. ``tokens`` and ``rate`` are given together."""
    if tokens is None:
        tokens, rate = draw.choice(
            ((1, 0), (12, 40), (60, 30), (150, 60), (400, 200), (300, 0), (1500, 0), (5000, 0), (1200, 400))
        )
    fault = draw.choice(FAULTS) if draw.random() < 0.15 else "none"
    on_interrupt = "fail" if draw.random() < 0.15 else "continue"
    return Plan(number, tokens, rate, fault, draw.randrange(tokens), on_interrupt)


class Model:
    """The provider: chat completions that can go on behind a text."""

    def __init__(self, object_: Callable[[str], None]) -> None:
        self.plans: dict[int, Plan] = {}
        self.asked = 0
        self._object = object_
        self._upstream = Upstream(lambda _: self._converse())

    @property
    def url(self) -> str:
        """Where it is."""
        return self._upstream.url

    async def start(self) -> None:
        """Listen."""
        await self._upstream.start()

    async def close(self) -> None:
        """Stop."""
        await self._upstream.close()

    def _converse(self) -> Script:
        while True:
            yield Step.REQUEST
            yield self._respond

    def _respond(self, seen: Seen) -> Script:
        body = seen.body
        seen.requests.clear()
        self.asked += 1
        plan = self.plans[int(body["model"].rpartition("-")[2])]
        last = body["messages"][-1]
        prefix = last["content"] if last["role"] == "assistant" else ""
        if not plan.whole.startswith(prefix):
            self._object(f"{plan}: the provider was told to go on behind {prefix[-60:]!r}")
        plan.tries += 1
        # What it refuses it refuses always; other faults do not come again.
        fault = plan.fault if plan.tries == 1 or plan.fault in ("400", "length") else "none"
        yield from _answer(plan, prefix, fault)


def _answer(plan: Plan, prefix: str, fault: str) -> Script:
    shape = Chat()
    if fault == "400":
        yield shape.refusal("400 Bad Request", "invalid_request_error")
        return
    if fault == "503":
        yield shape.refusal("503 Service Unavailable", "overloaded_error", Retry_After="0.1")
        return
    words = plan.rest(prefix)
    yield CHUNKED
    yield chunked(shape.begin())
    if fault not in BREAKS:
        yield from _paced(shape, words, plan.rate)
        yield chunked(shape.end(plan.finish, made=plan.tokens))
        yield LAST
        return
    yield from _paced(shape, words[: plan.at], plan.rate)
    yield from _break(shape, fault)


def _paced(shape: Chat, words: list[str], rate: float) -> Script:
    """At most fifty writes a second, whatever the rate: the provider should not be what is busy here."""
    size = max(1, round(rate / 50)) if rate else 40
    for start in range(0, len(words), size):
        yield chunked(*map(shape.text, words[start : start + size]))
        if rate:
            yield size / rate


def _break(shape: Chat, fault: str) -> Script:
    if fault == "error":
        yield chunked(shape.error("server_error"))
        yield LAST
    elif fault == "truncated":
        yield LAST
    elif fault == "stall":
        yield Step.HOLD
    else:
        yield Step.RESET if fault == "reset" else Step.CLOSE
