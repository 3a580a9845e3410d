"""The socket of the native wire: frames in, frames out, and peers that do not behave."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import Any

import pytest
from websockets.http11 import Request

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import PATIENCE, UPGRADE, Native, connected, frame
from wsstream import connection
from wsstream.connection import NativeConnection
from wsstream.server import Server
from wsstream.wires.native import Dialogue
from wsstream.wires.outlet import WRITE_SLICE, Outlet

CONT, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
HEARTBEAT = b'{"type":"heartbeat","timestamp":1}'


def of(server: Server) -> Any:
    """The server's end of the only connection."""
    (member,) = server.registry
    assert isinstance(member, NativeConnection)
    return member


async def gone(server: Server) -> None:
    """Wait until the server has let go of everybody."""
    async with asyncio.timeout(PATIENCE):
        await server.registry.wait_empty()


def stop_reading(native: Native) -> None:
    """Leave everything in the kernel from now on."""
    native.socket.transport.pause_reading()


# -- frames in


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"{}"), 1003),
        (frame(TEXT, b'{"type":"hello","client":"\xff"}'), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"x" * 1001), 1009),
        (frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 401), 1009),
        (b"\x81\xff\x7f" + b"\xff" * 7 + b"mask", 1009),
        (frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 64, 1009),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (b"\x81\x02{}", 1002),
        (b"\xc1" + frame(TEXT, b"{}")[1:], 1002),
        (b"\x83" + frame(TEXT, b"{}")[1:], 1002),
        (b"\x09" + frame(PING, b"")[1:], 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
    ids=[
        "binary",
        "not UTF-8",
        "surrogate in UTF-8",
        "too large",
        "too large together",
        "claims to be huge",
        "too many fragments",
        "continues nothing",
        "interrupts a message",
        "unmasked",
        "reserved bit",
        "reserved opcode",
        "fragmented ping",
        "close of one byte",
        "close with a forbidden code",
        "close with a broken reason",
    ],
)
async def test_a_broken_frame_closes(serve: Serve, caplog: pytest.LogCaptureFixture, data: bytes, code: int) -> None:
    """Each breach of RFC 6455, and each of our own limits, has its close code, and fills no log."""
    server = await serve(max_message_bytes=1000)
    async with connected(server) as native:
        caplog.clear()
        native.send_bytes(data)
        assert (await native.closed())[0] == code
        await gone(server)
    assert caplog.records == []


async def test_the_largest_message_is_read(serve: Serve) -> None:
    """The limit is the last size that is allowed."""
    server = await serve(max_message_bytes=1000)
    async with connected(server) as native:
        await native.send_text(HEARTBEAT.ljust(1000))
        assert (await native.until("heartbeat_ack"))["timestamp"] == 1


async def test_a_fragmented_message_is_one_message(serve: Serve) -> None:
    """Fragments, empty ones too, are joined; pings may come between them."""
    server = await serve()
    async with connected(server) as native:
        native.send_frame(TEXT, HEARTBEAT[:9], fin=False)
        native.send_frame(PING, b"")
        native.send_frame(CONT, b"", fin=False)
        native.send_frame(CONT, HEARTBEAT[9:])
        assert (await native.until("heartbeat_ack"))["timestamp"] == 1
        native.send_bytes(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 62 + frame(CONT, HEARTBEAT))
        assert (await native.until("heartbeat_ack"))["timestamp"] == 1


async def test_a_character_may_be_cut_by_a_fragment(serve: Serve) -> None:
    """UTF-8 is checked when the message is whole."""
    server = await serve()
    data = json.dumps({"type": "heartbeat", "timestamp": "…"}, ensure_ascii=False).encode()
    middle = data.index("…".encode()) + 1
    async with connected(server) as native:
        native.send_frame(TEXT, data[:middle], fin=False)
        native.send_frame(CONT, data[middle:])
        assert (await native.until("heartbeat_ack"))["timestamp"] == "…"


async def test_nothing_of_the_handshake_is_kept(serve: Serve) -> None:
    """The headers of the upgrade are forgotten with it: they take more memory than all the rest, and may be secret."""
    server = await serve()
    async with connected(server):
        parser = of(server)._websocket.parser
        (request,) = [value for value in parser.gi_frame.f_locals.values() if isinstance(value, Request)]
        assert not request.headers


async def test_a_ping_gets_its_pong(serve: Serve) -> None:
    """Pings are answered with their own data, before the hello too."""
    server = await serve()
    async with connected(server, greet=False) as native, asyncio.timeout(PATIENCE):
        await (await native.socket.ping(b"before"))
        await native.hello()
        await (await native.socket.ping(b"after"))


async def test_messages_may_come_in_any_pieces(serve: Serve) -> None:
    """Many messages in one segment, or one message byte by byte."""
    server = await serve()
    async with connected(server) as native:
        native.send_bytes(b"".join(frame(TEXT, HEARTBEAT) for _ in range(100)))
        for _ in range(100):
            await native.until("heartbeat_ack")
        for byte in frame(TEXT, HEARTBEAT):
            native.send_bytes(bytes((byte,)))
            await asyncio.sleep(0)
        await native.until("heartbeat_ack")


async def test_what_follows_a_breach_is_not_read(serve: Serve, scripted: Scripted) -> None:
    """Behind the message that closes a connection nothing counts, though it came in the same segment."""
    server = await serve(provider=SCRIPTED)
    ask = frame(TEXT, b'{"type":"chat_request","request_id":"r","message":"hi"}')
    async with connected(server) as native:
        native.send_bytes(frame(BINARY, b"") + ask)
        assert (await native.closed())[0] == 1003
    assert scripted.runs == []


async def test_no_compression_is_agreed_on(serve: Serve) -> None:
    """Frames are the same bytes for everybody, which compression would end."""
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    writer.close()
    assert head.startswith(b"http/1.1 101 ")
    assert b"sec-websocket-protocol: wsstream.v1" in head
    assert b"sec-websocket-extensions" not in head


# -- frames out


async def test_what_comes_in_one_turn_is_gathered(serve: Serve, scripted: Scripted) -> None:
    """However many puts a turn of the loop sees, the first chunk leaves at once and the others in one batch."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        await asyncio.sleep(0.002)
        for _ in range(40):
            scripted.last.put("x")
        assert (await native.read(stream_id, to=40)).sizes == [1, 39]


async def test_control_messages_go_ahead_of_chunks(serve: Serve, scripted: Scripted) -> None:
    """An answer to the client does not wait behind the chunks that the same segment has set free."""
    server = await serve(provider=SCRIPTED, window=5)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put(*"abcdefghij")
        await native.read(stream_id, to=5, ack=False)
        ack = json.dumps({"type": "chunk_ack", "stream_id": stream_id, "chunk_id": 5}).encode()
        native.send_bytes(frame(TEXT, ack) + frame(TEXT, HEARTBEAT))
        await native.read(stream_id, to=10, ack=False)
        assert native.types()[-2:] == ["heartbeat_ack", "chunk_batch"]


async def test_a_full_window_stops_no_control_message(serve: Serve) -> None:
    """A client with a window full of chunks is answered all the same."""
    server = await serve(window=5)
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=0,tokens=100")
        await native.read(stream_id, to=5, ack=False)
        await native.round_trip()
        await native.send("cancel_stream", stream_id=stream_id)
        await native.send("list_streams")
        await native.until("stream_list")


async def test_large_chunks_are_sent_as_they_are(serve: Serve, scripted: Scripted) -> None:
    """Frames of every length class reach the client whole."""
    server = await serve(provider=SCRIPTED, window_bytes=1024 * 1024)
    sizes = [1, 20, 125, 126, 200, 16_000]
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        for size in sizes:
            scripted.last.put("é" * size)
        await native.read(stream_id, to=len(sizes))
        scripted.last.put("x" * 100_000)
        scripted.last.finish()
        answer = await native.read(stream_id)
    assert answer.text == "é" * sum(sizes) + "x" * 100_000
    assert answer.last == len(sizes) + 7, "what no window could hold is cut"


async def test_what_a_client_does_not_read_stays_in_the_log(serve: Serve, scripted: Scripted) -> None:
    """However wide its window, a client that does not read costs the server one write's worth of memory."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, window=1000, window_bytes=1024 * 1024) as native:
        stream_id = await native.ask()
        await native.round_trip()
        stop_reading(native)
        for _ in range(900):
            scripted.last.put("x" * 1024)
        await asyncio.sleep(0.1)
        held = of(server)._transport.get_write_buffer_size()
        assert held <= connection.WRITE_HIGH + WRITE_SLICE + 4096
        native.socket.transport.resume_reading()
        scripted.last.finish()
        assert (await native.read(stream_id)).last == 900


async def test_the_kernel_holds_little_for_a_client(serve: Serve) -> None:
    """The socket's own buffers are bounded, so that they are not where a slow client's chunks pile up."""
    server = await serve()
    async with connected(server):
        sock = of(server)._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * connection.SEND_BUFFER
        assert sock.getsockopt(socket.IPPROTO_TCP, connection.TCP_NOTSENT_LOWAT) == connection.NOTSENT_LOWAT


async def test_streams_that_share_a_socket_find_short_queues(serve: Serve, scripted: Scripted) -> None:
    """With a second stream, what waits below the logs is kept small; when one is left, it is as before."""

    def queues() -> tuple[int, int]:
        transport = of(server)._transport
        sock = transport.get_extra_info("socket")
        lowat = sock.getsockopt(socket.IPPROTO_TCP, connection.TCP_NOTSENT_LOWAT)
        return lowat, transport.get_write_buffer_limits()[1]

    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        await native.ask()
        assert queues() == (connection.NOTSENT_LOWAT, connection.WRITE_HIGH)
        second = await native.ask()
        assert queues() == (connection.SHORT_LOWAT, 1)
        scripted.last.finish()
        await native.read(second)
        assert queues() == (connection.NOTSENT_LOWAT, connection.WRITE_HIGH)


async def test_small_messages_are_not_held_back(serve: Serve) -> None:
    """Nagle's algorithm, which would wait 40 ms for company, is off on every event loop."""
    server = await serve()
    async with connected(server):
        sock = of(server)._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


# -- peers that do not behave


@pytest.mark.parametrize("data", [frame(TEXT, HEARTBEAT), frame(PING, b"x" * 125)], ids=["heartbeats", "pings"])
async def test_who_provokes_answers_and_reads_none_is_cut_off(serve: Serve, data: bytes) -> None:
    """A flood of questions from a client that reads no answer ends in a reset, not in the server's memory."""
    server = await serve()
    async with connected(server) as native:
        end = of(server)
        stop_reading(native)
        flood = data * 2000
        most = 0
        for _ in range(100):
            if len(server.registry) == 0:
                break
            native.send_bytes(flood)
            await asyncio.sleep(0.002)
            most = max(most, end._transport.get_write_buffer_size())
        await gone(server)
        assert most < 1024 * 1024


async def test_many_questions_with_large_answers_are_too_many(serve: Serve) -> None:
    """Thousands of lists asked for in one segment end in close 1008, not in the server's memory."""
    server = await serve(message_rate=0)
    async with connected(server, session_id="mine") as native:
        for number in range(100):
            await native.read(await native.ask("demo:tokens=0", request_id=f"r{number}"))
        end = of(server)
        native.send_bytes(frame(TEXT, b'{"type":"list_streams"}') * 5000)
        assert await native.closed() == (1008, "too many questions at once")
        assert end.statistics().bytes_sent < 2 * server.config.max_list_bytes


async def test_a_large_answer_cuts_nobody_off(serve: Serve) -> None:
    """Who reads may get an answer that is larger than what is held for those who do not."""
    server = await serve()
    async with connected(server, session_id="mine") as native:
        for number in range(400):
            await native.send("chat_request", request_id=f"r{number}", message="hi", model="demo:tokens=0")
            await native.until("stream_complete")
        for _ in range(5):
            await native.send("list_streams")
        for _ in range(5):
            assert len((await native.until("stream_list"))["streams"]) == 400


@pytest.mark.parametrize("how", ["close frame", "half-close", "our close"])
async def test_who_ends_without_reading_is_let_go(
    serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A client whose last bytes cannot be delivered holds no connection and no viewer's place."""
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    server = await serve(provider=SCRIPTED)
    async with connected(server, window=1000, window_bytes=1024 * 1024) as native:
        stream_id = await native.ask()
        await native.round_trip()
        stop_reading(native)
        for _ in range(900):
            scripted.last.put("x" * 1024)
        await asyncio.sleep(0.05)
        assert of(server)._transport.get_write_buffer_size() > 0
        if how == "close frame":
            native.send_frame(CLOSE, struct.pack("!H", 1000))
        elif how == "half-close":
            native.socket.transport.write_eof()
        else:
            native.send_frame(BINARY, b"")
        await gone(server)
        assert server.streams.get(stream_id).log.attachments == []


async def test_a_client_s_close_is_answered(serve: Serve, scripted: Scripted) -> None:
    """Its own code comes back, nothing follows, and its place among the viewers is free."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        await native.socket.close(1000, "bye")
        scripted.last.put("x")
        await gone(server)
        assert native.socket.close_code == 1000
        assert server.streams.get(stream_id).log.attachments == []


async def test_a_reset_is_noticed(serve: Serve, scripted: Scripted) -> None:
    """A connection that breaks is gone at once, and leaves no viewer behind."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        native.drop()
        await gone(server)
        assert server.streams.get(stream_id).log.attachments == []


# -- our own mistakes


async def test_a_mistake_of_ours_ends_one_connection(
    serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed with 1011, with one line in the log; another connection does not notice."""
    server = await serve(provider=SCRIPTED)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.streams, "of_session", broken)
    async with connected(server, greet=False) as native:
        await native.send("hello")
        assert await native.closed() == (1011, "internal error")
    monkeypatch.undo()
    async with connected(server) as native:
        await native.round_trip()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_mistake_while_writing_ends_one_connection(
    serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two viewers of one answer, the one whose frames cannot be made is closed, and the other reads on."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native, connected(server) as other:
        stream_id = await native.ask()
        await other.resume(stream_id, 0)
        first = next(iter(server.registry))
        assert isinstance(first, NativeConnection)
        assert isinstance(first._dialogue, Dialogue)

        def broken(*_: object) -> bytes:
            raise ZeroDivisionError

        broken_one = first._dialogue._out
        monkeypatch.setattr(Outlet, "_take", lambda self, a: broken() if self is broken_one else take(self, a))
        scripted.last.put("a")
        scripted.last.finish()
        assert (await native.closed())[0] == 1011
        assert (await other.read(stream_id)).text == "a"


take = Outlet._take


# -- what is known of a connection


async def test_statistics(serve: Serve, scripted: Scripted) -> None:
    """Who it is, since when, and what it has carried."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="mine", user_id="me") as native:
        await native.ask()
        await native.round_trip()
        info = of(server).statistics()
        assert (info.session_id, info.user_id, info.streams) == ("mine", "me", 1)
        assert info.remote == "127.0.0.1:%d" % native.socket.local_address[1]
        assert info.messages_received == 4
        assert info.bytes_sent > 500
        assert info.round_trip is None
        assert server.registry.get(info.connection_id) is of(server)


async def test_the_round_trip_is_measured(serve: Serve) -> None:
    """A heartbeat's answer tells how far away the client is."""
    server = await serve(heartbeat_interval=0.1, heartbeat_timeout=2)
    async with connected(server) as native:
        beat = await native.until("heartbeat")
        await native.send("heartbeat_ack", timestamp=beat["timestamp"])
        await native.round_trip()
        assert 0 < of(server).statistics().round_trip < 1
