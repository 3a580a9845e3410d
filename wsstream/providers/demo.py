"""Answers without any key: realistic markdown at human pace, or a measured load.

Model ``demo`` picks one of a few prepared answers by the question. ``demo:rate=R,tokens=N[,stamp=1][,seed=S]`` streams
N tokens at R a second; rate 0 is as fast as the viewers' windows let it. With ``stamp=1`` every token is ``@``, sixteen
digits of CLOCK_MONOTONIC in microseconds and a space, so that a reader on the same machine sees each token's age.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated

import msgspec

from wsstream.chunks import ChatRequest, Delta, Finish, Usage
from wsstream.config import Config
from wsstream.errors import ProviderError
from wsstream.providers.base import Sink
from wsstream.providers.demo_answers import ANSWERS, WORDS
from wsstream.providers.pacing import Ticker

HUMAN_RATE = 40
BURST = 64
"""Tokens put at once where nothing paces them."""

Make = Callable[[int, int], Sequence[Delta]]
"""Makes the tokens from one number up to another."""

_TOKEN = re.compile(r"\s*\S{1,7}|\s+")


class DemoModel(msgspec.Struct, frozen=True):
    """What a model name ``demo:…`` says."""

    rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = HUMAN_RATE
    tokens: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 200
    stamp: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    seed: int = 0


class DemoProvider:
    """The provider ``demo``."""

    def __init__(self) -> None:
        self._ticker: Ticker | None = None

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put the answer at its pace."""
        name, _, spec = (request.model or "demo").partition(":")
        if name != "demo":
            raise ProviderError("The demo provider knows the models demo and demo:rate=R,tokens=N[,stamp=1][,seed=S]")
        if spec:
            model = parse_model(spec)
            count, make = model.tokens, _maker(model)
        else:
            model = DemoModel()
            tokens = _TOKEN.findall(_answer(request))
            count, make = len(tokens), lambda first, last: [Delta(text) for text in tokens[first:last]]
        whole = count
        if request.max_tokens is not None:
            count = min(count, request.max_tokens)
        if model.rate:
            await self._pace(count, make, model.rate, sink)
        else:
            for first in range(0, count, BURST):
                sink.put(make(first, min(first + BURST, count)))
                await sink.give_way()
        return Finish("stop" if count == whole else "length", Usage(_size(request), count))

    async def _pace(self, count: int, make: Make, rate: float, sink: Sink) -> None:
        if self._ticker is None:
            self._ticker = Ticker()
        paced = _Paced(self._ticker, count, make, rate, sink)
        try:
            while await paced.run():
                await sink.wait_room()
        finally:
            paced.stop()

    async def close(self) -> None:
        """Stop the clock."""
        if self._ticker is not None:
            self._ticker.close()


class _Paced:
    """One answer at a steady rate: token n is due at start + n / rate, and what is due together is put together."""

    __slots__ = ("_count", "_made", "_make", "_rate", "_resting", "_sink", "_start", "_ticker")

    def __init__(self, ticker: Ticker, count: int, make: Make, rate: float, sink: Sink) -> None:
        self._ticker = ticker
        self._count = count
        self._make = make
        self._rate = rate
        self._sink = sink
        self._made = 0
        self._start = time.monotonic()
        self._resting: asyncio.Future[bool] | None = None

    async def run(self) -> bool:
        """Put tokens until all are put (False) or there is no room for more (True)."""
        self._resting = asyncio.get_running_loop().create_future()
        self._start = max(self._start, time.monotonic() - self._made / self._rate)  # waiting was no debt
        self._beat(time.monotonic())
        return await self._resting

    def _beat(self, now: float) -> None:
        resting = self._resting
        if resting is None or resting.done():
            return
        room = self._put(min(self._count, int((now - self._start) * self._rate + 1e-6) + 1))
        if resting.done():
            return  # what was put has ended the answer
        if self._made >= self._count:
            resting.set_result(False)
        elif not room:
            resting.set_result(True)
        else:
            self._ticker.call_at(self._start + self._made / self._rate, self._beat)

    def _put(self, due: int) -> bool:
        """Put up to the token ``due``, as far as there is room; whether there is still some."""
        made = self._made
        room = made < due or self._sink.has_room()
        while room and made < due:
            first, made = made, min(due, made + BURST)
            self._made = made
            room = self._sink.put(self._make(first, made))
        return room

    def stop(self) -> None:
        """Put nothing any more."""
        self._resting = None


def make(config: Config, name: str = "demo") -> DemoProvider:
    """The provider for the table in `wsstream.providers`."""
    return DemoProvider()


def parse_model(spec: str) -> DemoModel:
    """Read ``rate=R,tokens=N…``.

    Raises:
        ProviderError: it says something else.
    """
    pairs = dict(part.partition("=")[::2] for part in spec.split(","))
    try:
        return msgspec.convert(pairs, DemoModel, strict=False) if pairs.keys() <= _FIELDS else _reject(spec)
    except msgspec.ValidationError:
        return _reject(spec)


_FIELDS = {field.name for field in msgspec.structs.fields(DemoModel)}


def _reject(spec: str) -> DemoModel:
    raise ProviderError(f"The demo provider cannot read {spec[:80]!r}: write rate=R,tokens=N[,stamp=1][,seed=S]")


def _maker(model: DemoModel) -> Make:
    if model.stamp:
        return lambda first, last: [Delta("@%016d " % (time.monotonic_ns() // 1000))] * (last - first)
    words = _shuffled(model.seed)
    count = len(words)
    return lambda first, last: (
        (words[first % count],) if last - first == 1 else [words[n % count] for n in range(first, last)]
    )


@lru_cache(64)
def _shuffled(seed: int) -> list[Delta]:
    words = [Delta(word + " ") for word in WORDS]
    random.Random(seed).shuffle(words)
    return words


def _answer(request: ChatRequest) -> str:
    question = request.messages[-1].content if request.messages else ""
    text = question if isinstance(question, str) else str(question)
    for pattern, answer in ANSWERS:
        if re.search(pattern, text, re.IGNORECASE):
            return answer
    return ANSWERS[len(text) % len(ANSWERS)][1]


def _size(request: ChatRequest) -> int:
    return sum(len(str(message.content)) // 4 + 1 for message in request.messages)
