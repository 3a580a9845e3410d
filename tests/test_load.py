"""The load tester: its histogram, its frame parser, its judgement, and whole runs against good and bad servers."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from tests.native import connected
from wsstream import cli
from wsstream.config import Config
from wsstream.errors import ConfigError, ConnectionFailed
from wsstream.load import run as run_module
from wsstream.load.checker import Checker, Garbled, read_stamps
from wsstream.load.frames import BadFrame, client_frame, split_frames
from wsstream.load.histogram import Histogram
from wsstream.load.report import Report, Streams, as_json, as_table
from wsstream.load.run import run_load
from wsstream.load.settings import Settings, allow_files, find_target, read_settings
from wsstream.server import Server


def text(*stamps: int) -> str:
    """The content of tokens with these stamps."""
    return "".join(f"@{stamp:016d} " for stamp in stamps)


# -- the histogram


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_are_within_one_percent(percent: int) -> None:
    """Log buckets stay within a percent of the exact value over six orders of magnitude."""
    values = sorted(int(10 ** random.Random(n).uniform(0, 7)) for n in range(3000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = values[-(-len(values) * percent // 100) - 1]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.count == 3000
    assert histogram.largest == values[-1]


def test_ages_counted_together_are_those_counted_singly() -> None:
    """A batch counted at once fills the same buckets as its tokens one by one."""
    draw = random.Random(1)
    together, singly = Histogram(), Histogram()
    for _ in range(200):
        stamps = sorted(draw.randrange(0, 50_000) for _ in range(draw.randrange(1, 40)))
        together.add_ages(50_000, stamps)
        for stamp in stamps:
            singly.add(50_000 - stamp)
    assert [together.percentile(p) for p in range(1, 100)] == [singly.percentile(p) for p in range(1, 100)]
    assert together.count == singly.count


def test_values_out_of_range_count_at_the_nearer_end() -> None:
    """A clock that ran backwards or a month of latency breaks nothing."""
    histogram = Histogram()
    histogram.add(-5)
    histogram.add(2**60)
    assert histogram.percentile(50) == 0
    assert histogram.percentile(99) > 2**39
    assert Histogram().percentile(99) == 0


# -- frames


def server_frames() -> tuple[bytes, list[tuple[int, bytes]]]:
    """Frames of every form of length, and what is in them."""
    contents = [(Opcode.TEXT, b""), (Opcode.TEXT, b"x" * 125), (Opcode.PING, b"p"), (Opcode.TEXT, b"y" * 126)]
    contents += [(Opcode.TEXT, b"z" * 300), (Opcode.TEXT, b"w" * 65536), (Opcode.CLOSE, b"\x03\xe8")]
    data = b"".join(Frame(opcode, payload).serialize(mask=False) for opcode, payload in contents)
    return data, [(0x80 | opcode, payload) for opcode, payload in contents]


def test_frames_survive_every_split() -> None:
    """Wherever the bytes are cut in two, the same frames come out."""
    data, expected = server_frames()
    cuts = [*range(700), *range(len(data) - 80, len(data) + 1), *range(700, len(data), 997)]
    for cut in cuts:
        first, rest = split_frames(data[:cut])
        second, rest = split_frames(rest + data[cut:])
        assert first + second == expected
        assert rest == b""


def test_frames_survive_single_bytes() -> None:
    """Bytes that drip in one at a time make the same frames."""
    data, expected = server_frames()
    data, expected = data[:700], expected[:5]
    found, rest = [], b""
    for byte in data:
        frames, rest = split_frames(rest + bytes((byte,)))
        found += frames
    assert found == expected


@pytest.mark.parametrize("data", [b"\x81\x85abcdefghi", b"\x81\x7f" + (2**40).to_bytes(8, "big")])
def test_frames_no_server_sends_are_refused(data: bytes) -> None:
    """A masked frame and an enormous one end the connection instead of filling memory."""
    with pytest.raises(BadFrame):
        split_frames(data)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_client_frames_are_read_by_the_library(size: int) -> None:
    """A real parser reads our masked frames back."""
    payload = random.Random(size).randbytes(size)
    data = client_frame(Opcode.TEXT, payload)

    def read_exact(wanted: int) -> Any:
        nonlocal data
        piece, data = data[:wanted], data[wanted:]
        return piece
        yield

    parse = Frame.parse(read_exact, mask=True)
    with pytest.raises(StopIteration) as stop:
        next(parse)
    assert stop.value.value.data == payload


# -- the checker


def run_checker(*chunks: tuple[int, int, str], final: int, expected: int) -> tuple[Checker, str | None]:
    """A checker that has seen these chunks and the end."""
    checker = Checker(expected)
    for first, last, content in chunks:
        checker.take(first, last, content)
    return checker, checker.finish(final)


def test_a_whole_stream_is_fine() -> None:
    """Single chunks and batches in order, complete, are nothing to complain of."""
    checker, wrong = run_checker((1, 1, text(5)), (2, 4, text(5, 6, 7)), (5, 5, text(9)), final=5, expected=5)
    assert wrong is None
    assert (checker.lost, checker.duplicated, checker.reordered, checker.tokens) == (0, 0, 0, 5)


def test_a_gap_is_lost() -> None:
    """Chunks that never come are counted at the end."""
    checker, wrong = run_checker((1, 1, text(1)), (4, 4, text(4)), final=6, expected=6)
    assert wrong == "chunks lost"
    assert checker.lost == 4


def test_a_late_chunk_is_reordered_not_lost() -> None:
    """A chunk that comes after its successor counts as reordered, and its token counts."""
    checker, wrong = run_checker((1, 1, text(1)), (3, 3, text(3)), (2, 2, text(2)), final=3, expected=3)
    assert wrong == "chunks reordered"
    assert (checker.lost, checker.duplicated, checker.reordered, checker.tokens) == (0, 0, 1, 3)


def test_a_repeated_chunk_is_duplicated() -> None:
    """A chunk that comes twice counts once as a token and once as a duplicate."""
    checker, wrong = run_checker((1, 2, text(1, 2)), (2, 3, text(2, 3)), final=3, expected=3)
    assert wrong == "chunks duplicated"
    assert (checker.lost, checker.duplicated, checker.reordered, checker.tokens) == (0, 1, 0, 3)


def test_text_in_the_wrong_order_is_seen_behind_good_ids() -> None:
    """Ids alone do not prove order: a token older than its predecessor is reordered too."""
    assert run_checker((1, 1, text(9)), (2, 2, text(5)), final=2, expected=2)[1] == "chunks reordered"
    assert run_checker((1, 2, text(9, 5)), final=2, expected=2)[1] == "chunks reordered"


def test_a_wrong_end_is_seen() -> None:
    """The final id and the number of tokens must both fit."""
    assert run_checker((1, 2, text(1, 2)), final=1, expected=2)[1] == "final_chunk_id is not the last chunk"
    assert run_checker((1, 2, text(1, 2)), final=2, expected=3)[1] == "wrong number of tokens"


@pytest.mark.parametrize("content", ["", "@", "x" * 18, text(1) + "@", text(1)[:-1], "@00000000000000x1 ", "@" * 36])
def test_other_text_is_garbled(content: str) -> None:
    """Anything but whole tokens is refused."""
    with pytest.raises(Garbled):
        read_stamps(content)


# -- whole runs


def settings(url: str, **changes: Any) -> Settings:
    """A small load on ``url``."""
    given = {"streams": 20, "connections": 20, "rate": 100.0, "seconds": 1.0, "tokens": 100} | changes
    return Settings(url=url, **given)


async def test_a_run_with_drops_and_slow_readers_is_sane() -> None:
    """Against the real server all tokens arrive, through broken connections and stalling clients too."""
    async with Server(Config(store="memory:", port=0, provider="demo")).running() as server:
        report = await run_load(settings(f"ws://127.0.0.1:{server.port}/ws", drop=0.4, slow_readers=0.3))
    assert report.errors == {}
    assert report.exit_status == 0
    assert report.streams.complete == 20
    assert report.tokens == report.tokens_expected == 2000
    assert report.drops > 0
    assert report.resume_ms is not None
    assert report.slow_readers is not None
    assert report.slow_readers.clients == 6
    assert report.slow_readers.tokens == 600
    assert report.ttft_ms is not None
    assert report.ttft_ms.count == 14
    assert report.latency_ms is not None
    assert 0 < report.latency_ms.p50 < 500
    assert report.latency_ms.p50 <= report.latency_ms.p95 <= report.latency_ms.p99 <= report.latency_ms.max
    assert report.server is None
    assert "own process" in report.notes[0]


async def test_unpaced_streams_share_connections() -> None:
    """Streams with a small window, several to a connection and unpaced, come through whole."""
    async with Server(Config(store="memory:", port=0, provider="demo")).running() as server:
        asked = settings(f"ws://127.0.0.1:{server.port}/ws", connections=4, rate=0.0, tokens=500, window=10, drop=1.0)
        report = await run_load(asked)
    assert report.errors == {}
    assert report.exit_status == 0
    assert report.tokens == 10_000


async def test_too_many_streams_for_a_connection_is_said() -> None:
    """The server's own limit is told from its greeting, before anything is started."""
    async with Server(Config(store="memory:", port=0, provider="demo")).running() as server:
        with pytest.raises(ConfigError, match="each would follow 20 streams"):
            await run_load(settings(f"ws://127.0.0.1:{server.port}/ws", connections=1))


async def test_stopping_reports_what_there_is() -> None:
    """A run that is stopped reports its part at once and cancels its streams."""
    async with Server(Config(store="memory:", port=0, provider="demo")).running() as server:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(1.5, stop.set)
        begun = time.monotonic()
        url = f"ws://127.0.0.1:{server.port}/ws"
        report = await run_load(settings(url, seconds=60.0, tokens=6000, streams=5, connections=5), stop)
        assert time.monotonic() - begun < 20  # it was asked to run for sixty seconds
        await asyncio.sleep(0.1)
        assert server.health()["running_streams"] == 0
    assert report.interrupted
    assert report.exit_status == 130
    assert report.streams.unfinished == 5
    assert 0 < report.tokens < 6000


@pytest.mark.parametrize(
    ("limits", "complete", "errors"),
    [
        ({"max_connections": 5}, 5, {"cannot connect: the server answers the handshake with 503": 15}),
        (
            {"max_running_streams": 5, "max_queued": 0},
            5,
            {"error capacity: Server at capacity": 15, "closed by the server with 1013": 15},
        ),
        (
            {"max_running_streams": 5, "max_queued": 5},
            10,
            {"error queue_full: Too many requests are waiting already.": 10, "closed by the server with 1013": 10},
        ),
        ({"starts_per_minute": 0.001, "starts_burst": 5}, 5, {"error rate_limit: Too many requests": 15}),
        ({"max_stream_chunks": 16}, 0, {"stream_error interrupted: The answer is longer than this server allows": 20}),
    ],
    ids=["connections", "capacity", "queue", "quota", "length"],
)
async def test_what_a_limit_refuses_is_reported_by_its_type(
    limits: dict[str, Any], complete: int, errors: dict[str, int]
) -> None:
    """A server that takes part of a load has that part measured; the rest is errors, counted by type, and status 1."""
    async with Server(Config(store="memory:", port=0, provider="demo", metrics_port=0, **limits)).running() as server:
        report = await run_load(settings(f"ws://127.0.0.1:{server.port}/ws", seconds=0.5, tokens=50))
    assert report.streams == Streams(20, complete, 20 - complete, 0)
    assert report.errors == errors
    assert (report.chunks.lost, report.exit_status) == (0, 1)
    assert all(f"error: {error} ({count} times)" in as_table(report) for error, count in errors.items())


async def test_who_waits_in_a_queue_is_counted_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers whose turn does not come are not waited for beyond the grace, and leave no place in the queue taken."""
    monkeypatch.setattr(run_module, "GRACE", run_module.CLOSING + 1.0)
    limits = {"max_running_streams": 1, "max_queued": 100}
    async with Server(Config(store="memory:", port=0, provider="demo", metrics_port=0, **limits)).running() as server:
        asked = settings(f"ws://127.0.0.1:{server.port}/ws", streams=5, connections=5, seconds=0.5, tokens=50)
        report = await run_load(msgspec.structs.replace(asked, rate=10.0))
        await asyncio.sleep(0.1)
        statistics = server.streams.statistics()
        assert (statistics.running, statistics.queued) == (0, 0)
    assert report.errors == {"stream not finished in time": 5}
    assert report.exit_status == 1


async def test_a_server_that_takes_nobody_is_one_line() -> None:
    """Where not even the first connection is let in, there is nothing to measure, and the refusal is told."""
    config = Config(store="memory:", port=0, provider="demo", metrics_port=0, max_connections=1)
    async with Server(config).running() as server, connected(server):
        with pytest.raises(ConnectionFailed, match="handshake with 503"):
            await run_load(settings(f"ws://127.0.0.1:{server.port}/ws"))


async def test_nobody_there_is_a_connection_failure() -> None:
    """Where nothing listens there is nothing to report."""
    with pytest.raises(ConnectionFailed, match="cannot connect"):
        await run_load(settings("ws://127.0.0.1:9/ws"))


Script = Callable[[str], list[dict[str, Any]]]


def chunk(stream_id: str, chunk_id: int) -> dict[str, Any]:
    """A good chunk."""
    content = text(time.monotonic_ns() // 1000)
    return {"type": "content_chunk", "stream_id": stream_id, "chunk_id": chunk_id, "content": content}


def of_chunks(*ids: int, final: int = 3) -> Script:
    """A script that sends the chunks of these ids, then the end."""

    def script(stream_id: str) -> list[dict[str, Any]]:
        end = {"type": "stream_complete", "stream_id": stream_id, "final_chunk_id": final, "finish_reason": "stop"}
        return [*(chunk(stream_id, n) for n in ids), end]

    return script


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """A server that answers every request with what ``script`` says; yields its URL."""

    async def handle(socket: ServerConnection) -> None:
        async def tell(**message: Any) -> None:
            await socket.send(json.dumps(message))

        with contextlib.suppress(ConnectionClosed):
            async for data in socket:
                asked = json.loads(data)
                if asked["type"] == "hello":
                    times = {"heartbeat_interval": 10, "heartbeat_timeout": 25}
                    sizes = {"window": 50, "window_bytes": 65536, "active_streams": []}
                    limits = {"max_message_bytes": 65536, "max_streams": 16}
                    ids = {"connection_id": "c", "session_id": "ses"}
                    await tell(type="connection_established", **ids, **times, **sizes, limits=limits)
                elif asked["type"] == "chat_request":
                    ids = {"request_id": asked["request_id"], "stream_id": "s1", "session_id": "ses", "epoch": "e"}
                    await tell(type="stream_start", **ids, model=None, window=50, timestamp=0.0)
                    for message in script("s1"):
                        await tell(**message)

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("wsstream.v1")], compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def load_scripted(script: Script) -> Report:
    """The report of one stream of three tokens from a scripted server."""
    async with scripted(script) as url:
        return await run_load(settings(url, streams=1, connections=1, rate=0.0, tokens=3))


async def test_a_good_script_is_fine() -> None:
    """The scripted server itself can tell the truth, so what follows is about its lies."""
    report = await load_scripted(of_chunks(1, 2, 3))
    assert report.errors == {}
    assert report.exit_status == 0


@pytest.mark.parametrize(
    ("ids", "lost", "duplicated", "reordered"),
    [((1, 3), 1, 0, 0), ((1, 2), 1, 0, 0), ((1, 2, 2, 3), 0, 1, 0), ((1, 3, 2), 0, 0, 1)],
)
async def test_a_bad_server_is_found_out(ids: tuple[int, ...], lost: int, duplicated: int, reordered: int) -> None:
    """Lost, duplicated and reordered chunks are counted as such and make the exit status 1."""
    report = await load_scripted(of_chunks(*ids))
    assert (report.chunks.lost, report.chunks.duplicated, report.chunks.reordered) == (lost, duplicated, reordered)
    assert report.exit_status == 1
    assert report.streams.failed == 1
    assert "something went wrong" in as_table(report)


async def test_a_stream_error_is_counted_by_its_type() -> None:
    """A stream that the server fails makes the exit status 1 and is named in the report."""
    failed = {"error_type": "chunk_timeout", "message": "No.", "recoverable": True, "last_chunk_id": 1}
    report = await load_scripted(lambda s: [chunk(s, 1), {"type": "stream_error", "stream_id": s, **failed}])
    assert report.errors == {"stream_error chunk_timeout: No.": 1}
    assert report.exit_status == 1


async def test_messages_nobody_asked_for_do_not_stop_the_run() -> None:
    """Unknown types are left alone, broken messages and strange streams are errors, and the answer still counts."""
    odd = [{"type": "confetti"}, {"type": "content_chunk"}, chunk("stranger", 1)]
    report = await load_scripted(lambda s: [*odd, *of_chunks(1, 2, 3)(s)])
    assert report.streams.complete == 1
    assert report.errors == {"unreadable message": 1, "ContentChunk of an unknown stream": 1}


async def test_json_holds_every_documented_key() -> None:
    """The JSON object has the fields of `Report` as its keys, and the table shows the main ones."""
    report = await load_scripted(of_chunks(1, 2, 3))
    assert list(json.loads(as_json(report))) == list(Report.__struct_fields__)
    assert "1 complete, 0 failed" in as_table(report)
    assert "all is well" in as_table(report)


# -- the command


def parse(*arguments: str) -> argparse.Namespace:
    """The arguments of ``bench``."""
    return cli.make_parser().parse_args(["bench", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streams", "0"], "--streams"),
        (["--slow-readers", "2"], "--slow-readers"),
        (["--rate", "nan"], "--rate"),
        (["--tokens", "5"], "--tokens goes with --rate 0"),
        (["--url", "ftp://127.0.0.1"], "is not a WebSocket URL"),
        (["--url", "ws://192.0.2.1/ws"], "--i-own-this-server"),
        (["--json", "/no/such/place.json"], "--json"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is used wrongly is said in one line, and nothing is loaded."""
    try:
        status: Any = cli.main(["bench", *arguments])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert status == 2
    assert output.out == ""
    assert message in output.err
    assert output.err.count("\n") == 1


def test_the_limit_of_open_files_is_raised_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit moves as far as needed; a hard limit that is too low is an error that says what to do."""
    resource = pytest.importorskip("resource")
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: moved.append(limits))
    allow_files(100)
    assert moved == []
    allow_files(900)
    assert moved == [(964, 1024)]
    with pytest.raises(ConfigError, match="2000 connections need 2064 open files"):
        allow_files(2000)


def test_a_foreign_host_may_be_vouched_for() -> None:
    """Only --i-own-this-server lets a load leave this machine."""
    target = find_target(settings("ws://192.0.2.1/ws", owned=True))
    assert not target.loopback
    assert find_target(settings("ws://localhost:1/ws")).loopback


def test_the_arguments_have_the_documented_defaults() -> None:
    """Bare ``bench`` is a modest load on the local server."""
    parsed = parse()
    assert (parsed.url, parsed.streams, parsed.rate) == ("ws://127.0.0.1:8765/ws", 100, 50.0)
    assert not parsed.i_own_this_server
    assert parse("--json").json == "-"


def test_the_token_of_the_environment_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks who one is can be loaded: WSSTREAM_TOKEN is what every connection shows."""
    parsed = cli.make_parser().parse_args(["bench"])
    monkeypatch.setenv("WSSTREAM_TOKEN", "secret")
    assert read_settings(parsed).token == "secret"
    monkeypatch.delenv("WSSTREAM_TOKEN")
    assert read_settings(parsed).token is None
