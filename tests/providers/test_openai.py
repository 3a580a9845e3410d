"""OpenAI's chat completions, end to end over a scripted upstream: what is said, how it ends, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, StreamState, Usage
from wsstream.config import Config
from wsstream.errors import (
    ConfigError,
    ContentFiltered,
    ErrorType,
    Interrupted,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    StreamFailure,
)
from wsstream.producer import Limits, Producer
from wsstream.providers.names import Prefill
from wsstream.providers.openai import DEFAULT_MODEL, OpenAIProvider, make
from wsstream.stores.memory import MemoryStore
from wsstream.testing import upstream as up
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import (
    CHUNKED,
    LAST,
    Script,
    Step,
    Upstream,
    chunk,
    chunked,
    done,
    event,
    failure,
    playing,
    usage,
)

REQUEST, HOLD, RESET = Step.REQUEST, Step.HOLD, Step.RESET
PATIENCE = 10.0
SECRET = "sk-secret-and-the-prompt"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def said(*events: bytes) -> Script:
    """An upstream that says this, each event in a read of its own more or less, and ends well."""
    return [REQUEST, CHUNKED, *(chunked(each) for each in events), LAST, HOLD]


@asynccontextmanager
async def asking(*scripts: Script) -> AsyncIterator[tuple[Upstream, OpenAIProvider]]:
    """An upstream that plays these, and a provider that asks it."""
    async with playing(*scripts) as upstream, asyncio.timeout(PATIENCE):
        provider = OpenAIProvider("k", upstream.url)
        try:
            yield upstream, provider
        finally:
            await provider.close()


async def answered(*scripts: Script, sink: ListSink | None = None) -> tuple[ListSink, Finish]:
    """What comes of one request."""
    sink = sink or ListSink()
    async with asking(*scripts) as (_, provider):
        return sink, await provider.answer(ask(), sink)


async def failed(*scripts: Script, sink: ListSink | None = None) -> StreamFailure:
    """How one request fails. What users read of it never holds the upstream's words."""
    with pytest.raises(StreamFailure) as raised:
        await answered(*scripts, sink=sink)
    assert SECRET not in str(raised.value)
    return raised.value


# -- answers


async def test_text_and_its_end() -> None:
    """Text comes as it was said, and the end with its reason and usage."""
    sink, finish = await answered(
        said(chunk(role="assistant"), chunk("Hel"), chunk("lo"), chunk("", "stop"), usage(3, 2), done())
    )
    assert [delta.content for delta in sink.deltas] == ["Hel", "lo"]
    assert finish == Finish("stop", Usage(3, 2))


async def test_thoughts() -> None:
    """What a model thinks is told apart from what it says, in its order."""
    sink, _ = await answered(
        said(chunk(reasoning_content="hm"), chunk("a", reasoning_content="so"), chunk("b"), chunk(finish="stop"))
    )
    thought = Kind.REASONING
    assert sink.deltas == [Delta("hm", thought), Delta("so", thought), Delta("a"), Delta("b")]


@pytest.mark.parametrize(
    ("said_reason", "told"),
    [
        *[(name, name) for name in ("stop", "length", "content_filter", "tool_calls")],
        *[("function_call", "tool_calls"), ("eos", "stop"), ("", "stop")],
    ],
)
async def test_finish_reasons(said_reason: str, told: str) -> None:
    """Only the reasons of the protocol are told, whatever a server calls its own."""
    _, finish = await answered(said(chunk("a"), chunk(finish=said_reason), done()))
    assert finish == Finish(told)


@pytest.mark.parametrize(
    "end",
    [
        [chunked(chunk(finish="stop"), done()), LAST, HOLD],
        [chunked(chunk(finish="stop") + done()) + LAST, HOLD],
        [chunked(done()), LAST, HOLD],
        [chunked(chunk(finish="stop")), LAST, HOLD],
        [chunked(chunk(finish="stop")), 0.01, LAST, HOLD],
        [chunked(chunk(finish="stop"), done())],
        [chunked(chunk(finish="stop"), done()), RESET],
        [chunked(chunk(finish="stop"), done()), HOLD],
        [chunked(chunk(finish="stop"), done(), chunk("behind"), b"data: {broken\n\n"), LAST, HOLD],
    ],
    ids=["both", "one read", "marker", "reason", "late", "closed", "reset", "never closed", "more"],
)
async def test_good_ends(end: list[Any]) -> None:
    """An answer has ended well with its reason or the end marker; what the connection does then does not matter."""
    sink, finish = await answered([REQUEST, CHUNKED, chunked(chunk("a")), 0.01, *end])
    assert (sink.text, finish.reason) == ("a", "stop")


@pytest.mark.parametrize("parts", [[whole] for whole in (b"", b"\xef\xbb\xbf")] + [[b": hi\r\n\r\n"]])
async def test_what_stands_before_the_first_event(parts: list[bytes]) -> None:
    """A byte order mark and comments that keep a connection alive are no events."""
    body = b"".join(parts) + chunk("a") + b": ping\n\n" + chunk(finish="stop") + done()
    sink, _ = await answered([REQUEST, up.head() + body])
    assert sink.text == "a"


async def test_what_arrives_together_is_put_together() -> None:
    """One read of many events is one put, so that what a fast model says costs little."""
    texts = [str(n) for n in range(50)]
    sink, _ = await answered([REQUEST, CHUNKED + chunked(b"".join(map(chunk, texts)) + done()) + LAST, HOLD])
    assert [delta.content for delta in sink.deltas] == texts
    assert len(sink.puts) < 5


async def test_the_request() -> None:
    """The upstream is asked for a stream with usage, with what the request says and nothing it does not."""
    once = said(chunk(finish="stop"), done())[:-1]
    async with asking([*once, *once, HOLD]) as (upstream, provider):
        await provider.answer(ask("hi"), ListSink())
        messages = [ChatMessage("system", "s"), ChatMessage("user", [{"type": "text", "text": "t"}])]
        full = ChatRequest(messages, "m", 0.0, 7, {"type": "json_object"})
        await provider.answer(full, ListSink())
        bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for seen in upstream.seen for r in seen.requests]
        assert all(b"authorization: bearer k" in seen.requests[0].lower() for seen in upstream.seen)
    common = {"stream": True, "stream_options": {"include_usage": True}}
    assert bodies[0] == {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "hi"}], **common}
    assert bodies[1] == {
        **{"model": "m", "temperature": 0.0, "max_tokens": 7, "response_format": {"type": "json_object"}},
        **{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": messages[1].content}]},
        **common,
    }


def test_openai_itself_is_asked_by_the_new_name() -> None:
    """OpenAI's own models take max_completion_tokens where all others take max_tokens."""

    async def scenario() -> None:
        provider = OpenAIProvider("k")
        arguments = provider._body(ChatRequest([], max_tokens=5), "m")
        assert arguments["max_completion_tokens"] == 5
        assert "max_tokens" not in arguments
        await provider.close()

    asyncio.run(scenario())


async def test_one_connection_for_many_answers() -> None:
    """Answers that follow each other share a connection."""
    each: Script = [REQUEST, CHUNKED, chunked(chunk("a"), chunk(finish="stop")), 0.005, chunked(done()) + LAST]
    async with asking([*each * 5, HOLD]) as (upstream, provider):
        for _ in range(5):
            async with asyncio.timeout(2):
                await provider.answer(ask(), ListSink())
        assert len(upstream.seen) == 1


async def test_three_hundred_at_once() -> None:
    """There is no limit on answers under way."""
    script: Script = [
        REQUEST,
        CHUNKED,
        chunked(chunk("a")),
        0.5,
        chunked(chunk("b"), chunk(finish="stop"), done()),
        LAST,
    ]
    async with asking(script) as (upstream, provider):
        sinks = [ListSink() for _ in range(300)]
        await asyncio.gather(*(provider.answer(ask(), sink) for sink in sinks))
        assert {sink.text for sink in sinks} == {"ab"}
        assert len(upstream.seen) == 300


# -- odd text


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=5), st.integers(1, 200), st.booleans())
def test_any_text_arrives(texts: list[str], size: int, escaped: bool) -> None:
    """Every text arrives as it was said, escaped or not, wherever the bytes are cut."""
    events = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    body = b"".join(b"data: " + json.dumps(e, ensure_ascii=escaped).encode() + b"\n\n" for e in events) + done()
    pieces = [body[n : n + size] for n in range(0, len(body), size)]

    async def scenario() -> None:
        sink, _ = await answered([REQUEST, CHUNKED + chunked(*pieces) + LAST, HOLD])
        assert sink.text == "".join(texts)

    asyncio.run(scenario())


async def _produced(*events: bytes) -> list[str]:
    """The chunks that a producer makes of this answer."""
    async with asking(said(*events, chunk(finish="stop"), done())) as (_, provider):
        log = ChunkLog("s", "e", MemoryStore())
        await Producer(provider, ask(), log, Limits(5, 5, 1000, 1 << 20)).start()
        assert log.state is StreamState.COMPLETE
        return [each.content for each in log.chunks(1, len(log))]


def _escaped(content: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % content.encode()


async def test_a_pair_split_between_events_survives() -> None:
    """A character that a server cuts between two events, as halves of a pair, arrives whole."""
    assert "".join(await _produced(_escaped("a\\ud83d"), _escaped("\\ude00b"))) == "a😀b"


async def test_a_lone_half_survives() -> None:
    """Half a character that never gets its other half is replaced, and the answer goes on."""
    assert "".join(await _produced(_escaped("a\\ude00"), chunk("b"), _escaped("\\ud83d"))) == "a\ufffdb\ufffd"


async def test_broken_utf8_survives() -> None:
    """Bytes that are no UTF-8 are replaced, and the answer goes on."""
    broken = b'data: {"choices":[{"delta":{"content":"a\xff\xc3b"}}]}\n\n'
    assert "".join(await _produced(broken, chunk("c"))) == "a\ufffd\ufffdbc"


# -- ends that are none


@pytest.mark.parametrize("end", [[], [LAST, HOLD], [RESET]], ids=["closed", "ended", "reset"])
@pytest.mark.parametrize("before", [[], [chunked(chunk("a"))], [chunked(chunk("a"), usage(1, 1))]])
async def test_an_answer_without_an_end_is_interrupted(before: list[bytes], end: list[Any]) -> None:
    """An answer that stops without a reason and without the marker was cut off, however politely."""
    sink = ListSink()
    error = await failed([REQUEST, CHUNKED, *before, 0.02, *end], sink=sink)
    assert isinstance(error, Interrupted)
    assert error.recoverable
    assert sink.text == ("a" if before else "")


async def test_half_an_event_is_no_end() -> None:
    """An end that was cut off in its middle is none."""
    error = await failed([REQUEST, CHUNKED, chunked(chunk("a"), chunk(finish="stop")[:-5]), LAST, HOLD])
    assert isinstance(error, Interrupted)


@pytest.mark.parametrize(
    ("error", "kind", "recoverable"),
    [
        ({"message": SECRET, "type": "server_error"}, ProviderError, True),
        ({"message": SECRET, "code": "content_filter"}, ContentFiltered, False),
        ({"message": SECRET, "code": "rate_limit_exceeded"}, ProviderRateLimited, True),
        ({"message": SECRET, "code": 429}, ProviderRateLimited, True),
        ({}, ProviderError, True),
        (SECRET, ProviderError, True),
        ([SECRET], ProviderError, True),
        (500, ProviderError, True),
    ],
)
async def test_an_error_in_the_stream(error: Any, kind: type[StreamFailure], recoverable: bool) -> None:
    """An error that comes as an event ends the answer as what it is; the text before it is kept."""
    for script in (
        said(chunk("a"), event({"error": error}), chunk("never")),
        [REQUEST, CHUNKED + chunked(chunk("a") + event({"error": error}) + chunk("never")) + LAST, HOLD],
    ):
        sink = ListSink()
        failure = await failed(script, sink=sink)
        assert (type(failure), failure.recoverable, sink.text) == (kind, recoverable, "a")


@pytest.mark.parametrize(
    "payload",
    [
        *(b"{broken", b"", b"null", b"[]", b"5", b'"text"', b'{"choices": 5}', b'{"choices": [5]}', b"<html>"),
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"content": ["a"]}}]}',
        b'{"usage": {"prompt_tokens": "many"}}',
        b'{"error": ' + b"[" * 100_000,
        b'{"error": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe{",
    ],
    ids=lambda payload: payload[:24].decode("latin-1"),
)
async def test_an_event_that_cannot_be_read(payload: bytes) -> None:
    """An event that is not of the documented form ends the answer as a provider_error; the text before it is kept."""
    for joined in (False, True):
        events = [chunk("a"), b"data: " + payload + b"\n\n", chunk("never")]
        sink = ListSink()
        error = await failed(said(b"".join(events)) if joined else said(*events), sink=sink)
        assert (type(error), error.recoverable, sink.text) == (ProviderError, True, "a")


async def test_fields_nobody_knows_are_ignored() -> None:
    """What a server adds to an event, or leaves out of it, does not matter."""
    sink, finish = await answered(
        said(
            event({"choices": [{"delta": {"content": "a", "audio": {"x": 1}}, "logprobs": [1]}], "obfuscation": "x"}),
            event({}),
            event({"choices": []}),
            event({"choices": [{}]}),
            event({"choices": [{"delta": None, "finish_reason": None}], "usage": None, "error": None}),
            event(
                {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 1, "cost": 0.1}}
            ),
            done(),
        )
    )
    assert (sink.text, finish) == ("a", Finish("stop", Usage(0, 1)))


# -- refusals


@pytest.mark.parametrize(
    ("status", "kind", "recoverable"),
    [
        ("400 Bad Request", ErrorType.PROVIDER_ERROR, False),
        ("401 Unauthorized", ErrorType.PROVIDER_ERROR, False),
        ("403 Forbidden", ErrorType.PROVIDER_ERROR, False),
        ("404 Not Found", ErrorType.PROVIDER_ERROR, False),
        ("402 Payment Required", ErrorType.RATE_LIMIT, False),
        ("408 Request Timeout", ErrorType.PROVIDER_TIMEOUT, True),
        ("409 Conflict", ErrorType.PROVIDER_ERROR, True),
        ("422 Unprocessable", ErrorType.PROVIDER_ERROR, False),
        ("429 Too Many Requests", ErrorType.RATE_LIMIT, True),
        ("500 Internal Server Error", ErrorType.PROVIDER_ERROR, True),
        ("502 Bad Gateway", ErrorType.PROVIDER_ERROR, True),
        ("503 Service Unavailable", ErrorType.PROVIDER_ERROR, True),
        ("504 Gateway Timeout", ErrorType.PROVIDER_TIMEOUT, True),
        ("529 Overloaded", ErrorType.PROVIDER_ERROR, True),
    ],
)
@pytest.mark.parametrize("body", [{"error": {"message": SECRET, "code": "x", "type": "y"}}, SECRET, [SECRET]])
async def test_refusals(
    status: str, kind: ErrorType, recoverable: bool, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Each status is the right error, recoverable where another try can help, and nobody reads the provider's words."""
    with caplog.at_level(logging.DEBUG, "wsstream"):
        error = await failed([REQUEST, failure(status, body), HOLD])
    assert (error.error_type, error.recoverable, error.retry_after) == (kind, recoverable, None)
    assert status[:3] in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None)])
async def test_a_rate_limit_says_when_to_come_back(value: str, seconds: float | None) -> None:
    """The provider's own Retry-After is handed on, where it is a number of seconds."""
    error = await failed([REQUEST, failure("429 Too Many Requests", {}, Retry_After=value), HOLD])
    assert isinstance(error, ProviderRateLimited)
    assert error.retry_after == seconds


async def test_a_rate_limit_that_says_no_number() -> None:
    """A Retry-After that is no finite number is not handed on: no client could wait for it."""
    for value in ("nan", "inf", "1e999"):
        error = await failed([REQUEST, failure("429 Too Many Requests", {}, Retry_After=value), HOLD])
        assert error.retry_after is None


async def test_a_filtered_question() -> None:
    """A question that the provider's filter refuses is content_filter, not a mere refusal."""
    body = {"error": {"message": SECRET, "code": "content_filter"}}
    assert isinstance(await failed([REQUEST, failure("400 Bad Request", body), HOLD]), ContentFiltered)


async def test_nothing_is_tried_again() -> None:
    """A hiccup before the answer has begun is not tried again here: whoever asks tells people why they wait."""
    hiccup = failure("503 Service Unavailable", {}, Retry_After="3")
    async with asking([REQUEST, hiccup, HOLD], said(chunk("a"), chunk(finish="stop"), done())) as (upstream, provider):
        with pytest.raises(ProviderError) as raised:
            await provider.answer(ask(), ListSink())
        assert (raised.value.recoverable, raised.value.retry_after) == (True, 3.0)
        assert len(upstream.seen) == 1


REFUSED = failure("400 Bad Request", {"error": {"message": "Unknown field: stream_options"}}, Connection="close")


async def test_an_older_server_is_not_asked_for_usage() -> None:
    """A server that refuses stream_options is asked again without, and from then on."""
    good = said(chunk("a"), chunk(finish="stop"), done())[:-1]
    async with asking([REQUEST, REFUSED], [*good, *good, HOLD]) as (upstream, provider):
        for _ in range(2):
            sink = ListSink()
            assert (await provider.answer(ask(), sink)).usage is None
            assert sink.text == "a"
        bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for seen in upstream.seen for r in seen.requests]
        assert ["stream_options" in body for body in bodies] == [True, False, False]


async def test_answers_that_meet_an_older_server_together() -> None:
    """Several first requests at once are all asked again without usage, not only the first that was refused."""
    good = said(chunk("a"), chunk(finish="stop"), done())
    refusing: Script = [REQUEST, 0.1, REFUSED]
    async with asking(refusing, refusing, refusing, good) as (upstream, provider):
        sinks = [ListSink() for _ in range(3)]
        await asyncio.gather(*(provider.answer(ask(), sink) for sink in sinks))
        assert [sink.text for sink in sinks] == ["a", "a", "a"]
        assert len(upstream.seen) == 6


async def test_another_refusal_is_not_tried_again() -> None:
    """A refusal that has nothing to do with stream_options costs one request only."""
    async with asking([REQUEST, failure("400 Bad Request", {"error": {"message": "no"}}), HOLD]) as (
        upstream,
        provider,
    ):
        with pytest.raises(ProviderError):
            await provider.answer(ask(), ListSink())
        assert len(upstream.seen) == 1


async def test_nobody_listens() -> None:
    """A provider that cannot be reached is a provider_error that is worth another try."""
    async with playing([]) as upstream:
        url = upstream.url
    provider = OpenAIProvider("k", url)
    with pytest.raises(ProviderError) as raised:
        await provider.answer(ask(), ListSink())
    assert (raised.value.recoverable, raised.value.error_type) == (True, ErrorType.PROVIDER_ERROR)
    await provider.close()


async def test_an_upstream_out_of_reach() -> None:
    """A connection that cannot be made in time is a provider_timeout."""
    provider = OpenAIProvider("k", "http://127.0.0.1:9/v1")
    provider._client = provider._client.with_options(max_retries=0, timeout=0.05)

    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(1000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(asyncio.get_running_loop()), "create_connection", never)
        with pytest.raises(ProviderTimeout):
            await provider.answer(ask(), ListSink())
    await provider.close()


@pytest.mark.parametrize("answer", [[], [RESET], [b"garbage\r\n\r\n", HOLD]])
async def test_an_upstream_that_hangs_up(answer: list[Any]) -> None:
    """A connection that ends before the answer begins is a provider_error that is worth another try."""
    async with asking([REQUEST, *answer]) as (_, provider):
        with pytest.raises(ProviderError) as raised:
            await provider.answer(ask(), ListSink())
        assert raised.value.recoverable


# -- room and cancel


async def test_without_room_the_upstream_waits() -> None:
    """While the sink has no room, the upstream cannot write on; with room again, every token comes."""
    piece = chunk("x" * 1000) * 60
    count = 500
    script: Script = [REQUEST, CHUNKED, *[chunked(piece)] * count, chunked(chunk(finish="stop"), done()), LAST, HOLD]
    async with asking(script) as (upstream, provider):
        sink = ListSink(room=1)
        task = asyncio.create_task(provider.answer(ask(), sink))
        await asyncio.sleep(0.3)
        written, taken = upstream.seen[0].written, len(sink.deltas)
        await asyncio.sleep(0.1)
        assert upstream.seen[0].written == written < len(piece) * count / 2
        assert len(sink.deltas) == taken
        sink.give()
        await task
        assert len(sink.text) == 60 * 1000 * count


async def _cancel_in_the_middle() -> None:
    script: Script = [REQUEST, CHUNKED, *[chunked(chunk("x")), 0.002] * 30, *[chunked(chunk("x"))] * 2, HOLD]
    async with asking(script) as (upstream, provider):
        log = ChunkLog("s", "e", MemoryStore())
        producer = Producer(provider, ask(), log, Limits(5, 5, 1000, 1 << 20))
        task = producer.start()
        while len(log) < 20:  # noqa: ASYNC110 - a log has no event, and needs none
            await asyncio.sleep(0.001)
        count = len(log)
        cancelled = time.monotonic()
        producer.cancel()
        await task
        assert time.monotonic() - cancelled < 0.5
        await upstream.seen[0].closed.wait()
        assert (upstream.seen[0].closed_at or 0) - cancelled < 0.5
        assert len(log) <= count + 1
        assert log.outcome is not None
        assert log.outcome.receipt is not None
        assert (log.outcome.receipt.upstream_closed_ms or 0) < 500


async def test_a_cancel_closes_the_upstream_at_once() -> None:
    """A cancel closes the upstream's socket in that moment, and at most one chunk more is taken."""
    await _cancel_in_the_middle()


def test_a_cancel_closes_the_upstream_at_once_on_uvloop() -> None:
    """The loop that servers run on is as quick."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_cancel_in_the_middle())


@pytest.mark.parametrize("answer", [[HOLD], [CHUNKED, HOLD]], ids=["before the head", "before the first token"])
async def test_a_cancel_before_the_first_token(answer: list[Any]) -> None:
    """An answer that has not begun is cancelled as quickly."""
    async with asking([REQUEST, *answer]) as (upstream, provider):
        task = asyncio.create_task(provider.answer(ask(), ListSink()))
        await asyncio.sleep(0.1)
        cancelled = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        await upstream.seen[0].closed.wait()
        assert (upstream.seen[0].closed_at or 0) - cancelled < 0.5


async def test_a_cancel_without_room() -> None:
    """An answer that waits for its viewers is cancelled as quickly."""
    script: Script = [REQUEST, CHUNKED, *[chunked(chunk("x")), 0.005] * 3, HOLD]
    async with asking(script) as (upstream, provider):
        sink = ListSink(room=1)
        task = asyncio.create_task(provider.answer(ask(), sink))
        while not sink.waits:  # noqa: ASYNC110 - nor has the sink
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        cancelled = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        await upstream.seen[0].closed.wait()
        assert (upstream.seen[0].closed_at or 0) - cancelled < 0.5
        assert len(sink.deltas) <= 2


# -- making it


@pytest.mark.parametrize(
    ("environ", "base_url", "host", "key"),
    [
        ({"OPENAI_API_KEY": "a"}, None, "api.openai.com", "a"),
        ({"OPENAI_API_KEY": "a"}, "http://here/v1", "here", "a"),
        ({}, "http://here/v1", "here", "none"),
        ({"OPENAI_BASE_URL": "http://there/v1"}, None, "there", "none"),
        ({"OPENAI_BASE_URL": "http://there/v1"}, "http://here/v1", "here", "none"),
    ],
)
def test_where_it_goes(
    environ: dict[str, str], base_url: str | None, host: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting goes before the variable, the variable before OpenAI, and only OpenAI needs a key."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    async def scenario() -> None:
        provider = make(Config(base_url=base_url))
        assert (provider._client.base_url.host, provider._client.api_key) == (host, key)
        await provider.close()

    asyncio.run(scenario())


def test_without_a_key_it_is_not_made() -> None:
    """With neither a key nor another server, the server says so when it starts."""
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        make(Config())


async def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy the answer is the same, with a reader that has to wait, and to its end."""
    events = [chunk(str(n)) for n in range(10)]
    script: Script = [REQUEST, CHUNKED, *(part for e in events for part in (chunked(e), 0.003))]
    async with playing([*script, chunked(chunk(finish="stop"), done()), LAST, HOLD]) as upstream:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{upstream.port}")
        provider = OpenAIProvider("k", "http://model.invalid/v1")
        sink = ListSink(room=3)
        asyncio.get_running_loop().call_later(0.1, sink.give)
        async with asyncio.timeout(PATIENCE):
            finish = await provider.answer(ask(), sink)
        assert (sink.text, finish.reason) == ("0123456789", "stop")
        await provider.close()


# -- options, tools and the answer so far


def _asked(request: ChatRequest, **settings: Any) -> dict[str, Any]:
    """What a provider with these settings asks of its upstream."""

    async def scenario() -> dict[str, Any]:
        async with asking(said(chunk(finish="stop"), done())) as (upstream, _):
            provider = OpenAIProvider("k", upstream.url, **settings)
            await provider.answer(request, ListSink())
            await provider.close()
            body: dict[str, Any] = upstream.seen[0].body
            return body

    return asyncio.run(scenario())


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_options_are_passed_on() -> None:
    """Known settings go out as they are; unknown ones are left out, and none replaces what we ask for."""
    options = {
        "tools": [TOOL],
        "tool_choice": "auto",
        "top_p": 0.5,
        "stop": ["x"],
        "seed": 7,
        "reasoning_effort": "low",
    }
    body = _asked(ChatRequest([], "m", options={**options, "n": 1, "mystery": 1, "stream": False, "model": "other"}))
    assert {name: body[name] for name in options} == options
    assert (body["stream"], body["model"]) == (True, "m")
    assert not {"mystery", "n"} & body.keys()


def test_tool_messages_are_passed_on() -> None:
    """Calls of tools and their results are turns like others."""
    turns = [ChatMessage("assistant", None, tool_calls=[CALL]), ChatMessage("tool", "42", tool_call_id="c1")]
    assert _asked(ChatRequest(turns))["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("style", "last", "more"),
    [
        ("assistant", {"role": "assistant", "content": "so far "}, {}),
        ("prefix", {"role": "assistant", "content": "so far ", "prefix": True}, {}),
        (
            "vllm",
            {"role": "assistant", "content": "so far "},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
    ],
)
def test_the_answer_so_far(style: str, last: dict[str, Any], more: dict[str, Any]) -> None:
    """A model goes on behind its answer so far in the way that its server understands."""
    body = _asked(ChatRequest([ChatMessage("user", "hi")], prefix="so far "), prefill=Prefill(style))
    assert body["messages"][1:] == [last]
    assert {name: body[name] for name in more} == more
    without = _asked(ChatRequest([ChatMessage("user", "hi")]), prefill=Prefill(style))
    assert len(without["messages"]) == 1
    assert not more.keys() & without.keys()


async def test_who_cannot_go_on_says_so() -> None:
    """Of a provider that does not continue, or a model that does not, a prefix is refused before anybody is asked."""
    for prefill in (Prefill(), Prefill("assistant", ("other-*",))):
        async with playing([]) as upstream:
            provider = OpenAIProvider("k", upstream.url, prefill=prefill)
            assert provider.continues is (prefill.style != "off")
            assert [provider.suits(model) for model in ("other-1", "mine", None)] == [
                prefill.style != "off",
                False,
                False,
            ]
            with pytest.raises(ProviderError, match="cannot go on"):
                await provider.answer(ChatRequest([], "m", prefix="a"), ListSink())
            assert upstream.seen == []
            await provider.close()


async def test_only_openai_is_asked_for_no_padding() -> None:
    """Padding of events is switched off where it exists; other servers do not know the setting."""
    openai, other = OpenAIProvider("k"), OpenAIProvider("k", "http://127.0.0.1:9/v1")
    assert openai._body(ask(), "m")["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert other._body(ask(), "m")["stream_options"] == {"include_usage": True}
    await openai.close()
    await other.close()


async def test_a_server_without_a_named_model_is_asked_for_its_first() -> None:
    """Where nobody names a model, the first that the server lists is asked; the list is read once."""
    models = up.whole(b'{"data": [{"id": "local"}, {"id": "other"}]}', Content_Type="application/json")
    answers: Script = [part for _ in range(3) for part in (REQUEST, CHUNKED, chunked(chunk("a"), done()), LAST)]
    async with playing([REQUEST, models, *answers, HOLD], [*answers, HOLD]) as upstream:
        provider = OpenAIProvider("k", upstream.url, model=None)
        await provider.answer(ask(), ListSink())
        await asyncio.gather(*(provider.answer(ask(), ListSink()) for _ in range(2)))
        requests = [request for seen in upstream.seen for request in seen.requests]
        assert [request.split(b" ")[1] for request in requests].count(b"/v1/models") == 1
        bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for r in requests if r.startswith(b"POST")]
        assert [body["model"] for body in bodies] == ["local"] * 3
        await provider.close()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"oops", b'{"data": [{"name": "x"}]}'])
async def test_a_server_that_lists_no_model(body: bytes) -> None:
    """Where a server does not say what it has, a model has to be named."""
    async with asking([REQUEST, up.whole(body), HOLD]) as (upstream, _):
        provider = OpenAIProvider("k", upstream.url, model=None)
        with pytest.raises(ProviderError, match="name one"):
            await provider.answer(ask(), ListSink())
        await provider.close()


# -- other dialects


async def test_thoughts_by_another_name() -> None:
    """OpenRouter's name for thoughts is understood, and what comes by both names comes once."""
    sink, _ = await answered(said(chunk(reasoning="hm"), chunk(reasoning="so", reasoning_content="so"), done()))
    assert sink.deltas == [Delta("hm", Kind.REASONING), Delta("so", Kind.REASONING)]


async def test_content_in_parts() -> None:
    """Content that comes as a list of typed parts, thoughts among them, is text and thoughts."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    sink, _ = await answered(said(chunk(content=parts), chunk("c", "stop"), done()))
    assert (sink.reasoning, sink.text) == ("hm", "abc")


async def test_a_refusal_is_text_and_a_reason() -> None:
    """What a model says when it refuses is shown, and the end says that it did."""
    sink, finish = await answered(said(chunk(refusal="I will "), chunk(refusal="not"), chunk(finish="stop"), done()))
    assert (sink.text, finish.reason) == ("I will not", "content_filter")


async def test_the_old_way_to_call_a_function() -> None:
    """A function's call as it was before tools is a call."""
    sink, finish = await answered(
        said(
            chunk(function_call={"name": "f", "arguments": ""}),
            chunk(function_call={"arguments": "{}"}),
            chunk(finish="function_call"),
        )
    )
    assert [delta.content for delta in sink.deltas] == [
        '{"index":0,"id":"call_0","name":"f"}\n',
        '{"index":0,"arguments":"{}"}\n',
    ]
    assert finish.reason == "tool_calls"


async def test_other_answers_are_left_out() -> None:
    """Where a server sends more than one answer, the first is the answer."""
    other = event({"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "length"}]})
    sink, finish = await answered(said(chunk("a"), other, chunk("b", "stop"), other, done()))
    assert (sink.text, finish.reason) == ("ab", "stop")


async def test_what_thinking_and_caching_saved() -> None:
    """Tokens of thinking and of the cache are told where a server tells them, and nothing is where it does not."""
    told = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 4},
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    _, finish = await answered(said(chunk("a", "stop"), event({"choices": [], "usage": told}), done()))
    assert finish.usage == Usage(9, 5, 4, 8)
    assert msgspec.to_builtins(Usage(9, 5)) == {"input_tokens": 9, "output_tokens": 5}


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
async def test_every_way_to_refuse_stream_options(status: str) -> None:
    """Servers that check what they are sent refuse with one status or the other, somewhere in the body."""
    refused = failure(status, {"detail": [{"loc": ["body", "stream_options"], "msg": "extra"}]}, Connection="close")
    async with asking([REQUEST, refused], said(chunk("a", "stop"), done())) as (upstream, provider):
        sink = ListSink()
        await provider.answer(ask(), sink)
        assert (sink.text, len(upstream.seen)) == ("a", 2)
