"""Answers as server-sent events and as JSON, end to end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as httpx
import pytest

from tests.answers import until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected, fetch
from tests.wires.http import browsing, events, text_of
from wsstream.chunks import Delta, Kind
from wsstream.errors import ChunkTimeout, ContentFiltered, InternalFailure, ProviderError, ProviderRateLimited
from wsstream.errors import ProviderTimeout as LateProvider
from wsstream.messages import StreamStatus

FAST = "demo:rate=0,tokens=40"


async def test_an_answer_as_events(serve: Serve) -> None:
    """The first event names stream and session, each chunk is an event with its id, the last one tells the figures."""
    async with (
        browsing(await serve()) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi", "model": FAST, "nobody knows": 1}) as stream,
    ):
        first, *tokens, last = await stream.rest()
    headers = stream.response.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-accel-buffering"] == "no"
    assert {"no-cache", "no-transform"} <= set(headers["cache-control"].split(", "))
    assert "Authorization" in headers["vary"]
    assert first.data["type"] == "start"
    assert first.data["stream_id"] == headers["x-wsstream-stream-id"]
    assert first.data["session_id"].startswith("ses_")
    assert [event.id for event in tokens] == [str(n) for n in range(1, 41)]
    assert {event.data["type"] for event in tokens} == {"token"}
    assert last.data["type"] == "done"
    assert last.data["finish_reason"] == "stop"
    assert last.data["token_count"] == last.data["output_tokens"] == 40
    assert {"input_tokens", "elapsed_seconds", "tokens_per_second"} <= last.data.keys()


@pytest.mark.parametrize("after", [0, 1, 39, 40])
@pytest.mark.parametrize("how", ["header", "query"])
async def test_going_on_behind_any_event(serve: Serve, after: int, how: str) -> None:
    """Both ways to name the last event heard give exactly the rest, and the end again."""
    async with browsing(await serve()) as client:
        async with events(client, "POST", "/api/chat/stream", json={"message": "hi", "model": FAST}) as stream:
            whole = await stream.rest()
        path = f"/api/streams/{whole[0].data['stream_id']}"
        named: dict[str, Any] = (
            {"headers": {"Last-Event-ID": str(after)}} if how == "header" else {"params": {"last_chunk_id": after}}
        )
        async with events(client, "GET", path, **named) as stream:
            again = await stream.rest()
    assert again[1:] == whole[1 + after :]


async def test_an_event_source_stops_when_it_has_heard_the_end(serve: Serve) -> None:
    """Whoever comes back with the id of the last event gets 204; whoever missed only that one gets it."""
    async with browsing(await serve()) as client:
        async with events(client, "POST", "/api/chat/stream", json={"message": "hi", "model": FAST}) as stream:
            whole = await stream.rest()
        path = f"/api/streams/{whole[0].data['stream_id']}"
        assert (await client.get(path, headers={"Last-Event-ID": str(whole[-1].id)})).status_code == 204
        async with events(client, "GET", path, headers={"Last-Event-ID": str(whole[-2].id)}) as stream:
            assert [event.data["type"] for event in await stream.rest()] == ["start", "done"]


async def test_closing_is_leaving(serve: Serve, scripted: Scripted) -> None:
    """A client that closes its response leaves the answer running, and another goes on where it was."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client:
        async with events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream:
            start = await stream.next()
            assert start is not None
            await until(lambda: scripted.runs)
            scripted.last.put("a", "b")
            await stream.next()
        log = server.streams.get(start.data["stream_id"]).log
        await until(lambda: not log.attachments)
        assert log.outcome is None
        scripted.last.put("c")
        scripted.last.finish()
        async with events(client, "GET", f"/api/streams/{log.stream_id}", headers={"Last-Event-ID": "1"}) as stream:
            assert text_of(await stream.rest()) == "bc"


async def test_closing_is_a_cancel_where_that_was_asked_for(serve: Serve, scripted: Scripted) -> None:
    """With ``cancel_on_close`` the answer ends with its only viewer, and not while another follows it."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client:
        async with events(client, "POST", "/api/chat/stream?cancel_on_close=1", json={"message": "hi"}) as stream:
            start = await stream.next()
            assert start is not None
            path = f"/api/streams/{start.data['stream_id']}?cancel_on_close=1"
            async with events(client, "GET", path) as second:
                await second.next()
        log = server.streams.get(start.data["stream_id"]).log
        await until(lambda: log.outcome)
        assert log.outcome is not None
        assert log.outcome.finish_reason == "cancelled"


async def test_another_viewer_keeps_the_answer(serve: Serve, scripted: Scripted) -> None:
    """One of two viewers leaves with ``cancel_on_close``: the other reads on."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client, events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream:
        start = await stream.next()
        assert start is not None
        log = server.streams.get(start.data["stream_id"]).log
        async with events(client, "GET", f"/api/streams/{log.stream_id}?cancel_on_close=1") as second:
            await second.next()
            assert len(log.attachments) == 2
        await until(lambda: len(log.attachments) == 1)
        scripted.last.put("on")
        scripted.last.finish()
        assert text_of(await stream.rest()) == "on"


async def test_cancelling(serve: Serve, scripted: Scripted) -> None:
    """``DELETE`` stops the answer, says how far it was, and says the same again; viewers are told, too."""
    async with (
        browsing(await serve(provider=SCRIPTED)) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        start = await stream.next()
        assert start is not None
        await until(lambda: scripted.runs)
        scripted.last.put("a")
        await stream.next()
        path = f"/api/streams/{start.data['stream_id']}"
        receipts = [(await client.delete(path)).json() for _ in range(2)]
        last = (await stream.rest())[-1]
    assert receipts[0] == receipts[1]
    assert receipts[0]["receipt"]["generated_chunks"] == 1
    assert last.data["finish_reason"] == "cancelled"
    assert last.data["receipt"] == receipts[0]["receipt"]


async def test_kinds_have_types_of_their_own(serve: Serve, scripted: Scripted) -> None:
    """Reasoning and tool calls are events of other types, in the same numbering."""
    async with (
        browsing(await serve(provider=SCRIPTED)) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        await until(lambda: scripted.runs)
        deltas = [Delta("hm", Kind.REASONING), Delta('{"index":0}', Kind.TOOL_CALL), Delta('say "ä"\n')]
        scripted.last.sink.put(deltas)
        scripted.last.finish()
        _, *chunks, _ = await stream.rest()
    assert [(event.id, event.data["type"], event.data["content"]) for event in chunks] == [
        ("1", "reasoning", "hm"),
        ("2", "tool_call", '{"index":0}'),
        ("3", "token", 'say "ä"\n'),
    ]


async def test_why_people_wait(serve: Serve, scripted: Scripted) -> None:
    """A status is an event without an id, and what was withdrawn is told as such."""
    server = await serve(provider=SCRIPTED)
    async with (
        browsing(server) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        start = await stream.next()
        assert start is not None
        log = server.streams.get(start.data["stream_id"]).log
        log.tell_status(StreamStatus(stream_id=log.stream_id, status="retrying", message="Again", retry_count=1))
        told = await stream.next()
        assert told is not None
        assert (told.id, told.data) == (
            None,
            {"type": "status", "status": "retrying", "message": "Again", "retry_count": 1},
        )
        await until(lambda: scripted.runs)
        scripted.last.put("a")
        assert (await stream.next()) is not None
        log.rewind(0, "retry")
        scripted.last.finish()
        assert [event.data["type"] for event in await stream.rest()] == ["rewind", "done"]


async def test_silence_is_bridged(serve: Serve, scripted: Scripted) -> None:
    """While nothing is there to tell, comments show that the line is alive; the first one does not wait long."""
    async with (
        browsing(await serve(provider=SCRIPTED, heartbeat_interval=0.02, heartbeat_timeout=1.0)) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        await stream.next()
        asyncio.get_running_loop().call_later(0.2, lambda: scripted.last.finish())
        await stream.rest()
    assert stream.comments >= 3


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ProviderRateLimited(retry_after=7), 429),
        (ProviderError(), 502),
        (LateProvider(), 504),
        (ChunkTimeout(), 504),
        (ContentFiltered(), 422),
        (InternalFailure(), 500),
    ],
)
async def test_failures(serve: Serve, scripted: Scripted, failure: Exception, status: int) -> None:
    """What fails is an event where events are read and a status where an answer is: with what there was of it."""
    async with browsing(await serve(provider=SCRIPTED, **NO_RETRIES)) as client:
        asked = asyncio.create_task(client.post("/api/chat", json={"message": "hi", "session_id": "s"}))
        await until(lambda: scripted.runs)
        scripted.last.put("part")
        scripted.last.fail(failure)
        answer = await asked
        streams = (await client.get("/api/sessions/s/streams")).json()["streams"]
        async with events(client, "GET", f"/api/streams/{streams[0]['stream_id']}") as stream:
            told = (await stream.rest())[-1].data
    assert answer.status_code == status
    assert answer.json()["content"] == "part"
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    assert told["type"] == "error"
    assert told["error_type"] == answer.json()["error_type"]


NO_RETRIES: dict[str, Any] = {"retries": 0}


async def test_a_whole_answer(serve: Serve) -> None:
    """``POST /api/chat`` waits, and gives the text with what it took."""
    async with browsing(await serve()) as client:
        answer = (await client.post("/api/chat", json={"message": "hi", "model": FAST, "session_id": "s"})).json()
        history = (await client.get("/api/sessions/s/messages")).json()
        streams = (await client.get("/api/sessions/s/streams")).json()["streams"]
    assert len(answer["content"].split()) == 40
    usage = answer["usage"]
    assert usage["completion_tokens"] == 40
    assert usage["total_tokens"] == 40 + usage["prompt_tokens"]
    assert [(said["role"], said["content"]) for said in history["messages"]] == [
        ("user", "hi"),
        ("assistant", answer["content"]),
    ]
    assert streams == [{"stream_id": answer["stream_id"], "last_chunk_id": 40, "state": "complete"}]


async def test_pages_of_messages(serve: Serve) -> None:
    """``before`` and ``limit`` ask for a page; what they cannot be is refused."""
    async with browsing(await serve()) as client:
        for _ in range(2):
            await client.post("/api/chat", json={"message": "hi", "model": FAST, "session_id": "s"})
        whole = (await client.get("/api/sessions/s/messages")).json()
        newest = (await client.get("/api/sessions/s/messages?limit=3")).json()
        before = newest["messages"][0]["id"]
        oldest = (await client.get(f"/api/sessions/s/messages?limit=3&before={before}")).json()
        refused = [
            (await client.get(f"/api/sessions/s/messages?{query}")).status_code
            for query in ("limit=0", "limit=x", "limit=1001", "before=gone", "before=")
        ]
    assert [*oldest["messages"], *newest["messages"]] == whole["messages"]
    assert [page["more"] for page in (whole, newest, oldest)] == [False, True, False]
    assert refused == [400] * 5


async def test_leaving_while_an_answer_is_awaited(serve: Serve, scripted: Scripted) -> None:
    """Who gives up waiting is a viewer who leaves."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client:
        asked = asyncio.create_task(client.post("/api/chat", json={"message": "hi", "session_id": "s"}))
        await until(lambda: scripted.runs)
        log = server.streams.of_session("s")[0].log
        assert len(log.attachments) == 1
        asked.cancel()
        await until(lambda: not log.attachments)
        assert log.outcome is None


@pytest.mark.parametrize("path", ["/api/chat/stream", "/api/chat"])
async def test_a_request_sent_twice(serve: Serve, path: str) -> None:
    """The same idempotency key begins one answer, with a session or without; for another body it is refused."""
    server = await serve()
    async with browsing(server, headers={"Idempotency-Key": "k-123"}) as client:
        for body in ({"message": "hi", "model": FAST}, {"message": "hi", "model": FAST, "session_id": "s"}):
            replies = [await client.post(path, json=body) for _ in range(2)]
            assert len({reply.headers["x-wsstream-stream-id"] for reply in replies}) == 1
            other = await client.post(path, json={**body, "message": "ho"})
            assert other.status_code == 409
    assert server.streams.statistics().started == 2


async def test_what_the_model_is_told(serve: Serve, scripted: Scripted) -> None:
    """A system prompt goes first, before what the session holds or what the request says was said."""
    async with browsing(await serve(provider=SCRIPTED)) as client:
        for body in (
            {"message": "one", "session_id": "s"},
            {"message": "two", "session_id": "s", "system_prompt": "be brief", "max_tokens": 9},
            {"messages": [{"role": "user", "content": "three"}], "system_prompt": "be kind"},
        ):
            asked = asyncio.create_task(client.post("/api/chat", json=body))
            count = len(scripted.runs)
            await until(lambda count=count: len(scripted.runs) > count)  # type: ignore[misc]
            scripted.last.put("ok")
            scripted.last.finish()
            await asked
    requests = [run.request for run in scripted.runs]
    assert [(said.role, said.content) for said in requests[1].messages] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "ok"),
        ("user", "two"),
    ]
    assert requests[1].max_tokens == 9
    assert [said.content for said in requests[2].messages] == ["be kind", "three"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"{"}, 400),
        ({"content": b"[]"}, 400),
        ({"content": b'{"message": 1}'}, 400),
        ({"content": b"{}"}, 400),
        ({"content": b'{"message":"\xff"}'}, 400),
        ({"content": b"[" * 100_000}, 400),
        ({"content": b'{"message":"hi","session_id":"\xc3\xa4"}'}, 400),
        ({"content": b'{"message":"hi"}', "headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b'{"message":"' + b"x" * 10_001 + b'"}'}, 422),
        ({"content": b'{"message":"hi","system_prompt":"' + b"x" * 10_001 + b'"}'}, 422),
        ({"content": b'{"message":"hi","messages":[{"role":"user","content":"ho"}]}'}, 400),
        ({"content": b'{"messages":[{"role":"user","content":"' + b"x" * 10_001 + b'"}]}'}, 422),
        ({"content": b'{"message":"' + b"x" * 2**20 + b'"}'}, 413),
        ({"content": b'{"message":"hi","config":{"provider":"os"}}'}, 400),
        ({"content": b'{"message":"hi"}', "headers": {"Idempotency-Key": "k" * 129}}, 400),
    ],
)
@pytest.mark.parametrize("path", ["/api/chat/stream", "/api/chat"])
async def test_bodies_that_cannot_be_served(serve: Serve, path: str, request_: Any, status: int) -> None:
    """Each kind of bad body has its status and a word on what is wrong, and begins nothing."""
    server = await serve()
    headers = {"Content-Type": "application/json", **request_.get("headers", {})}
    async with browsing(server) as client:
        reply = await client.post(path, content=request_["content"], headers=headers)
    assert reply.status_code == status
    assert reply.json()["message"]
    assert server.streams.statistics().started == 0


async def test_the_longest_prompt_is_the_same_on_the_socket(serve: Serve) -> None:
    """The native wire refuses the same prompt as `bad_request`, and its connection goes on."""
    server = await serve(max_prompt_chars=20)
    async with connected(server) as native:
        await native.send("chat_request", request_id="r", message="x" * 21)
        assert (await native.until("error"))["error_type"] == "bad_request"
        await native.send("chat_request", request_id="r2", message="ä" * 20, model=FAST)
        await native.until("stream_start")


async def test_an_endless_body(serve: Serve) -> None:
    """A body that does not say its length is read no further than the limit."""
    server = await serve(max_body_bytes=1000)
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = await fetch(server, head + (b"400\r\n" + b" " * 1024 + b"\r\n") * 3)
    assert reply.startswith(b"HTTP/1.1 413")


async def test_a_slow_body(serve: Serve) -> None:
    """A body that does not come in time is 408, and the connection ends."""
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    reply = await fetch(await serve(body_timeout=0.05), head)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in reply.lower()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/api/streams/s_nothing", {}, 404),
        ("DELETE", "/api/streams/s_nothing", {}, 404),
        ("GET", "/api/streams/KNOWN", {"Last-Event-ID": "x"}, 400),
        ("GET", "/api/streams/KNOWN", {"Last-Event-ID": "-1"}, 400),
        ("GET", "/api/streams/KNOWN", {"Last-Event-ID": "41"}, 409),
        ("PUT", "/api/streams/KNOWN", {}, 405),
        ("GET", "/api/chat/stream", {}, 405),
    ],
)
async def test_what_is_not_there(serve: Serve, method: str, path: str, headers: dict[str, str], status: int) -> None:
    """Unknown streams, positions and methods are said to be so."""
    async with browsing(await serve()) as client:
        known = (await client.post("/api/chat", json={"message": "hi", "model": FAST})).json()["stream_id"]
        reply = await client.request(method, path.replace("KNOWN", known), headers=headers)
    assert reply.status_code == status


async def test_a_stream_that_is_no_longer_kept(serve: Serve) -> None:
    """It is gone, which is not the same as never having been."""
    server = await serve(max_retained=1)
    async with browsing(server) as client:
        first, _ = [(await client.post("/api/chat", json={"message": "hi", "model": FAST})).json() for _ in range(2)]
        reply = await client.get(f"/api/streams/{first['stream_id']}")
    assert reply.status_code == 410


async def test_a_full_server(serve: Serve, scripted: Scripted) -> None:
    """At capacity the answer is 503 with the time to come back, and nothing has begun."""
    server = await serve(provider=SCRIPTED, max_running_streams=1)
    async with browsing(server) as client, events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream:
        await stream.next()
        reply = await client.post("/api/chat", json={"message": "hi"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["error_type"] == "capacity"


async def test_the_head_of_a_stream(serve: Serve, scripted: Scripted) -> None:
    """``HEAD`` of an answer that runs does not wait for it."""
    server = await serve(provider=SCRIPTED)
    async with (
        browsing(server) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        start = await stream.next()
        assert start is not None
        reply = await client.head(f"/api/streams/{start.data['stream_id']}")
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert len(server.streams.get(start.data["stream_id"]).log.attachments) == 1


async def test_too_many_viewers(serve: Serve, scripted: Scripted) -> None:
    """As many calls as WebSockets may be under way; one more is 503, until one of them is over."""
    server = await serve(provider=SCRIPTED, max_connections=1)
    async with browsing(server) as client:
        async with events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream:
            await stream.next()
            assert (await client.get("/api/sessions/s/streams")).status_code == 503
            scripted.last.finish()
            await stream.rest()
        assert (await client.get("/api/sessions/s/streams")).status_code == 200


@pytest.mark.parametrize(("path", "told"), [("/api/sessions/s/messages", "type"), ("/v1/responses/s_1", "error")])
async def test_a_mistake_of_ours_is_told_and_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, told: str
) -> None:
    """A bug behind a call is a 500 in the wire's own words, and the log says where it happened."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    server = await serve()
    for name in ("page", "get", "resume"):
        monkeypatch.setattr(server.streams, name, broken)
    async with browsing(server) as client:
        reply = await client.get(path)
    assert (reply.status_code, told in reply.json()) == (500, True)
    assert "failed unexpectedly" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_mistake_in_mid_answer_is_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug behind the first byte of a response cuts it off, so that nobody takes it for whole, and is in the log."""

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("wsstream.wires.sse.Events.span", broken)
    body = {"message": "hi", "model": "demo:rate=0,tokens=3"}
    async with browsing(await serve()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/api/chat/stream", json=body)
    await until(lambda: "ZeroDivisionError" in caplog.text)


async def test_a_draining_server(serve: Serve, scripted: Scripted) -> None:
    """Nothing new is begun; what runs can be gone on with and is read to its end."""
    server = await serve(provider=SCRIPTED, drain_timeout=5.0)
    async with browsing(server) as client:
        async with events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream:
            start = await stream.next()
            assert start is not None
            draining = asyncio.create_task(server.drain())
            await until(lambda: server.streams.draining)
            reply = await client.post("/api/chat", json={"message": "hi"})
            assert reply.status_code == 503
            assert reply.headers["retry-after"]
            path = f"/api/streams/{start.data['stream_id']}"
            async with events(client, "GET", path) as second:
                scripted.last.put("bye")
                scripted.last.finish()
                assert text_of(await second.rest()) == text_of(await stream.rest()) == "bye"
        await draining


async def test_a_client_that_takes_nothing_is_left(serve: Serve) -> None:
    """It is behind in the log by a bounded number of chunks, and after a while its connection is given up."""
    server = await serve(on_orphan="continue", response_stall=0.3)
    body = json.dumps({"message": "hi", "model": "demo:rate=0,tokens=100000", "session_id": "s"}).encode()
    _reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
    writer.write(
        b"POST /api/chat/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await until(lambda: server.streams.of_session("s") and server.streams.of_session("s")[0].log.attachments)
    log = server.streams.of_session("s")[0].log
    await until(lambda: len(log) > 1000)
    assert len(log) < 60_000
    await until(lambda: not log.attachments)
    writer.close()


async def test_the_probe(serve: Serve) -> None:
    """Its events arrive spread over the time they say, unless something holds them back."""
    loop = asyncio.get_running_loop()
    async with browsing(await serve()) as client, events(client, "GET", "/api/probe") as stream:
        arrivals = [(event.data["sent_ms"], loop.time()) async for event in stream]
    assert [sent for sent, _ in arrivals] == [0, 400, 800]
    assert arrivals[-1][1] > arrivals[0][1]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/api/nothing", 404), ("PUT", "/api/chat", 405), ("HEAD", "/api/chat", 405)]
)
async def test_no_address_answers_in_plain_text(serve: Serve, method: str, path: str, status: int) -> None:
    """What there is not below /api is told as this server's own errors are, with the methods that there are."""
    async with browsing(await serve()) as client:
        reply = await client.request(method, path)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers.get("allow") == ("POST" if status == 405 else None)
    if method != "HEAD":
        assert (reply.json()["type"], reply.json()["error_type"]) == ("error", "bad_request")
