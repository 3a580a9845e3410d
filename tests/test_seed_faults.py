"""Mistakes that streaming code is known to make, one test each, named after what it prevents.

Two of the usual ones have no test here because no server code could make them: a Markdown switch that is always on,
and incremental JSON that knows flat objects only. Both belong to what renders an answer (see clients/js/test).
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import Answer, Native, connected, fetch
from tests.pair import Pair
from wsstream import messages as m
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta
from wsstream.client import connect
from wsstream.client_protocol import Dead, Gap
from wsstream.config import Config
from wsstream.errors import FINAL_CLOSE_CODES, Interrupted
from wsstream.flow import AckPacer, Pace, SendWindow
from wsstream.protocol import ServerSettings
from wsstream.server import Server
from wsstream.stores.memory import MemoryStore

HOUR = 3600.0


async def begin(native: Native, **fields: Any) -> str:
    """Ask the scripted provider, and wait until it has been asked."""
    stream_id = await native.ask(**fields)
    await native.round_trip()
    return stream_id


async def soon(event: asyncio.Event) -> None:
    """Wait for something that must happen by itself."""
    async with asyncio.timeout(2):
        await event.wait()


# -- acks and windows


def test_a_paced_client_is_not_throttled_to_one_chunk_per_ack() -> None:
    """An ack frees everything up to its id: a client that acknowledges seldom reads a thousand chunks in 40 acks."""
    window, pacer = SendWindow(50, 10**9), AckPacer(Pace(delay=0.1, chunks=25))
    totals = range(1001)
    acks, now = 0, 0.0
    while window.acked < 1000:
        first, window.sent = window.sent + 1, window.grant(1000, totals)
        for chunk_id in range(first, window.sent + 1):
            due = pacer.on_processed(chunk_id, now)
            if due is not None:
                acks += 1
                window.on_ack(due)
    assert (acks, now) == (40, 0.0)


async def test_a_client_that_acknowledges_every_50_ms_reads_faster_than_ten_chunks_a_second(serve: Serve) -> None:
    """Twenty acks a second carry twenty windows a second, not twenty chunks."""
    server = await serve(window=50)
    async with connected(server) as native, asyncio.timeout(2):
        stream_id = await native.ask("demo:rate=0,tokens=300")
        while native.answer(stream_id).end is None:
            await native.quiet(0.05)
            await native.ack(stream_id)
    assert native.answer(stream_id).last == 300


def test_a_timeout_never_widens_a_window() -> None:
    """An hour without an ack changes nothing: no forced progress, no forgotten chunks, still the same window."""
    pair = Pair(ServerSettings(window=5))
    pair.connect()
    pair.settle()
    view = pair.ask()
    log = pair.log_of(view)
    log.append(*"abcdefghij")
    pair.settle(take=False)
    window = pair._windows[log.stream_id]
    assert (window.sent, window.acked, window.limit) == (5, 0, 5)
    for _ in range(60):
        pair.now += HOUR / 60
        assert pair.server is not None
        pair.server.receive_life(pair.now)
        pair.server.handle_timer(pair.now)
        pair.settle(take=False)
    assert pair.server.close is None
    assert (window.sent, window.acked, window.limit) == (5, 0, 5)
    pair.settle()
    assert pair.text[log.stream_id] == "abcdefghij"


async def test_a_full_client_queue_drops_no_text(serve: Serve) -> None:
    """What a consumer has not taken is not acknowledged: the server waits, and every token is there in the end."""
    server = await serve(window=20)
    async with connect(f"ws://127.0.0.1:{server.port}/ws") as client:
        stream = await client.chat("hi", model="demo:rate=0,tokens=300")
        await anext(aiter(stream))
        await asyncio.sleep(0.1)
        (live,) = (s.log for s in server.streams.of_session(client.session_id or ""))
        (attachment,) = live.attachments
        assert attachment.window.sent <= attachment.window.acked + 20 < 300
        async for _ in stream:
            pass
        assert stream.text == "".join(chunk.content for chunk in live.chunks(1, 300))


@pytest.mark.parametrize("seed", range(5))
async def test_no_wake_up_is_lost_where_acks_and_tokens_meet(serve: Serve, scripted: Scripted, seed: int) -> None:
    """Room and work are woken separately: an ack and a token in the same turn each have their effect."""
    server = await serve(provider=SCRIPTED, window=1 + seed, high_water=4, low_water=2)
    async with connected(server) as native:
        stream_id = await begin(native)
        run = scripted.last
        for number in range(100):
            run.put(f"{number},")
            if number % (seed + 2) == 0:
                await native.read(stream_id, to=native.answer(stream_id).last + 1)
        run.finish()
        assert (await native.read(stream_id)).text == "".join(f"{number}," for number in range(100))


async def test_a_producer_and_a_viewer_never_wait_for_each_other() -> None:
    """The producer waits for room and the viewer for chunks; one ack must be enough to set both going."""
    log = ChunkLog("s", "e", MemoryStore(), high=4, low=2)
    woken: list[int] = []
    attachment = log.attach(SendWindow(2, 10**9), lambda a: woken.append(a.window.acked))
    log.append([Delta("x")] * 4)
    assert attachment.take(10**6) == (1, 2)
    assert not log.has_room()
    waiting = asyncio.ensure_future(log.wait_room())
    await asyncio.sleep(0)
    woken.clear()
    attachment.window.on_ack(2)
    attachment.on_acked()
    await waiting
    assert woken == [2]
    assert attachment.take(10**6) == (3, 4)


# -- chunk ids


async def test_the_first_chunk_is_no_gap(serve: Serve, scripted: Scripted) -> None:
    """Ids begin at 1, 0 means nothing yet, and the final id is the last chunk's: nothing is off by one."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put("only")
        await native.read(stream_id, to=1, ack=False)
        assert native.seen[-1]["chunk_id"] == 1
        await native.resume(stream_id, 0)
        scripted.last.finish()
        answer = await native.read(stream_id)
        assert answer.text == "only"
        assert answer.end is not None
        assert answer.end["final_chunk_id"] == 1
    pair = Pair()
    pair.connect()
    pair.settle()
    log = pair.log_of(pair.ask())
    log.append("only")
    log.finish()
    pair.settle()
    assert not [event for event in pair.take_events() if isinstance(event, Gap)]


async def test_an_answer_without_tokens_ends_at_chunk_nought(serve: Serve, scripted: Scripted) -> None:
    """Zero is an id like others: it is not taken for a missing one."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.finish()
        assert (await native.read(stream_id)).last == 0
        assert native.seen[-1]["final_chunk_id"] == 0
        assert (await native.resume(stream_id, 0))["tail_chunk_id"] == 0
        assert (await native.read(stream_id)).end is not None


async def test_chunk_ids_count_per_stream_not_per_connection(serve: Serve) -> None:
    """The second answer on a connection begins at 1 again."""
    server = await serve()
    async with connected(server) as native:
        for _ in range(3):
            answer = await native.read(await native.ask("demo:rate=0,tokens=70"))
            assert answer.last == 70


async def test_positions_mean_the_same_in_every_language(serve: Serve, scripted: Scripted) -> None:
    """A position is a chunk id, never a count of characters, which JavaScript and Python count differently."""
    texts = ["👩‍👩‍👧‍👦", "é", "日本", "🙂" * 3, "a", "\u200d", "e\u0301"]
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put(*texts)
        scripted.last.finish()
        await native.read(stream_id)
        for position in range(len(texts) + 1):
            await native.resume(stream_id, position)
            assert (await native.read(stream_id)).text == "".join(texts[position:])


# -- who waits for whom


async def test_acks_and_cancels_are_read_while_an_answer_runs(serve: Serve, scripted: Scripted) -> None:
    """No message waits until a generation is over."""
    server = await serve(provider=SCRIPTED, window=1)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put("a", "b")
        await native.read(stream_id, to=2)
        await native.send("list_streams")
        await native.until("stream_list")
        await native.send("cancel_stream", stream_id=stream_id)
        assert (await native.read(stream_id)).end is not None
        assert scripted.last.closed.is_set()


async def test_a_dead_viewer_does_not_leave_its_provider_running(serve: Serve, scripted: Scripted) -> None:
    """A provider that waits for a viewer's room when the viewer dies is stopped, not left waiting for ever."""
    server = await serve(provider=SCRIPTED, window=2, high_water=4, low_water=2, orphan_grace=0.05)
    async with connected(server) as native:
        await begin(native)
        run = scripted.last
        run.put(*"abcdef")
        assert not run.sink.has_room()
        waiting = asyncio.create_task(run.sink.wait_room())
        native.drop()
        async with asyncio.timeout(2):
            await waiting
    await soon(run.closed)


async def test_a_vanished_viewer_is_noticed_without_a_next_chunk(serve: Serve, scripted: Scripted) -> None:
    """Not a single token has to arrive for a lost viewer to be seen and its upstream to be closed."""
    server = await serve(provider=SCRIPTED, orphan_grace=0.05)
    async with connected(server) as native:
        await begin(native)
        native.drop()
    await soon(scripted.last.closed)


async def test_the_first_token_is_not_held_for_company(serve: Serve, scripted: Scripted) -> None:
    """One token alone, far below any buffer's size, reaches the viewer while nothing follows it."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put("I")
        async with asyncio.timeout(1):
            assert (await native.read(stream_id, to=1)).text == "I"


async def test_the_end_comes_though_nothing_is_waiting_to_be_sent(serve: Serve, scripted: Scripted) -> None:
    """An end behind an empty queue is told, and whoever serves the answer lets go of it."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put("a")
        await native.read(stream_id, to=1)
        await native.round_trip()
        scripted.last.finish()
        assert (await native.read(stream_id)).end is not None
        assert server.streams.statistics().running == 0
        assert server.streams.get(stream_id).log.attachments == []


@pytest.mark.parametrize("text", ["第一行", "\n", "x" * 200, "foo(bar)", "…"])
async def test_text_without_spaces_does_not_wait_for_one(serve: Serve, scripted: Scripted, text: str) -> None:
    """Line breaks, Chinese and code leave as they come."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native)
        scripted.last.put(text)
        assert (await native.read(stream_id, to=1)).text == text


# -- failures


async def test_a_failure_does_not_start_the_answer_over(serve: Serve, scripted: Scripted) -> None:
    """No text is sent twice: a broken answer ends as such, and asking again with the same id replays it as it is."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await begin(native, request_id="r")
        scripted.last.put("Once upon ")
        scripted.last.fail(Interrupted())
        assert (await native.read(stream_id)).text == "Once upon "
        native.answers[stream_id] = Answer(stream_id)
        assert await native.ask(request_id="r") == stream_id
        again = await native.read(stream_id)
        assert again.text == "Once upon "
        assert again.end is not None
        assert again.end["type"] == "stream_error"
    assert len(scripted.runs) == 1


@pytest.mark.parametrize(("texts", "error_type"), [((), "provider_timeout"), (("a",), "chunk_timeout")])
async def test_a_silent_provider_is_noticed_without_a_next_chunk(
    serve: Serve, scripted: Scripted, texts: tuple[str, ...], error_type: str
) -> None:
    """Time-outs fire by themselves, before the first token and between tokens, and close the upstream."""
    server = await serve(provider=SCRIPTED, first_token_timeout=0.1, chunk_timeout=0.1, retries=0)
    async with connected(server) as native:
        stream_id = await begin(native)
        if texts:
            scripted.last.put(*texts)
        answer = await native.read(stream_id)
    assert answer.text == "".join(texts)
    assert answer.end is not None
    assert answer.end["error_type"] == error_type
    assert scripted.last.closed.is_set()


async def test_a_time_out_covers_the_iteration_not_only_its_beginning(serve: Serve) -> None:
    """A generator that was opened well and then hangs is closed like one that never began."""
    stalling.closed.clear()
    server = await serve(provider=f"{__name__}:stalling_provider", chunk_timeout=0.1)
    async with connected(server) as native:
        answer = await native.read(await native.ask())
    assert answer.end is not None
    assert (answer.text, answer.end["error_type"]) == ("begun ", "chunk_timeout")
    assert stalling.closed.is_set()


class _Stalling:
    closed = threading.Event()


stalling = _Stalling()


async def stalling_provider(_: object) -> Any:
    """Yields once, and then nothing any more."""
    try:
        yield "begun "
        await asyncio.sleep(60)
    finally:
        stalling.closed.set()


def test_time_outs_work_outside_the_main_thread() -> None:
    """Nothing rests on signals: a server in any thread notices a provider that hangs."""

    async def serve_and_ask() -> Answer:
        config = Config(
            port=0, provider=f"{__name__}:stalling_provider", store="memory:", chunk_timeout=0.1, listeners=1
        )
        async with Server(config).running() as server, connected(server) as native:
            return await native.read(await native.ask())

    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(serve_and_ask())))
    thread.start()
    thread.join(10)
    (answer,) = answers
    assert answer.end is not None
    assert answer.end["error_type"] == "chunk_timeout"


# -- connections


def test_both_ends_notice_a_half_open_connection() -> None:
    """When nothing arrives any more, in either direction, each end finds out by itself."""
    pair = Pair()
    server = pair.connect()
    pair.settle()
    pair.ask()
    pair.pass_time(60)
    assert server.close is None
    pair.take_events()
    silence = pair.now
    for _ in range(100):  # both ends go on, and nothing that they say is delivered
        pair.now += 1.0
        server.handle_timer(pair.now)
        if not any(isinstance(event, Dead) for event in pair.events):
            pair.client.handle_timer(pair.now)
            pair.events += pair.client.events_received()
    assert server.close is not None
    assert server.close.code == 3008
    assert any(isinstance(event, Dead) for event in pair.events)
    assert pair.now - silence <= 100


EVERY_MESSAGE: dict[str, dict[str, Any]] = {
    "hello": {},
    "chat_request": {"request_id": "again", "message": "hi"},
    "chunk_ack": {"stream_id": "S", "chunk_id": 1},
    "request_chunks": {"stream_id": "S", "from_chunk_id": 1, "to_chunk_id": 1},
    "resume_stream": {"stream_id": "S", "last_chunk_id": 0},
    "cancel_stream": {"stream_id": "S"},
    "list_streams": {},
    "get_history": {},
    "rename_session": {"title": "x"},
    "renew_token": {"token": "t"},
    "delete_session": {"session_id": "another"},
    "heartbeat": {"timestamp": 1},
    "heartbeat_ack": {"timestamp": 1},
}


def test_every_message_has_a_line_in_the_table_above() -> None:
    """A new message cannot be forgotten by the next test."""
    assert EVERY_MESSAGE.keys() == {t.__struct_config__.tag for t in m.ClientMessage.__args__}


@pytest.mark.parametrize("type", [type for type in EVERY_MESSAGE if type != "hello"])
async def test_nothing_is_promised_without_an_implementation(serve: Serve, scripted: Scripted, type: str) -> None:
    """Every message that the specification lists does something: none is unknown or refused where it fits."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine") as native:
        stream_id = await begin(native, request_id="again")
        scripted.last.put("a")
        await native.read(stream_id, to=1)
        native.answers[stream_id] = Answer(stream_id, 0 if "chunks" in type or "resume" in type else 1)
        fields = {name: stream_id if value == "S" else value for name, value in EVERY_MESSAGE[type].items()}
        await native.send(type, **fields)
        await native.round_trip()
        assert "error" not in native.types()
        assert len(scripted.runs) == 1


async def test_connections_that_are_gone_are_forgotten(serve: Serve) -> None:
    """There is somebody who cleans up: a registry without a cleaner would only grow."""
    server = await serve()
    for _ in range(20):
        async with connected(server) as native:
            connection_id = native.seen[0]["connection_id"]
            assert server.registry.get(connection_id) is not None
            native.drop()
    async with asyncio.timeout(2):
        await server.registry.wait_empty()
    assert server.registry.get(connection_id) is None
    assert server.registry.statistics().total == 20


async def test_relief_does_not_look_like_success(serve: Serve, scripted: Scripted) -> None:
    """A server that sheds, drains or gives up on a client never says 1000, and always invites it back."""
    codes = []
    server = await serve(provider=SCRIPTED, max_running_streams=1, heartbeat_interval=0.1, heartbeat_timeout=0.2)
    async with connected(server) as busy, connected(server) as shed, connected(server) as silent:
        await begin(busy)
        await shed.send("chat_request", request_id="r", message="hi")
        codes.append((await shed.closed())[0])
        codes.append((await silent.closed())[0])
    async with connected(server) as drained:
        scripted.last.finish()
        draining = asyncio.create_task(server.drain())
        codes.append((await drained.closed())[0])
        await draining
    assert codes == [1013, 3008, 1012]
    assert FINAL_CLOSE_CODES.isdisjoint(codes)


# -- strangers


async def test_other_origins_may_read_nothing(serve: Serve) -> None:
    """No answer carries an Access-Control-Allow-Origin, least of all a star."""
    server = await serve()
    for method, path in (("GET", "/"), ("GET", "/healthz"), ("OPTIONS", "/"), ("GET", "/ws")):
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n"
        assert b"access-control" not in (await fetch(server, request.encode())).lower()


async def test_a_claimed_user_id_grants_nothing(serve: Serve, scripted: Scripted) -> None:
    """Who says that they are somebody else still sees nothing of theirs."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, user_id="alice") as alice, connected(server, greet=False) as mallory:
        await begin(alice)
        assert (await mallory.hello(user_id="alice"))["active_streams"] == []
        await mallory.send("list_streams")
        assert (await mallory.until("stream_list"))["streams"] == []
        await mallory.send("resume_stream", last_chunk_id=0)
        assert (await mallory.until("error"))["error_type"] == "bad_request"


async def test_ids_cannot_be_guessed(serve: Serve) -> None:
    """What a stream or session is called says nothing about the next one: each has 128 random bits."""
    server = await serve()
    names: set[str] = set()
    for _ in range(3):
        async with connected(server) as native:
            names |= {native.seen[0]["session_id"], native.seen[0]["connection_id"], await native.ask("demo:tokens=0")}
    assert len(names) == 9
    assert all(len(name.partition("_")[2]) >= 22 for name in names)
    assert len({name[6:] for name in names}) == len({name[:-6] for name in names}) == 9
