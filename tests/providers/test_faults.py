"""Everything an upstream can do wrong, or oddly, to each of the adapters: the same behaviour of all of them."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Finish, Kind, Outcome, StreamState, Usage
from wsstream.errors import (
    ContentFiltered,
    ErrorType,
    Interrupted,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    StreamFailure,
)
from wsstream.producer import Limits, Producer
from wsstream.providers import http
from wsstream.providers.anthropic import AnthropicProvider
from wsstream.providers.base import Provider
from wsstream.providers.openai import OpenAIProvider
from wsstream.providers.reading import Bounds
from wsstream.providers.responses import ResponsesProvider
from wsstream.stores.memory import MemoryStore
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import (
    CHUNKED,
    FAULTS,
    LAST,
    SHAPES,
    Chat,
    Load,
    Messages,
    Responses,
    Script,
    Shape,
    Step,
    Upstream,
    chunked,
    failure,
    playing,
    said,
)

PATIENCE = 10.0
KEY = "sk-canary-key-000"
QUESTION = "canary question"
ALL = [Chat, Responses, Messages]
QUICK = Load(rate=0, tokens=5)


@pytest.fixture(params=ALL, ids=lambda shape: shape.__name__.lower())
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Shape]:
    """Each API in turn."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    kind: type[Shape] = request.param
    return kind


BOUNDS = Bounds()


def provider_of(shape: type[Shape], upstream: Upstream) -> Provider:
    """The adapter that speaks it."""
    if shape is Messages:
        return AnthropicProvider(KEY, upstream.root, model="m", bounds=BOUNDS)
    kind = OpenAIProvider if shape is Chat else ResponsesProvider
    return kind(KEY, upstream.url, model="m", bounds=BOUNDS)


@asynccontextmanager
async def asking(shape: type[Shape], script: Script) -> AsyncIterator[tuple[Upstream, Provider]]:
    """An upstream that plays this to every connection, and the adapter."""
    steps = list(script) if isinstance(script, list) else script
    async with playing(steps) as upstream, asyncio.timeout(PATIENCE):
        provider = provider_of(shape, upstream)
        try:
            yield upstream, provider
        finally:
            await provider.close()


def faulty(shape: type[Shape], name: str, load: Load = QUICK) -> Iterator[Any]:
    """One request, answered with a fault."""
    yield Step.REQUEST
    yield from FAULTS[name](shape(), load)
    yield Step.HOLD


async def answered(shape: type[Shape], script: Any) -> tuple[ListSink, Finish]:
    """What comes of one request."""
    sink = ListSink()
    async with asking(shape, script) as (_, provider):
        return sink, await provider.answer(ask(QUESTION), sink)


async def failed(shape: type[Shape], script: Any) -> tuple[ListSink, StreamFailure]:
    """How one request fails, and what it put before."""
    sink = ListSink()
    with pytest.raises(StreamFailure) as raised:
        async with asking(shape, script) as (_, provider):
            await provider.answer(ask(QUESTION), sink)
    return sink, raised.value


async def produced(shape: type[Shape], script: Any, limits: Limits | None = None) -> tuple[ChunkLog, Outcome]:
    """What a producer makes of it."""
    async with asking(shape, script) as (_, provider):
        log = ChunkLog("s", "e", MemoryStore())
        await Producer(provider, ask(), log, limits or Limits(5, 5, 100_000, 1 << 24)).start()
        assert log.outcome is not None
        return log, log.outcome


# -- what goes well


async def test_a_good_answer(shape: type[Shape]) -> None:
    """Text comes as it was said, and the end with its reason and the tokens given and made."""
    sink, finish = await answered(shape, faulty(shape, "none"))
    assert [delta.content for delta in sink.deltas] == ["w0 ", "w1 ", "w2 ", "w3 ", "w4 "]
    assert finish == Finish("stop", Usage(3, 2))


async def test_thoughts_are_told_from_words(shape: type[Shape]) -> None:
    """What a model thinks is of a kind of its own."""
    sink, _ = await answered(shape, faulty(shape, "thoughts"))
    assert (sink.reasoning, sink.text) == ("hm, so", "w0 w1 w2 w3 w4 ")


async def test_calls_of_tools_are_lines_of_json(shape: type[Shape]) -> None:
    """Each piece of a call is whole lines of JSON, so that pieces joined anyhow are the calls and their arguments."""
    sink, finish = await answered(shape, faulty(shape, "tools"))
    assert finish.reason == "tool_calls"
    assert {delta.kind for delta in sink.deltas} == {Kind.TOOL_CALL}
    assert all(delta.content.endswith("\n") and delta.content.count("\n") == 1 for delta in sink.deltas)
    lines = [json.loads(line) for line in "".join(delta.content for delta in sink.deltas).splitlines()]
    assert [line for line in lines if "id" in line] == [
        {"index": 0, "id": "call_1", "name": "get_weather"},
        {"index": 1, "id": "call_2", "name": "get_weather"},
    ]
    given = ["".join(line.get("arguments", "") for line in lines if line["index"] == n) for n in (0, 1)]
    assert [json.loads(text) for text in given] == [{"city": "Ulm"}, {"city": "東京"}]


@pytest.mark.parametrize(("name", "reason"), [("length", "length"), ("filter", "content_filter")])
async def test_an_end_for_another_reason(shape: type[Shape], name: str, reason: str) -> None:
    """An answer that was cut short by a limit or a filter has ended, and says why."""
    sink, finish = await answered(shape, faulty(shape, name))
    assert (sink.text, finish.reason) == ("w0 w1 w2 w3 w4 ", reason)


@pytest.mark.parametrize("name", ["crlf", "more", "never-closed"])
async def test_odd_but_good(shape: type[Shape], name: str) -> None:
    """Other line ends, comments, words behind the end, or a body that stays open change nothing."""
    sink, finish = await answered(shape, faulty(shape, name))
    assert (sink.text, finish.reason) == ("w0 w1 w2 w3 w4 ", "stop")


async def test_characters_in_pieces(shape: type[Shape]) -> None:
    """Bytes that come one by one are the same text."""
    sink, _ = await answered(shape, faulty(shape, "single-bytes"))
    assert sink.text == "日本👋"


async def test_a_giant_token_becomes_many_chunks(shape: type[Shape]) -> None:
    """A token of a million characters is cut, so that a window can hold its pieces."""
    log, outcome = await produced(shape, faulty(shape, "giant"))
    assert outcome.state is StreamState.COMPLETE
    assert max(len(each.content) for each in log.chunks(1, len(log))) <= 16 * 1024
    assert sum(len(each.content) for each in log.chunks(1, len(log))) == 1_000_000


async def test_empty_pieces_are_nothing(shape: type[Shape]) -> None:
    """A hundred thousand empty pieces leave no chunk."""
    sink, _ = await answered(shape, faulty(shape, "empty"))
    assert [delta.content for delta in sink.deltas] == ["a", "b"]


async def test_a_burst_is_taken_together(shape: type[Shape]) -> None:
    """What arrives in a few reads is put in a few puts, however many tokens it is."""
    load = Load(rate=0, tokens=2000)
    text = [FAULTS["none"](shape(), load)]
    body = b"".join(part for script in text for part in script if isinstance(part, bytes))
    sink, _ = await answered(shape, [Step.REQUEST, body, Step.HOLD])
    assert len(sink.deltas) == 2000
    assert len(sink.puts) < 100


async def test_an_endless_answer_is_stopped(shape: type[Shape]) -> None:
    """An answer without an end is broken off at the server's limit, and its upstream closed."""
    load = Load(rate=5000)
    log, outcome = await produced(shape, faulty(shape, "endless", load), Limits(5, 5, 100, 1 << 24))
    assert (outcome.error_type, outcome.recoverable) == ("interrupted", False)
    assert len(log) > 100


def faulty_steps(shape: type[Shape], name: str, count: int) -> Iterator[Any]:
    """The first steps of a fault that has no end."""
    for number, step in enumerate(faulty(shape, name)):
        if number < count:
            yield step
        else:
            break
    yield Step.HOLD


# -- ends that are none


@pytest.mark.parametrize("name", ["truncated", "closed", "reset", "half-closed", "half-event"])
async def test_an_answer_that_breaks_off_was_cut_off(shape: type[Shape], name: str) -> None:
    """Without its own end an answer is interrupted, however politely the connection ends; its text is kept."""
    sink, error = await failed(shape, faulty(shape, name))
    assert (type(error), error.recoverable) == (Interrupted, True)
    if name != "reset":  # a reset may overtake what was sent before it
        assert sink.text == "w0 w1 w2 "


@pytest.mark.parametrize(
    ("name", "kind", "recoverable"),
    [
        ("error", ProviderError, True),
        ("overloaded", ProviderError, True),
        ("rate-limited", ProviderRateLimited, True),
        ("withheld", ContentFiltered, False),
        ("unreadable", ProviderError, True),
    ],
)
async def test_an_error_in_the_middle(
    shape: type[Shape], name: str, kind: type[StreamFailure], recoverable: bool
) -> None:
    """An error that comes as an event ends the answer as what it is; what came before it counts."""
    sink, error = await failed(shape, faulty(shape, name))
    assert (type(error), error.recoverable, sink.text) == (kind, recoverable, "w0 w1 w2 ")


async def test_an_event_without_end_fills_no_memory(shape: type[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    """An event larger than any sensible one ends the answer."""
    monkeypatch.setattr(sys.modules[__name__], "BOUNDS", Bounds(event_bytes=200_000))
    sink, error = await failed(shape, faulty_steps(shape, "endless-event", 100))
    assert (type(error), sink.text) == (ProviderError, "w0 w1 w2 ")


@pytest.mark.parametrize(("most", "fails"), [(4096, False), (1024, True)])
async def test_a_head_that_is_too_large(
    shape: type[Shape], monkeypatch: pytest.MonkeyPatch, most: int, fails: bool
) -> None:
    """A response whose head is larger than may be is no answer; one that is not, is."""
    monkeypatch.setattr(sys.modules[__name__], "BOUNDS", Bounds(head_bytes=most))

    def script() -> Iterator[Any]:
        yield Step.REQUEST
        begun = False
        for step in FAULTS["none"](shape(), QUICK):
            if isinstance(step, bytes) and not begun:
                begun = True
                line, _, rest = step.partition(b"\r\n")
                yield line + b"\r\nX: " + b"x" * 2000
                yield 0.05
                step = b"\r\n" + rest
            yield step
        yield Step.HOLD

    if fails:
        _, error = await failed(shape, script())
        assert type(error) is ProviderError
    else:
        sink, _ = await answered(shape, script())
        assert sink.text


@pytest.mark.parametrize("name", ["stall", "pings"])
async def test_silence_in_the_middle_is_noticed(shape: type[Shape], name: str) -> None:
    """A stalled upstream is given up and closed, and signs of life that are no words do not put that off."""
    async with asking(shape, faulty(shape, name)) as (upstream, provider):
        log = ChunkLog("s", "e", MemoryStore())
        await Producer(provider, ask(), log, Limits(5, 0.4, 1000, 1 << 24)).start()
        assert log.outcome is not None
        assert (log.outcome.error_type, len(log)) == ("chunk_timeout", 3)
        await upstream.seen[0].closed.wait()


async def test_silence_at_the_beginning_is_noticed(shape: type[Shape]) -> None:
    """An upstream that says nothing at all is given up and closed."""
    async with asking(shape, faulty(shape, "silent")) as (upstream, provider):
        log = ChunkLog("s", "e", MemoryStore())
        await Producer(provider, ask(), log, Limits(0.3, 5, 1000, 1 << 24)).start()
        assert log.outcome is not None
        assert log.outcome.error_type == "provider_timeout"
        await upstream.seen[0].closed.wait()


# -- refusals


@pytest.mark.parametrize(
    ("name", "kind", "recoverable", "retry_after"),
    [
        ("400", ErrorType.PROVIDER_ERROR, False, None),
        ("401", ErrorType.PROVIDER_ERROR, False, None),
        ("403", ErrorType.PROVIDER_ERROR, False, None),
        ("404", ErrorType.PROVIDER_ERROR, False, None),
        ("413", ErrorType.PROVIDER_ERROR, False, None),
        ("429", ErrorType.RATE_LIMIT, True, 7.0),
        ("429-date", ErrorType.RATE_LIMIT, True, 10.0),
        ("429-quota", ErrorType.RATE_LIMIT, False, None),
        ("500", ErrorType.PROVIDER_ERROR, True, None),
        ("502", ErrorType.PROVIDER_ERROR, True, None),
        ("503", ErrorType.PROVIDER_ERROR, True, None),
        ("504", ErrorType.PROVIDER_TIMEOUT, True, None),
        ("529", ErrorType.PROVIDER_ERROR, True, None),
        ("filtered", ErrorType.CONTENT_FILTER, False, None),
        ("json-error", ErrorType.RATE_LIMIT, True, None),
        ("html", ErrorType.PROVIDER_ERROR, False, None),
        ("redirect", ErrorType.PROVIDER_ERROR, False, None),
        ("compressed", ErrorType.PROVIDER_ERROR, False, None),
        ("garbage", ErrorType.PROVIDER_ERROR, True, None),
        ("hang-up", ErrorType.PROVIDER_ERROR, True, None),
    ],
)
async def test_an_answer_that_does_not_begin(
    shape: type[Shape], name: str, kind: ErrorType, recoverable: bool, retry_after: float | None
) -> None:
    """Each refusal is the right error, worth another try where one can help, and asked for once only."""
    async with asking(shape, faulty(shape, name)) as (upstream, provider):
        sink = ListSink()
        with pytest.raises(StreamFailure) as raised:
            await provider.answer(ask(), sink)
        error = raised.value
        assert (error.error_type, error.recoverable, error.retry_after) == (kind, recoverable, retry_after)
        assert sink.deltas == []
        assert len(upstream.seen) == 1
        assert b"accept-encoding: identity" in upstream.seen[0].requests[0].lower()


async def test_an_error_of_any_size_is_read_in_part(shape: type[Shape]) -> None:
    """An error whose body never ends is known by its status, after a bounded part of the body."""
    async with asking(shape, faulty(shape, "huge-error")) as (upstream, provider):
        with pytest.raises(ProviderError) as raised:
            await provider.answer(ask(), ListSink())
        assert raised.value.recoverable
        await upstream.seen[0].closed.wait()
        assert upstream.seen[0].written < 32 * 1024 * 1024


async def test_an_error_that_takes_its_time_is_known(shape: type[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error whose body does not come is known by its status."""
    monkeypatch.setattr(http, "ERROR_TIMEOUT", 0.05)
    slow: Script = [Step.REQUEST, b"HTTP/1.1 429 Slow Down\r\nContent-Length: 10\r\nRetry-After: 2\r\n\r\n{", Step.HOLD]
    _, error = await failed(shape, slow)
    assert (type(error), error.retry_after) == (ProviderRateLimited, 2.0)


async def test_nobody_there(shape: type[Shape]) -> None:
    """An upstream that cannot be reached, by its port or by its name, is worth another try."""
    async with playing([]) as upstream:
        gone = upstream
    provider = provider_of(shape, gone)
    with pytest.raises(ProviderError) as raised:
        await provider.answer(ask(), ListSink())
    assert raised.value.recoverable
    await provider.close()
    gone.port = 9
    provider = provider_of(shape, gone)

    async def unknown(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(asyncio.get_running_loop()), "create_connection", unknown)
        with pytest.raises(ProviderError) as raised:
            await provider.answer(ask(), ListSink())
    assert raised.value.recoverable
    await provider.close()


async def test_a_connection_that_takes_too_long(shape: type[Shape]) -> None:
    """An upstream that does not accept in time is a provider_timeout."""
    async with playing([]) as upstream:
        provider = provider_of(shape, upstream)

        async def late(*_: object, **__: object) -> None:
            raise TimeoutError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(asyncio.get_running_loop()), "create_connection", late)
            with pytest.raises(ProviderTimeout):
                await provider.answer(ask(), ListSink())
        await provider.close()


async def test_one_answer_at_a_time(shape: type[Shape]) -> None:
    """Several answers to one question are refused here, before anybody is asked."""
    async with asking(shape, []) as (upstream, provider):
        request = ask()
        request.options["n"] = 2
        with pytest.raises(ProviderError, match="n must be 1"):
            await provider.answer(request, ListSink())
        assert upstream.seen == []


# -- what is told, and to whom


async def test_what_went_wrong_can_be_found_again(shape: type[Shape], caplog: pytest.LogCaptureFixture) -> None:
    """The log has the status, the code and the upstream's request id; the failure carries the id, too."""
    with caplog.at_level(logging.DEBUG):
        refused = failure("429 No", {"error": {"type": "rate_limit_error", "message": "x"}}, X_Request_Id="req-123")
        _, error = await failed(shape, [Step.REQUEST, refused, Step.HOLD])
    assert error.upstream_request_id == "req-123"
    assert "status 429, code rate_limit_error, request req-123" in caplog.text


def canaries(shape: type[Shape]) -> list[Any]:
    """Ways for an upstream to repeat the key and the question."""
    told = f"{KEY} {QUESTION}"
    bodies = [{"error": {"message": told, "type": told, "code": told, "param": told}}, told, [told], {told: told}]
    return [
        *([Step.REQUEST, failure(s, b, X_Request_Id=KEY), Step.HOLD] for s in ("401 No", "500 No") for b in bodies),
        [Step.REQUEST, CHUNKED, chunked(shape().begin(), shape().error(told)), LAST, Step.HOLD],
        [Step.REQUEST, CHUNKED, chunked(shape().begin(), b"data: " + told.encode() + b"\n\n"), LAST, Step.HOLD],
        [Step.REQUEST, f"HTTP/1.1 {told}\r\n\r\n".encode(), Step.HOLD],
        [Step.REQUEST, f"HTTP/1.1 200 OK\r\n{told}\r\n\r\n".encode(), Step.HOLD],
    ]


@pytest.mark.parametrize("number", range(12))
async def test_nobody_reads_the_key_or_the_question(
    shape: type[Shape], number: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """However an upstream repeats the key or the question in its errors, no log and no user reads them again."""
    for name in ("openai", "anthropic", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.NOTSET)  # as when the process begins
    with caplog.at_level(logging.DEBUG):
        _, error = await failed(shape, canaries(shape)[number])
        logging.getLogger("test").exception("with its traceback", exc_info=error)
    printed = capsys.readouterr()
    for canary in (KEY, QUESTION):
        assert canary not in caplog.text + printed.out + printed.err + str(error) + repr(vars(error))


# -- cancel, and many at once


async def test_a_cancel_stops_the_upstream_in_its_next_write(shape: type[Shape]) -> None:
    """After a cancel the upstream gets rid of one chunk more at most before it notices the close."""
    async with asking(shape, faulty(shape, "endless", Load(rate=200))) as (upstream, provider):
        log = ChunkLog("s", "e", MemoryStore())
        producer = Producer(provider, ask(), log, Limits(5, 5, 100_000, 1 << 24))
        task = producer.start()
        seen = upstream.seen
        while not seen or seen[0].writes < 20:  # noqa: ASYNC110 - the upstream has no event for it
            await asyncio.sleep(0.005)
        producer.cancel()
        writes = seen[0].writes
        await task
        await seen[0].closed.wait()
        assert seen[0].writes <= writes + 1
        assert log.outcome is not None
        assert log.outcome.state is StreamState.CANCELLED


async def test_a_thousand_at_once(shape: type[Shape]) -> None:
    """A thousand answers run through one provider at the same time, each whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    everybody = asyncio.Event()
    began = shape()
    script: Script = [
        Step.REQUEST,
        CHUNKED,
        chunked(began.begin(), began.text("a")),
        everybody,
        chunked(began.text("b"), began.end()),
        LAST,
        Step.HOLD,
    ]
    async with asking(shape, script) as (upstream, provider), asyncio.timeout(60):
        sinks = [ListSink() for _ in range(1000)]
        answers = [asyncio.create_task(provider.answer(ask(), sink)) for sink in sinks]
        while not all(sink.deltas for sink in sinks):  # noqa: ASYNC110 - nor have a thousand sinks
            await asyncio.sleep(0.02)
        assert len(upstream.seen) == 1000
        everybody.set()
        finishes = await asyncio.gather(*answers)
        assert {sink.text for sink in sinks} == {"ab"}
        assert {finish.reason for finish in finishes} == {"stop"}


async def test_one_connection_serves_many(shape: type[Shape]) -> None:
    """Answers that follow each other share a connection."""
    once = [Step.REQUEST, CHUNKED, *said(shape(), "a"), LAST]
    async with asking(shape, [*once * 3, Step.HOLD]) as (upstream, provider):
        for _ in range(3):
            await provider.answer(ask(), ListSink())
        assert len(upstream.seen) == 1


def test_all_shapes_are_tried() -> None:
    """No API of the fake upstream is left out here."""
    assert set(SHAPES.values()) == set(ALL)
