"""Two tenants on a real server: whatever a stranger asks of somebody's streams and sessions, there are none."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import SCRIPTED, Serve, Spawn
from tests.data.scripted import Scripted
from tests.native import Closed, Message, Native, connected
from wsstream.limits import Buckets
from wsstream.server import Server
from wsstream.wires.feeds import PREFIX

KEY = "0123456789abcdef0123456789abcdef"
ALICE, BOB, SHOP = "alice-token-0123456789", "bob-token-0123456789", "shop-token-0123456789"
TOKENS = f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n[applications]\nshop = "{SHOP}"\n'


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSTREAM_TOKENS", TOKENS)
    monkeypatch.setenv("WSSTREAM_JWT_KEY", KEY)


def signed(user: str, seconds: float) -> str:
    """A token of ``user`` that is good for so long."""
    return jwt.encode({"sub": user, "exp": time.time() + seconds}, KEY, algorithm="HS256")


@asynccontextmanager
async def tenant(server: Server, token: str, session_id: str = "ses") -> AsyncIterator[Native]:
    """A connection of one tenant."""
    async with connected(server, token=token, session_id=session_id) as native:
        yield native


def told(message: Message, unknown: str) -> Message:
    """A message with the id that was asked for made the same for all."""
    text = json.dumps({**message, "message": message.get("message", "")})
    return json.loads(text.replace(message.get("stream_id") or unknown, "ID"))  # type: ignore[no-any-return]


# Every message that takes a stream's id, with what else it needs.
BY_STREAM: dict[str, dict[str, Any]] = {
    "resume_stream": {"last_chunk_id": 0},
    "resume_stream ahead": {"last_chunk_id": 10_000},
    "resume_stream with epoch": {"last_chunk_id": 0, "epoch": "forged"},
    "resume_stream snapshot": {"last_chunk_id": 0, "snapshot": True},
    "chunk_ack": {"chunk_id": 1},
    "chunk_ack of nothing": {"chunk_id": 0},
    "request_chunks": {"from_chunk_id": 1, "to_chunk_id": 1},
    "cancel_stream": {},
}


@pytest.mark.parametrize("what", BY_STREAM)
@pytest.mark.parametrize("state", ["running", "ended", "forgotten"])
async def test_a_strangers_stream_is_answered_like_none(
    serve: Serve, scripted: Scripted, what: str, state: str
) -> None:
    """Every message about somebody's stream, in every state of it, is answered as one about an id that never was."""
    server = await serve(provider=SCRIPTED, **({"max_retained": 1} if state == "forgotten" else {}))
    async with tenant(server, ALICE) as alice, tenant(server, BOB) as bob:
        stream_id = await alice.ask()
        scripted.last.put("a", "b")
        await alice.read(stream_id, to=2)
        if state != "running":
            scripted.last.finish()
            await alice.read(stream_id)
        if state == "forgotten":
            other = await alice.ask()
            scripted.last.finish()
            await alice.read(other)
            await alice.send("cancel_stream", stream_id=stream_id)
            assert (await alice.until("error"))["error_type"] == "log_trimmed"
        answers = []
        for asked in (stream_id, "s_" + "x" * (len(stream_id) - 2)):
            await bob.send(what.split()[0], stream_id=asked, **BY_STREAM[what])
            answers.append(told(await bob.until("error"), asked))
        assert answers[0] == answers[1]
        assert answers[0]["error_type"] == "unknown_stream"
        if state == "running":  # and nothing has happened to it
            scripted.last.put("c")
            await alice.read(stream_id, to=3)
            scripted.last.finish()
            assert (await alice.read(stream_id)).text == "abc"


async def test_sessions_of_strangers_are_not_there(serve: Serve, scripted: Scripted) -> None:
    """Lists, histories, titles, deletions, requests and news of somebody's session are about one's own of that name."""
    server = await serve(provider=SCRIPTED)
    async with tenant(server, ALICE) as alice, tenant(server, BOB) as bob:
        hers = await alice.ask(request_id="r")
        scripted.last.put("secret")
        await alice.read(hers, to=1)
        await bob.send("list_streams")
        assert (await bob.until("stream_list"))["streams"] == []
        await bob.send("get_history")
        assert (await bob.until("history"))["messages"] == []
        await bob.send("resume_stream", last_chunk_id=0)
        assert (await bob.until("error"))["error_type"] == "bad_request"
        await bob.send("rename_session", title="mine")
        await bob.until("error")  # his has no message yet
        await bob.send("delete_session")
        await bob.until("session_changed")
        his = await bob.ask(request_id="r")
        assert his != hers
        await alice.round_trip()
        assert "session_changed" not in alice.types()
        await alice.send("get_history")
        history = await alice.until("history")
        assert "title" not in history
        assert [message["content"] for message in history["messages"]] == ["hi", "secret"]
    async with tenant(server, BOB) as bob:
        assert [stream["stream_id"] for stream in bob.seen[0]["active_streams"]] == [his]


async def test_user_id_grants_nothing(serve: Serve) -> None:
    """Who one says to be is a note where nobody is known, and nothing where somebody is."""
    server = await serve()
    async with connected(server, token=BOB, user_id="alice"):
        (member,) = server.registry
        assert member.statistics().user_id == "bob"


async def test_ownership_survives_a_restart(serve: Serve, sqlite: str) -> None:
    """After a restart streams and sessions still belong to who began them."""
    server = await serve(store=sqlite)
    async with tenant(server, ALICE) as alice:
        stream_id = await alice.ask("demo:tokens=3,rate=1000")
        text = (await alice.read(stream_id)).text
    await server.stop()
    server = await serve(store=sqlite)
    async with tenant(server, BOB) as bob, tenant(server, ALICE) as alice:
        await bob.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
        assert (await bob.until("error"))["error_type"] == "unknown_stream"
        await bob.send("get_history")
        assert (await bob.until("history"))["messages"] == []
        await alice.resume(stream_id, 0)
        assert (await alice.read(stream_id)).text == text
        await alice.send("get_history")
        assert len((await alice.until("history"))["messages"]) == 2


# -- the same over HTTP

SENT = {"Authorization": f"Bearer {BOB}"}


def masked(answer: httpx2.Response, *names: str) -> tuple[int, str]:
    """What was said, with the names that were asked for made the same."""
    text = answer.text
    for name in names:
        text = text.replace(name, "ID")
    return answer.status_code, text


@pytest.mark.parametrize("state", ["running", "ended", "forgotten"])
async def test_every_address_of_a_stream_is_like_none(serve: Serve, scripted: Scripted, state: str) -> None:
    """Each HTTP address with a stream's or a connection's id says the same of a stranger's as of none."""
    server = await serve(provider=SCRIPTED, **({"max_retained": 1} if state == "forgotten" else {}))
    unknown = "s_" + "x" * 22
    async with tenant(server, ALICE) as alice, httpx2.AsyncClient(base_url=server.url, headers=SENT) as bob:
        stream_id = await alice.ask()
        scripted.last.put("a", "b")
        await alice.read(stream_id, to=2)
        if state != "running":
            scripted.last.finish()
            await alice.read(stream_id)
        if state == "forgotten":
            other = await alice.ask()
            scripted.last.finish()
            await alice.read(other)
        checked = 0
        queries = ("", "?offset=-1", "?offset=-1&live=sse", "?stream=true", "?starting_after=3&stream=true")
        for endpoint in [endpoint for wire in server.assembly.wires() for endpoint in wire]:
            if "{" not in endpoint.path or re.search(r"session_id|{model|{name", endpoint.path):
                continue  # those that are no stream's ids; names of feeds belong to their user, see below
            server.guard.lookups = Buckets(None, 1)  # which is tested elsewhere
            chat = "/ai/" in endpoint.path  # whose names are those of sessions
            for query in queries:
                answers = []
                for name in ("ses" if chat else stream_id, unknown):
                    path = re.sub(r"\{\w+(:\w+)?\}", name, endpoint.path)
                    answer = await bob.request(endpoint.method, path + query, json={"type": "heartbeat"})
                    answers.append(masked(answer, name))
                assert answers[0] == answers[1], endpoint.path
                assert answers[0][0] == (204 if chat else 404), endpoint.path
                checked += 1
        assert checked >= 7 * len(queries)
        continued = {
            masked(await bob.post("/v1/responses", json={"input": "hi", "previous_response_id": name}), name)
            for name in (stream_id, unknown)
        }
        assert len(continued) == 1
        for path in ("/api/sessions/ses/messages", "/api/sessions/ses/streams"):
            listed = (await bob.get(path)).json()
            assert listed.get("messages", listed.get("streams")) == []
            assert (await bob.get(path, headers={"Authorization": ""})).status_code == 401
        if state == "running":
            scripted.runs[0].finish()
            assert (await alice.read(stream_id)).text == "ab"


async def test_the_ai_sdks_socket_shows_ones_own_chats(serve: Serve, scripted: Scripted) -> None:
    """A chat of somebody else's is not active, and cannot be stopped."""
    server = await serve(provider=SCRIPTED)
    async with tenant(server, ALICE) as alice:
        stream_id = await alice.ask()
        for token, found in ((BOB, "no-active"), (ALICE, "start")):
            async with connect(
                f"ws://127.0.0.1:{server.port}/ai", additional_headers={"Authorization": f"Bearer {token}"}
            ) as socket:
                await socket.send(json.dumps({"type": "resume", "requestId": "q", "id": "ses"}))
                assert json.loads(await socket.recv())["type"] == found
                if token == BOB:
                    await socket.send(json.dumps({"type": "abort", "requestId": "q"}))
        scripted.last.put("x")
        scripted.last.finish()
        assert (await alice.read(stream_id)).text == "x"
    with pytest.raises(ConnectionClosed):
        async with connect(f"ws://127.0.0.1:{server.port}/ai") as socket:
            await socket.recv()


# -- tokens on a connection


@pytest.mark.parametrize("token", [None, "", "wrong-token-0123456789", "x" * 5000, "a.b.c"])
async def test_without_a_good_token_the_connection_is_closed_with_3000(serve: Serve, token: str | None) -> None:
    """Whoever shows nothing good is told `unauthorized` and closed, and what they asked for is not begun."""
    server = await serve()
    async with connected(server, greet=False) as native:
        fields = {} if token is None else {"token": token}
        await native.send("hello", **fields)
        await native.send("chat_request", request_id="r", message="hi")
        assert (await native.until("error"))["error_type"] == "unauthorized"
        assert (await native.closed())[0] == 3000
    assert server.streams.statistics().started == 0
    assert server.rejections.statistics()["unauthorized"] == 1


async def test_messages_right_behind_the_hello_are_not_lost(serve: Serve) -> None:
    """A client need not wait for the answer to its hello."""
    server = await serve()
    async with connected(server, greet=False) as native:
        await native.send("hello", token=ALICE)
        for number in range(20):
            await native.send("heartbeat", timestamp=number)
        await native.send("chat_request", request_id="r", message="hi", model="demo:tokens=2,rate=1000")
        await native.until("stream_complete")
        assert native.types()[0] == "connection_established"
        assert native.types().count("heartbeat_ack") == 20


async def test_a_token_is_renewed_without_dropping_a_stream(serve: Serve, scripted: Scripted) -> None:
    """The answer tells how long a token is good; a new one of the same user goes on with the same stream."""
    server = await serve(provider=SCRIPTED, token_grace=0.2)
    async with tenant(server, signed("alice", 0.5)) as native:
        assert 0 <= native.seen[0]["expires_in"] <= 0.5
        stream_id = await native.ask()
        scripted.last.put("a")
        await native.read(stream_id, to=1)
        await native.send("renew_token", token=signed("bob", 100))
        assert (await native.until("error"))["error_type"] == "forbidden"
        await native.send("renew_token", token="wrong-token-0123456789")
        assert (await native.until("error"))["error_type"] == "unauthorized"
        await native.send("renew_token", token=signed("alice", 100))
        assert 90 < (await native.until("token_renewed"))["expires_in"] <= 100
        await asyncio.sleep(0.9)
        scripted.last.put("b")
        scripted.last.finish()
        assert (await native.read(stream_id)).text == "ab"


async def test_a_token_that_runs_out_closes_with_3000_after_its_grace(serve: Serve) -> None:
    """A connection goes on for the grace, then it ends; its streams live on."""
    server = await serve(token_grace=0.3)
    async with tenant(server, signed("alice", 0.1)) as native:
        await native.ask("demo:rate=10,tokens=1000")
        assert await native.closed() == (3000, "The token has run out")
    assert server.streams.statistics().running == 1
    assert server.rejections.statistics()["expired"] == 1


async def answered(native: Native, message: Message, *, acks: bool) -> None:
    """Answer heartbeats, and acknowledge chunks or not."""
    if acks and "chunk_id" in message:
        await native.ack(message["stream_id"])
    elif message["type"] == "heartbeat":
        await native.send("heartbeat_ack", timestamp=message["timestamp"])


@pytest.mark.parametrize(("acks", "code"), [(False, 4429), (True, None)])
async def test_a_viewer_that_acknowledges_nothing_is_let_go_where_that_is_set(
    serve: Serve, acks: bool, code: int | None
) -> None:
    """Who answers heartbeats and renders nothing is closed with 4429 in time; who renders is not."""
    server = await serve(viewer_stall=0.4, heartbeat_interval=0.1, heartbeat_timeout=5)
    async with tenant(server, ALICE) as native:
        await native.ask("demo:rate=100,tokens=100000")
        found = None
        with suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(1.5):
                while found is None:
                    try:
                        message = await native.receive()
                    except Closed as end:
                        found = end.code
                    else:
                        await answered(native, message, acks=acks)
        assert (native.socket.close_code if found is None else found) == code
    assert server.rejections.statistics()["slow"] == (0 if acks else 1)


async def test_a_user_has_so_many_connections(serve: Serve) -> None:
    """One connection more than a user may have is told so and closed with 4429; another user's is not."""
    server = await serve(max_connections_per_user=2)
    async with tenant(server, ALICE), tenant(server, ALICE):
        async with connected(server, greet=False) as third:
            await third.send("hello", token=ALICE)
            error = await third.until("error")
            assert (error["error_type"], error["retry_after"] > 0) == ("rate_limit", True)
            assert (await third.closed())[0] == 4429
        async with tenant(server, BOB):
            pass


# -- tickets and HTTP


async def test_a_ticket_brings_a_browser_in(serve: Serve) -> None:
    """An application's credential buys a ticket for its user, who comes in with it, once."""
    server = await serve()
    async with httpx2.AsyncClient(base_url=server.url) as http:
        answer = await http.post("/v1/tickets", json={"user": "carol"}, headers={"Authorization": f"Bearer {SHOP}"})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        async with connected(server, token=answer.json()["ticket"]):
            (member,) = server.registry
            assert member.statistics().user_id == "carol"
        async with connected(server, greet=False) as native:
            await native.send("hello", token=answer.json()["ticket"])
            assert (await native.closed())[0] == 3000
        refused = [
            await http.post("/v1/tickets", json={"user": "carol"}),
            await http.post("/v1/tickets", json={"user": "carol"}, headers={"Authorization": f"Bearer {ALICE}"}),
            await http.post("/v1/tickets", content=b"[1]", headers={"Authorization": f"Bearer {SHOP}"}),
            await http.post("/v1/tickets", content=b"x" * 5000, headers={"Authorization": f"Bearer {SHOP}"}),
            await http.post(
                "/v1/tickets", headers={"Authorization": f"Bearer {ALICE}", "Origin": "https://evil.example"}
            ),
            await http.get("/v1/tickets", headers={"Authorization": f"Bearer {ALICE}"}),
        ]
        assert [answer.status_code for answer in refused] == [401, 403, 400, 413, 403, 405]
        assert refused[0].headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://127.0.0.1.evil.example"])
async def test_a_foreign_page_gets_403(serve: Serve, origin: str) -> None:
    """The upgrade of a page that is not listed is refused, before anything is kept of it."""
    server = await serve()
    with pytest.raises(InvalidStatus) as refused:
        async with connected(server, greet=False, headers={"Origin": origin}):
            pass
    assert refused.value.response.status_code == 403
    assert server.rejections.statistics()["origin"] == 1
    async with connected(server, token=ALICE, headers={"Origin": server.url.rstrip("/")}):
        pass


async def test_a_token_in_the_address_is_ignored_and_never_written(spawn: Spawn) -> None:
    """A secret in a query string lets nobody in, and no secret appears in the log, whatever is done with it."""
    canary = "canary-0123456789-canary"
    tokens = f'[users]\nalice = "{canary}"\n'
    server = await spawn("--log-level", "debug", environ={"WSSTREAM_TOKENS": tokens, "WSSTREAM_JWT_KEY": canary * 2})
    async with connected(server, greet=False, path=f"/ws?token={canary}") as native:
        await native.send("hello")
        assert (await native.closed())[0] == 3000
    async with connected(server, token=canary) as native:
        await native.read(await native.ask("demo:tokens=3,rate=1000"))
        await native.send("renew_token", token=f"{canary}.x.y")
        await native.until("error")
        await native.send_text(f'{{"type":"hello","token":"{canary}"')
        await native.until("error")
    async with httpx2.AsyncClient(base_url=server.page) as http:
        await http.post("/v1/tickets?token=" + canary, headers={"Authorization": f"Bearer {canary}"})
    await server.end()
    assert canary not in server.log


async def test_only_listed_pages_may_read_answers(serve: Serve) -> None:
    """Headers that let another server's page read are there for listed pages alone, and never for cookies."""
    page = "https://chat.example"
    server = await serve(allowed_origins=page)
    async with httpx2.AsyncClient(base_url=server.url) as http:
        listed = await http.get("/healthz", headers={"Origin": page})
        foreign = await http.get("/healthz", headers={"Origin": "https://evil.example"})
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = await http.options("/v1/tickets", headers={"Origin": page, **asked})
        refused = await http.options("/v1/tickets", headers={"Origin": "https://evil.example", **asked})
    assert listed.headers["access-control-allow-origin"] == page
    assert "origin" in listed.headers["vary"].lower()
    assert allowed.headers["access-control-allow-origin"] == page
    assert "access-control-allow-origin" not in {*foreign.headers, *refused.headers}
    assert "access-control-allow-credentials" not in {*listed.headers, *allowed.headers}


async def test_a_name_of_a_feed_is_of_its_user(serve: Serve) -> None:
    """What one user writes under a name, another cannot find or change, and may have a feed of their own by it."""
    server = await serve(durable_writes="on")
    async with tenant(server, ALICE), httpx2.AsyncClient(base_url=server.url) as client:
        hers, his = ({"Authorization": f"Bearer {token}", "Content-Type": "text/plain"} for token in (ALICE, BOB))
        path = PREFIX + "notes"
        assert (await client.put(path, headers=hers, content="secret")).status_code == 201
        for method in ("GET", "HEAD", "DELETE"):
            assert (await client.request(method, path, headers=his)).status_code == 404
        assert (await client.post(path, headers=his, content="x")).status_code == 404
        assert (await client.put(path, headers=his, content="mine")).status_code == 201
        assert (await client.get(path, headers=hers)).text == "secret"
        assert (await client.get(path, headers={"Content-Type": "text/plain"})).status_code == 401


async def test_a_user_fills_their_own_share_only(serve: Serve) -> None:
    """Who has as many feeds as a user may is told 429 and when to come again; another user goes on writing."""
    server = await serve(durable_writes="on", max_feeds_per_user=2, max_feeds_bytes_per_user=1000)
    async with httpx2.AsyncClient(base_url=server.url) as client:
        hers, his = ({"Authorization": f"Bearer {token}", "Content-Type": "text/plain"} for token in (ALICE, BOB))
        made = [(await client.put(f"{PREFIX}{name}", headers=hers)).status_code for name in "ab"]
        refused = await client.put(PREFIX + "c", headers=hers)
        full = await client.post(PREFIX + "a", headers=hers, content="x" * 1000)
        assert (made, refused.status_code, full.status_code) == ([201, 201], 429, 429)
        assert refused.headers["retry-after"] == full.headers["retry-after"] == "60"
        assert (await client.put(PREFIX + "c", headers=his, content="x" * 900)).status_code == 201
    counts = server.rejections.statistics()
    assert (counts["feeds_per_user"], counts["feed_bytes_per_user"]) == (1, 1)
