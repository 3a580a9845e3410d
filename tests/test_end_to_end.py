"""The real server on real sockets, spoken to by a client that shares no code with it."""

from __future__ import annotations

import asyncio
import time

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import SCRIPTED, Serve, Spawn
from tests.data.scripted import Run, Scripted
from tests.native import Answer, HasPort, Native, connected
from tests.proxy import Proxy
from wsstream.chunks import Finish, Kind, Usage
from wsstream.errors import ContentFiltered, ProviderRateLimited

UNPACED = "demo:rate=0,tokens=300"
PACED = "demo:rate=2000,tokens=300"
ENDLESS = "demo:rate=1000,tokens=1000000"


async def whole(server: HasPort, stream_id: str) -> str:
    """The answer's text, as a viewer who comes when all is over reads it."""
    async with connected(server) as late:
        await late.resume(stream_id, 0)
        return (await late.read(stream_id)).text


async def begun(native: Native, scripted: Scripted) -> tuple[str, Run]:
    """A scripted answer, under way."""
    stream_id = await native.ask()
    await native.round_trip()  # the provider's task begins one turn later
    return stream_id, scripted.last


# -- asking


@pytest.mark.parametrize("model", [UNPACED, PACED])
async def test_ask_stream_acknowledge_complete(serve: Serve, model: str) -> None:
    """An answer comes whole and in order, behind its stream_start and before its stream_complete."""
    server = await serve()
    async with connected(server) as native:
        answer = await native.read(await native.ask(model))
        types = native.types()
    assert answer.last == 300
    assert answer.end is not None
    assert answer.end["finish_reason"] == "stop"
    assert answer.end["usage"]["output_tokens"] == 300
    assert answer.end["ttft_ms"] >= 0
    assert types[:2] == ["connection_established", "stream_start"]
    assert types[-1] == "stream_complete"


async def test_what_a_greeting_tells(serve: Serve) -> None:
    """The answer to hello says who one is, how it will be kept alive, and what is allowed."""
    server = await serve(window=20, max_window=30, max_streams=3)
    async with connected(server, greet=False) as native:
        told = await native.hello(session_id="mine", window=99)
    assert told["session_id"] == "mine"
    assert told["window"] == 30
    assert told["limits"] == {"max_message_bytes": 65536, "max_streams": 3, "max_window": 30}
    assert told["heartbeat_timeout"] >= 2 * told["heartbeat_interval"]
    assert told["active_streams"] == []


async def test_a_request_may_be_the_first_message(serve: Serve) -> None:
    """A client that does not greet is greeted all the same."""
    server = await serve()
    async with connected(server, greet=False) as native:
        await native.read(await native.ask(UNPACED))
        assert native.types()[:2] == ["connection_established", "stream_start"]


async def test_the_root_address_speaks_too(serve: Serve) -> None:
    """An upgrade on ``/`` is the same as one on ``/ws``."""
    server = await serve()
    async with connected(server, path="/?from=page") as native:
        assert (await native.read(await native.ask(UNPACED))).last == 300


async def test_kinds_are_told_apart(serve: Serve, scripted: Scripted) -> None:
    """Reasoning and text that arrive together are sent as messages of their own kind, in order."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("think", "ing", kind=Kind.REASONING)
        run.put("an", "swer")
        run.finish(Finish("length", Usage(3, 4)))
        answer = await native.read(stream_id)
        kinds = [m.get("kind", "text") for m in native.seen if "content" in m]
    assert answer.parts == ["thinking", "answer"]
    assert kinds == ["reasoning", "text"]
    assert answer.end is not None
    assert answer.end["finish_reason"] == "length"
    assert answer.end["usage"] == {"input_tokens": 3, "output_tokens": 4}


@pytest.mark.parametrize(
    ("error", "error_type", "recoverable"),
    [
        (ContentFiltered(), "content_filter", False),
        (ProviderRateLimited(retry_after=3.0), "rate_limit", True),
        (ZeroDivisionError("secret of the upstream"), "internal_error", True),
    ],
)
async def test_a_failed_answer_ends_with_a_stream_error(
    serve: Serve, scripted: Scripted, error: Exception, error_type: str, recoverable: bool
) -> None:
    """A failure comes in its place behind the last chunk, in our words, and the connection goes on."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("half ")
        run.fail(error)
        answer = await native.read(stream_id)
        await native.round_trip()
    assert answer.text == "half "
    assert answer.end is not None
    assert (answer.end["error_type"], answer.end["recoverable"]) == (error_type, recoverable)
    assert answer.end.get("retry_after") == getattr(error, "retry_after", None)
    assert "secret" not in answer.end["message"]


async def test_two_answers_on_one_socket_interleave(serve: Serve, scripted: Scripted) -> None:
    """Each stream has its own ids and window; neither waits for the other."""
    server = await serve(provider=SCRIPTED, window=2)
    async with connected(server) as native:
        one, first = await begun(native, scripted)
        first.put(*"abcd")
        await native.read(one, to=2, ack=False)
        two = await native.ask()
        await native.round_trip()
        second = scripted.last
        second.put("x")
        assert (await native.read(two, to=1)).text == "x"
        await native.ack(one)
        await native.read(one, to=4)
        second.put("y")
        await native.read(two, to=2)
        first.finish()
        second.finish()
        await native.read(one)
        await native.read(two)
        assert native.answer(one).text == "abcd"
        assert native.answer(two).text == "xy"


async def test_a_stream_need_not_be_named_where_there_is_one(serve: Serve, scripted: Scripted) -> None:
    """Acks, cancels and resumes without stream_id mean the connection's only stream."""
    server = await serve(provider=SCRIPTED, window=2)
    async with connected(server, session_id="mine") as native:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcd")
        await native.read(stream_id, to=2, ack=False)
        await native.ack(chunk_id=2)
        await native.read(stream_id, to=4, ack=False)
    async with connected(server, session_id="mine") as native:
        native.answers[stream_id] = Answer(stream_id, 3)
        await native.send("resume_stream", last_chunk_id=3)
        await native.read(stream_id, to=4)
        await native.send("cancel_stream")
        answer = await native.read(stream_id)
    assert answer.end is not None
    assert answer.end["finish_reason"] == "cancelled"


# -- asking again


async def test_the_same_request_again_starts_nothing(serve: Serve, scripted: Scripted) -> None:
    """A repeated request_id attaches to the stream that it began, on this connection as on another of the session."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine") as native, connected(server, session_id="mine") as other:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b")
        assert await native.ask(request_id="r1") == stream_id
        assert await other.ask(request_id="r1") == stream_id
        run.finish()
        assert (await native.read(stream_id)).text == "ab"
        assert (await other.read(stream_id)).text == "ab"
        assert await other.ask(request_id="r1") == stream_id
    assert len(scripted.runs) == 1


async def test_the_same_request_id_of_another_session_is_another_request(serve: Serve, scripted: Scripted) -> None:
    """Idempotency keys of two sessions never meet."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native, connected(server) as other:
        assert await native.ask(request_id="r1") != await other.ask(request_id="r1")
        await other.round_trip()
    assert len(scripted.runs) == 2


async def test_a_session_s_running_streams_are_told(serve: Serve, scripted: Scripted) -> None:
    """A reloaded page learns from the greeting which answers it can go on with."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine") as native:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b")
        await native.read(stream_id, to=2)
    async with connected(server, greet=False) as native:
        told = await native.hello(session_id="mine")
        assert told["active_streams"] == [{"stream_id": stream_id, "last_chunk_id": 2, "state": "running"}]
    run.finish()
    await run.closed.wait()
    async with connected(server, greet=False) as native:
        assert (await native.hello(session_id="mine"))["active_streams"] == []
        await native.send("list_streams")
        listed = await native.until("stream_list")
    assert listed["streams"] == [{"stream_id": stream_id, "last_chunk_id": 2, "state": "complete"}]


async def test_a_session_s_messages_are_told(serve: Serve, scripted: Scripted) -> None:
    """A reloaded page gets the conversation, and where to go on in the answer that still runs."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine") as native, connected(server) as stranger:
        first, run = await begun(native, scripted)
        run.put("hel", "lo")
        run.finish()
        await native.read(first)
        second, run = await begun(native, scripted)
        run.put("and")
        await native.read(second, to=1)
        await native.send("get_history")
        told = await native.until("history")
        await stranger.send("get_history")
        assert (await stranger.until("history"))["messages"] == []
    assert told["session_id"] == "mine"
    assert [(m["role"], m["content"]) for m in told["messages"]] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "hi"),
        ("assistant", "and"),
    ]
    assert [m["is_complete"] for m in told["messages"]] == [True, True, True, False]
    assert (told["messages"][3]["stream_id"], told["messages"][3]["last_chunk_id"]) == (second, 1)
    assert [m.content for m in run.request.messages] == ["hi", "hello", "hi"], "the provider knows what was said"


@pytest.mark.parametrize(
    ("type", "fields"),
    [
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"boundary": "line"}}),
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"on_interrupt": "guess"}}),
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"fallback": ["os:system"]}}),
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"on_orphan": "keep"}}),
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"provider": "os:system"}}),
        ("chat_request", {"request_id": "r", "message": "hi", "config": {"provider": "openai"}}),
        ("chat_request", {"request_id": "r"}),
        ("chat_request", {"request_id": "r", "messages": []}),
        ("request_chunks", {"stream_id": "s", "from_chunk_id": 2, "to_chunk_id": 1}),
        ("cancel_stream", {}),
        ("resume_stream", {"last_chunk_id": 0}),
    ],
)
async def test_what_is_not_offered_is_refused(serve: Serve, type: str, fields: dict[str, object]) -> None:
    """A wish that cannot be met is answered bad_request, never ignored, and the connection goes on."""
    server = await serve()
    async with connected(server) as native:
        await native.send(type, **fields)
        error = await native.until("error")
        await native.read(await native.ask(UNPACED))
    assert error["error_type"] == "bad_request"
    assert error.get("request_id") == fields.get("request_id")


# -- losing the connection


async def test_a_dropped_client_goes_on_at_the_next_chunk(serve: Serve) -> None:
    """What came before the loss and what came after it is the answer, byte for byte."""
    server = await serve()
    texts = []
    async with connected(server) as native:
        stream_id = await native.ask(PACED)
        answer = await native.read(stream_id, to=20)
        native.drop()
    for to in (90, 200, None):
        texts.append(answer.text)
        async with connected(server) as native:
            resumed = await native.resume(stream_id, answer.last)
            assert resumed["last_chunk_id"] == answer.last <= resumed["tail_chunk_id"]
            answer = await native.read(stream_id, to=to)
            native.drop()
    assert answer.last == 300
    assert "".join([*texts, answer.text]) == await whole(server, stream_id)


async def test_a_cut_in_the_middle_of_a_message_loses_nothing(serve: Serve) -> None:
    """Wherever the network cuts, the answer goes on behind the last whole message."""
    server = await serve()
    async with Proxy(server.port) as proxy:
        async with connected(proxy) as native:
            proxy.cut_after(400)
            stream_id = await native.ask(UNPACED)
            assert (await native.closed())[0] == 1006
            answer = native.answer(stream_id)
        proxy.cut_after(None)
        async with connected(proxy) as native:
            await native.resume(stream_id, answer.last)
            rest = await native.read(stream_id)
    assert answer.text + rest.text == await whole(server, stream_id)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("position", [0, 3, 5])
async def test_resume_from_anywhere(serve: Serve, scripted: Scripted, position: int, running: bool) -> None:
    """From the start, the middle or the tail, while it runs and after its end: what follows comes, then the end."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcde")
        await native.read(stream_id, to=5)
        if not running:
            run.finish()
            await native.read(stream_id)
    async with connected(server) as native:
        resumed = await native.resume(stream_id, position)
        assert (resumed["tail_chunk_id"], resumed["state"]) == (5, "running" if running else "complete")
        if running:
            run.put("f")
            run.finish()
        answer = await native.read(stream_id)
    assert answer.text == "abcdef"[position : 6 if running else 5]


async def test_a_resume_acknowledges(serve: Serve, scripted: Scripted) -> None:
    """Behind last_chunk_id a whole window flows, whatever was acknowledged before."""
    server = await serve(provider=SCRIPTED, window=3)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcdefghij")
        await native.read(stream_id, to=3, ack=False)
        await native.resume(stream_id, 3)
        await native.read(stream_id, to=6, ack=False)
        await native.round_trip()
        assert native.answer(stream_id).last == 6
        await native.resume(stream_id, 2, window=5)
        await native.round_trip()
        assert native.answer(stream_id).last == 7


@pytest.mark.parametrize(
    ("position", "fields", "error_type"),
    [(3, {}, "resume_ahead"), (0, {"epoch": "another"}, "resume_ahead"), (9, {}, "resume_ahead")],
)
async def test_a_resume_beyond_the_log_is_said(
    serve: Serve, scripted: Scripted, position: int, fields: dict[str, str], error_type: str
) -> None:
    """A position that the log does not have is refused, and the connection goes on."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b")
        await native.send("resume_stream", stream_id=stream_id, last_chunk_id=position, **fields)
        assert (await native.until("error"))["error_type"] == error_type
        run.finish()
        assert (await native.read(stream_id)).text == "ab"


@pytest.mark.parametrize("type", ["resume_stream", "cancel_stream", "request_chunks", "chunk_ack"])
async def test_an_unknown_stream_is_said(serve: Serve, type: str) -> None:
    """Whatever is asked of a stream that never was is answered unknown_stream, and the connection goes on."""
    server = await serve()
    fields = {"last_chunk_id": 0, "chunk_id": 1, "from_chunk_id": 1, "to_chunk_id": 1}
    async with connected(server) as native:
        await native.send(type, stream_id="s_unknown", **fields)
        error = await native.until("error")
        await native.round_trip()
    assert error["error_type"] == "unknown_stream"


async def test_a_forgotten_stream_is_said(serve: Serve) -> None:
    """After the retention time the answer is log_trimmed, not unknown_stream: it was there once."""
    server = await serve(retention=0.05)
    async with connected(server) as native:
        stream_id = await native.ask(UNPACED)
        await native.read(stream_id)
        await asyncio.sleep(0.1)
        await native.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
        assert (await native.until("error"))["error_type"] == "log_trimmed"


async def test_an_answer_without_viewers_is_stopped(serve: Serve, scripted: Scripted) -> None:
    """After the orphan grace the upstream is closed; who comes then is told that it was interrupted."""
    server = await serve(provider=SCRIPTED, orphan_grace=0.05)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a")
        await native.read(stream_id, to=1)
    async with asyncio.timeout(2):
        await run.closed.wait()
    async with connected(server) as native:
        await native.resume(stream_id, 0)
        answer = await native.read(stream_id)
    assert answer.end is not None
    assert (answer.end["error_type"], answer.end["recoverable"]) == ("interrupted", True)


async def test_a_viewer_in_time_saves_the_answer(serve: Serve, scripted: Scripted) -> None:
    """A client that comes back within the orphan grace finds its answer running."""
    server = await serve(provider=SCRIPTED, orphan_grace=0.1)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
    async with connected(server) as native:
        await native.resume(stream_id, 0)
        await asyncio.sleep(0.2)
        run.finish()
        assert (await native.read(stream_id)).end == native.seen[-1]
        assert native.seen[-1]["type"] == "stream_complete"


# -- chunks again


@pytest.mark.parametrize("ended", [False, True])
async def test_chunks_can_be_asked_for_again(serve: Serve, scripted: Scripted, ended: bool) -> None:
    """request_chunks brings exactly its range, during the answer and after its end."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcdefgh")
        if ended:
            run.finish()
        await native.read(stream_id, to=None if ended else 8)
        native.answers[stream_id] = again = Answer(stream_id, 2)
        await native.send("request_chunks", stream_id=stream_id, from_chunk_id=3, to_chunk_id=5)
        await native.read(stream_id, to=5, ack=False)
        await native.round_trip()
        assert again.text == "cde"
        if not ended:
            native.answers[stream_id] = rest = Answer(stream_id, 8)
            run.put("i")
            run.finish()
            assert (await native.read(stream_id)).text == rest.text == "i"


async def test_chunks_never_sent_are_not_sent_again(serve: Serve, scripted: Scripted) -> None:
    """request_chunks does not go round the window."""
    server = await serve(provider=SCRIPTED, window=2)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcd")
        await native.read(stream_id, to=2, ack=False)
        await native.send("request_chunks", stream_id=stream_id, from_chunk_id=3, to_chunk_id=4)
        assert (await native.until("error"))["error_type"] == "resume_ahead"
        native.answers[stream_id] = Answer(stream_id)
        await native.send("request_chunks", stream_id=stream_id, from_chunk_id=1, to_chunk_id=4)
        await native.round_trip()
        assert native.answer(stream_id).text == "ab"


# -- windows


async def test_a_client_that_never_acknowledges_gets_its_window(serve: Serve) -> None:
    """Exactly a window of chunks comes, and then heartbeats only, however long it takes."""
    server = await serve(window=7, heartbeat_interval=0.1, heartbeat_timeout=5)
    async with connected(server) as native:
        stream_id = await native.ask(UNPACED)
        await native.read(stream_id, to=7, ack=False)
        more = await native.quiet(0.45)
    assert {message["type"] for message in more} == {"heartbeat"}
    assert len(more) >= 2


async def test_a_byte_window_holds_too(serve: Serve, scripted: Scripted) -> None:
    """Chunks of a kilobyte fill a byte window of eight long before the chunk window."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, window_bytes=8192) as native:
        stream_id, run = await begun(native, scripted)
        for _ in range(20):
            run.put("x" * 1024)
        await native.round_trip()
        assert native.answer(stream_id).last == 7
        await native.ack(stream_id, 1)
        await native.read(stream_id, to=8, ack=False)
        await native.round_trip()
        assert native.answer(stream_id).last == 8


async def test_a_client_moves_its_own_window(serve: Serve) -> None:
    """A window in hello or in an ack holds from then on."""
    server = await serve()
    async with connected(server, window=3) as native:
        stream_id = await native.ask(UNPACED)
        await native.read(stream_id, to=3, ack=False)
        await native.round_trip()
        assert native.answer(stream_id).last == 3
        await native.ack(stream_id, window=10)
        await native.read(stream_id, to=13, ack=False)
        await native.round_trip()
        assert native.answer(stream_id).last == 13


async def test_a_slow_reader_gets_everything(serve: Serve) -> None:
    """A client that takes its time for every message still gets the whole answer."""
    server = await serve(window=20)
    async with connected(server, max_queue=1) as native:
        stream_id = await native.ask(UNPACED)
        while native.answer(stream_id).end is None:
            await asyncio.sleep(0.002)
            await native.read(stream_id, to=native.answer(stream_id).last + 1)
    assert native.answer(stream_id).text == await whole(server, stream_id)


async def test_a_slow_viewer_does_not_slow_another(serve: Serve) -> None:
    """Two viewers follow one answer; the fast one is done while the slow one has a tenth, and both get all of it."""
    server = await serve(window=30)
    async with connected(server) as fast, connected(server) as slow:
        stream_id = await fast.ask(PACED)
        await slow.resume(stream_id, 0)
        await slow.read(stream_id, to=30, ack=False)
        await fast.read(stream_id)
        await slow.round_trip()
        assert slow.answer(stream_id).last == 30
        await slow.ack(stream_id)
        await slow.read(stream_id)
        assert slow.answer(stream_id).text == fast.answer(stream_id).text


async def test_a_client_that_offers_nothing_gets_single_chunks(serve: Serve) -> None:
    """Batches go only to those who said that they understand them."""
    server = await serve()
    for how, batched in (
        ({"subprotocol": None}, False),
        ({"subprotocol": None, "batch": True}, True),
        ({}, True),
        ({"batch": False}, False),
    ):
        async with connected(server, **how) as native:
            answer = await native.read(await native.ask(UNPACED))
            assert answer.last == 300
            assert ("chunk_batch" in native.types()) is batched, how
            assert (max(answer.sizes) > 1) is batched


# -- cancelling


@pytest.mark.parametrize("texts", [(), ("a", "b")])
async def test_a_cancel_ends_the_answer_and_closes_the_upstream(
    serve: Serve, scripted: Scripted, texts: tuple[str, ...]
) -> None:
    """Before the first token or in mid-stream: it ends as cancelled, with a receipt, and the provider is stopped."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        if texts:
            run.put(*texts)
            await native.read(stream_id, to=len(texts))
        await native.send("cancel_stream", stream_id=stream_id)
        answer = await native.read(stream_id)
        assert run.closed.is_set()
        run.put("too late")
        await native.round_trip()
    assert answer.text == "".join(texts)
    assert answer.end is not None
    assert answer.end["finish_reason"] == "cancelled"
    receipt = answer.end["receipt"]
    assert (receipt["generated_chunks"], receipt["delivered_chunk_id"]) == (len(texts), len(texts))
    assert 0 <= receipt["upstream_closed_ms"] < 1000


async def test_a_cancel_in_the_same_breath_as_the_request(serve: Serve, scripted: Scripted) -> None:
    """A cancel that arrives before the provider's task has begun is a cancel all the same."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        await native.send("chat_request", request_id="r", message="hi")
        await native.send("cancel_stream")
        stream_id = (await native.until("stream_start"))["stream_id"]
        answer = await native.read(stream_id)
    assert answer.end is not None
    assert answer.end["finish_reason"] == "cancelled"


async def test_cancelling_twice_is_fine(serve: Serve, scripted: Scripted) -> None:
    """A second cancel, even after the end, changes nothing; the end is told again to whoever asks after it."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a")
        for _ in range(2):
            await native.send("cancel_stream", stream_id=stream_id)
        end = (await native.read(stream_id)).end
        await native.round_trip()
        assert native.types().count("stream_complete") == 1
        await native.send("cancel_stream", stream_id=stream_id)
        assert await native.until("stream_complete") == end
    assert "error" not in native.types()


async def test_a_cancel_after_the_end_does_not_rewrite_it(serve: Serve) -> None:
    """An answer that ended well stays so."""
    server = await serve()
    async with connected(server) as native:
        stream_id = await native.ask(UNPACED)
        await native.read(stream_id)
        await native.send("cancel_stream", stream_id=stream_id)
        assert (await native.until("stream_complete"))["finish_reason"] == "stop"


async def test_another_tab_cancels(serve: Serve, scripted: Scripted) -> None:
    """Whoever may see the stream may cancel it; every viewer, and a canceller that is none, is told its end."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine") as native, connected(server, session_id="mine") as other:
        stream_id, run = await begun(native, scripted)
        run.close_delay = 0.05
        run.put("a")
        await native.read(stream_id, to=1)
        other.answers[stream_id] = Answer(stream_id, 1)
        await other.send("cancel_stream", stream_id=stream_id)
        end = (await native.read(stream_id)).end
        assert end is not None
        assert end["finish_reason"] == "cancelled"
        assert await other.until("stream_complete") == end


async def test_an_impatient_canceller_is_told_once(serve: Serve, scripted: Scripted) -> None:
    """However often it cancels while the upstream closes, a connection that follows nothing is told the end once."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native, connected(server) as other:
        stream_id, run = await begun(native, scripted)
        run.close_delay = 0.05
        for _ in range(5):
            await other.send("cancel_stream", stream_id=stream_id)
        await other.until("stream_complete")
        await other.round_trip()
        assert other.types().count("stream_complete") == 1


async def test_closing_the_socket_is_not_a_cancel(serve: Serve, scripted: Scripted) -> None:
    """An answer goes on without its viewer, for the orphan grace."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
    run.put("a")
    assert not run.closed.is_set()
    run.finish()
    await run.closed.wait()
    assert await whole(server, stream_id) == "a"


# -- limits


async def test_a_full_server_says_so_and_closes(serve: Serve, scripted: Scripted) -> None:
    """One request too many is answered with error capacity and close 1013 "Server at capacity"."""
    server = await serve(provider=SCRIPTED, max_running_streams=1)
    async with connected(server) as native, connected(server) as other:
        await begun(native, scripted)
        await other.send("chat_request", request_id="r9", message="hi")
        error = await other.until("error")
        assert await other.closed() == (1013, "Server at capacity")
        await native.round_trip()
    assert (error["error_type"], error["recoverable"], error["request_id"]) == ("capacity", True, "r9")
    assert error["retry_after"] > 0
    assert len(scripted.runs) == 1


async def test_a_full_server_does_not_disturb_who_is_reading(serve: Serve, scripted: Scripted) -> None:
    """A connection that follows a running answer is refused another, but keeps what it has."""
    server = await serve(provider=SCRIPTED, max_running_streams=1)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        await native.send("chat_request", request_id="r9", message="hi")
        assert (await native.until("error"))["error_type"] == "capacity"
        run.put("a")
        run.finish()
        assert (await native.read(stream_id)).text == "a"
        assert await native.ask() != stream_id


async def test_one_stream_too_many_on_a_connection(serve: Serve, scripted: Scripted) -> None:
    """It is refused without closing, nothing is asked of the provider for it, and it is welcome when one has ended."""
    server = await serve(provider=SCRIPTED, max_streams=2)
    async with connected(server, session_id="mine") as native:
        await native.ask()
        stream_id = await native.ask()
        await native.send("chat_request", request_id="r9", message="hi")
        error = await native.until("error")
        assert (error["error_type"], error["request_id"]) == ("capacity", "r9")
        await native.send("list_streams")
        assert len((await native.until("stream_list"))["streams"]) == len(scripted.runs) == 2
        assert await native.ask(request_id="r2") == stream_id
        scripted.last.finish()
        await native.read(stream_id)
        await native.ask(request_id="r9")
        await native.round_trip()
        assert len(scripted.runs) == 3


async def test_too_many_connections(serve: Serve) -> None:
    """One connection too many gets 503 and Retry-After before any WebSocket, and is welcome when one has gone."""
    server = await serve(max_connections=1)
    async with connected(server):
        with pytest.raises(InvalidStatus) as refused:
            async with connected(server):
                pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"
    async with connected(server) as native:
        await native.round_trip()


async def test_a_wrong_subprotocol_is_refused(serve: Serve) -> None:
    """A client of another version is told so by close code 4406."""
    server = await serve()
    async with connected(server, subprotocol="wsstream.v9", greet=False) as native:
        assert (await native.closed())[0] == 4406


# -- time


async def test_who_does_not_greet_is_closed(serve: Serve) -> None:
    """A connection without a first message is closed with 3008 after the hello time-out."""
    server = await serve(hello_timeout=0.1)
    async with connected(server, greet=False) as native:
        assert await native.closed() == (3008, "no hello in time")


async def test_heartbeats_flow_while_a_provider_thinks(serve: Serve, scripted: Scripted) -> None:
    """During a silent wait for the first token both ends see that the other is alive."""
    server = await serve(provider=SCRIPTED, heartbeat_interval=0.1, heartbeat_timeout=0.3)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        for _ in range(5):
            beat = await native.until("heartbeat")
            await native.send("heartbeat_ack", timestamp=beat["timestamp"])
        run.finish()
        await native.read(stream_id)


async def test_a_silent_peer_is_closed_and_its_stream_lives_on(serve: Serve, scripted: Scripted) -> None:
    """Who answers no heartbeat is closed with 3008, and can go on from where it was."""
    server = await serve(provider=SCRIPTED, heartbeat_interval=0.1, heartbeat_timeout=0.2)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a")
        assert await native.closed() == (3008, "nothing heard in time")
    async with connected(server) as native:
        await native.resume(stream_id, 1)
        run.put("b")
        run.finish()
        assert (await native.read(stream_id)).text == "b"


async def test_a_half_open_peer_is_noticed(serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that has vanished without a word is let go of, and its answer does not wait for it."""
    monkeypatch.setattr("wsstream.connection.CLOSE_TIMEOUT", 0.1)
    server = await serve(provider=SCRIPTED, heartbeat_interval=0.1, heartbeat_timeout=0.2)
    async with Proxy(server.port) as proxy, connected(proxy) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a")
        await native.read(stream_id, to=1)
        proxy.blackhole()
        async with asyncio.timeout(2):
            await server.registry.wait_empty()
        assert not run.closed.is_set()
        async with connected(server) as again:
            await again.resume(stream_id, 1)
            run.finish()
            await again.read(stream_id)


async def test_an_eager_answer_starves_nobody(spawn: Spawn) -> None:
    """While an unpaced answer runs as fast as a reader takes it, a newcomer gets its first token at once."""
    server = await spawn("--max-stream-chunks", "10000000")
    async with connected(server, window=1000) as greedy:
        stream_id = await greedy.ask("demo:rate=0,tokens=10000000")
        reading = asyncio.create_task(greedy.read(stream_id))
        try:
            await asyncio.sleep(0.1)
            begun_at, before = time.monotonic(), greedy.answer(stream_id).last
            async with connected(server) as newcomer:
                await newcomer.read(await newcomer.ask("demo:rate=1000,tokens=50"), to=1)
                waited, meanwhile = time.monotonic() - begun_at, greedy.answer(stream_id).last - before
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        assert before > 1000
        assert meanwhile > 0
        assert waited < 1.0
