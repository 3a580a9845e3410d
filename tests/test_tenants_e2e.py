"""Two tenants on a server: whatever a stranger asks of somebody's streams, sessions and feeds, there are none.

Every test of the matrix is held by a server of its own, and by one that is mounted in somebody else's application.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from tests.tenants import (
    ALICE,
    BOB,
    BY_STREAM,
    STATES,
    TOKENS,
    UNKNOWN,
    House,
    OpenHouse,
    alone,
    answer_in,
    masked,
    mounted,
    named,
    settings_of,
    told,
)
from wsstream.wires.feeds import PREFIX


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSTREAM_TOKENS", TOKENS)


@pytest.fixture(params=["alone", "mounted"])
async def house(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[OpenHouse]:
    """Opens a server of the one kind, and of the other: ``await house(max_retained=1)``."""
    async with AsyncExitStack() as stack:

        async def opened(**settings: Any) -> House:
            if request.param == "alone":
                return alone(await serve(**settings))
            return await stack.enter_async_context(mounted(**settings))

        yield opened


@pytest.mark.parametrize("what", BY_STREAM)
@pytest.mark.parametrize("state", STATES)
async def test_a_strangers_stream_is_answered_like_none(
    house: OpenHouse, scripted: Scripted, what: str, state: str
) -> None:
    """Every message about somebody's stream, in every state of it, is answered as one about an id that never was."""
    server = await house(**settings_of(state))
    async with server.tenant("alice") as alice, server.tenant("bob") as bob:
        stream_id = await answer_in(state, alice, scripted)
        answers = []
        for asked in (stream_id, UNKNOWN):
            await bob.send(what.split()[0], stream_id=asked, **BY_STREAM[what])
            answers.append(told(await bob.until("error"), asked))
        assert answers[0] == answers[1]
        assert answers[0]["error_type"] == "unknown_stream"
        if state == "running":  # and nothing has happened to it
            scripted.last.put("c")
            await alice.read(stream_id, to=3)
            scripted.last.finish()
            assert (await alice.read(stream_id)).text == "abc"


HEARTBEAT = {"type": "heartbeat"}
QUERIES = ("", "?offset=-1", "?offset=-1&live=sse", "?stream=true", "?starting_after=3&stream=true")


def takes_an_id(path: str) -> bool:
    """Whether an address has the id of a stream, chat or connection; names of sessions and feeds are their user's."""
    return "{" in path and not any(name in path for name in ("session_id", "{model", "{name"))


@pytest.mark.parametrize("state", STATES)
async def test_every_address_of_a_stream_is_like_none(house: OpenHouse, scripted: Scripted, state: str) -> None:
    """Each HTTP address with a stream's, a chat's or a connection's id says the same of a stranger's as of none."""
    server = await house(**settings_of(state))
    async with server.tenant("alice") as alice, server.browser("bob") as bob:
        stream_id = await answer_in(state, alice, scripted)
        checked = set()
        for endpoint in server.endpoints():
            if not takes_an_id(endpoint.path):
                continue  # sessions and feeds are below
            chat = "/ai/" in endpoint.path  # whose names are those of sessions
            for query in QUERIES:
                answers = []
                for name in ("ses" if chat else stream_id, UNKNOWN):
                    answer = await bob.request(endpoint.method, named(endpoint, name) + query, json=HEARTBEAT)
                    answers.append(masked(answer, name))
                assert answers[0] == answers[1], endpoint.path
                assert answers[0][0] == (200 if endpoint.path.endswith("/chat/{id}") else 204 if chat else 404), (
                    endpoint.path
                )
            checked.add((endpoint.method, endpoint.path))
        assert len(checked) >= 9
        continued = {
            masked(await bob.post("/v1/responses", json={"input": "hi", "previous_response_id": name}), name)
            for name in (stream_id, UNKNOWN)
        }
        assert [status for status, _ in continued] == [404]
        if state == "running":
            scripted.runs[0].finish()
            assert (await alice.read(stream_id)).text == "ab"


async def test_a_connection_over_http_is_of_who_opened_it(house: OpenHouse, scripted: Scripted) -> None:
    """What somebody else posts to a connection's address goes nowhere."""
    server = await house(provider=SCRIPTED)
    async with (
        server.browser("alice") as alice,
        server.browser("bob") as bob,
        alice.stream("POST", "/api/native", json={"type": "hello", **server.hello_of("alice")}) as response,
    ):
        lines = response.aiter_lines()
        while not (first := await anext(lines)).startswith("data: "):
            pass
        path = f"/api/native/{json.loads(first.removeprefix('data: '))['connection_id']}"
        assert (await bob.post(path, json={"type": "list_streams"})).status_code == 404
        assert (await alice.post(path, json={"type": "list_streams"})).status_code == 204


async def test_sessions_of_strangers_are_not_there(house: OpenHouse, scripted: Scripted) -> None:
    """Lists, histories, titles, deletions, requests and news of somebody's session are about one's own of that name."""
    server = await house(provider=SCRIPTED)
    async with server.tenant("alice") as alice, server.tenant("bob") as bob:
        hers = await alice.ask(request_id="r")
        scripted.last.put("secret")
        await alice.read(hers, to=1)
        await bob.send("list_streams")
        assert (await bob.until("stream_list"))["streams"] == []
        await bob.send("get_history")
        assert (await bob.until("history"))["messages"] == []
        async with server.browser("bob") as http:
            for what in ("messages", "streams"):
                assert (await http.get(f"/api/sessions/ses/{what}")).json()[what] == []
        await bob.send("resume_stream", last_chunk_id=0)
        assert (await bob.until("error"))["error_type"] == "bad_request"
        await bob.send("rename_session", title="mine")
        await bob.until("error")  # his has no message yet
        await bob.send("delete_session")
        await bob.until("session_changed")
        his = await bob.ask(request_id="r")
        assert his != hers
        async with server.browser("bob") as http:
            for what in ("messages", "streams"):
                listed = (await http.get(f"/api/sessions/ses/{what}")).text
                assert hers not in listed
                assert "secret" not in listed
        await alice.round_trip()
        assert "session_changed" not in alice.types()
        await alice.send("get_history")
        history = await alice.until("history")
        assert "title" not in history
        assert [message["content"] for message in history["messages"]] == ["hi", "secret"]
    async with server.tenant("bob") as bob:
        assert [stream["stream_id"] for stream in bob.seen[0]["active_streams"]] == [his]


async def test_the_ai_sdks_socket_shows_ones_own_chats(house: OpenHouse, scripted: Scripted) -> None:
    """A chat of somebody else's is not active, and cannot be stopped."""
    server = await house(provider=SCRIPTED)
    url = server.socket_url("/ai")
    async with server.tenant("alice") as alice:
        stream_id = await alice.ask()
        for user, found in (("bob", "no-active"), ("alice", "start")):
            headers = server.headers_of(user)
            async with connect(url, additional_headers=headers, proxy=None, compression=None) as socket:
                await socket.send(json.dumps({"type": "resume", "requestId": "q", "id": "ses"}))
                assert json.loads(await socket.recv())["type"] == found
                if user == "bob":
                    await socket.send(json.dumps({"type": "abort", "requestId": "q"}))
        scripted.last.put("x")
        scripted.last.finish()
        assert (await alice.read(stream_id)).text == "x"
    with pytest.raises((ConnectionClosed, InvalidStatus)):
        async with connect(url, proxy=None) as socket:
            await socket.recv()


async def test_a_name_of_a_feed_is_of_its_user(house: OpenHouse) -> None:
    """What one user writes under a name another cannot find, fork or change, and may have a feed of their own by it."""
    server = await house(durable_writes="on")
    text = {"Content-Type": "text/plain"}
    async with server.browser("alice") as alice, server.browser("bob") as bob, server.browser("") as nobody:
        path = PREFIX + "notes"
        assert (await alice.put(path, headers=text, content="secret")).status_code == 201
        for method in ("GET", "HEAD", "POST", "DELETE"):
            assert (await bob.request(method, path, headers=text, content="x")).status_code == 404, method
        fork = {**text, "Stream-Forked-From": path}
        assert (await bob.put(PREFIX + "mine", headers=fork)).status_code == 404
        assert (await bob.put(path, headers=text, content="mine")).status_code == 201
        assert (await alice.get(path)).text == "secret"
        assert (await nobody.get(path, headers=text)).status_code == 401


async def test_who_is_nobody_gets_nowhere(house: OpenHouse, scripted: Scripted) -> None:
    """Who shows nothing is told 401 at every address, whatever it names."""
    server = await house(provider=SCRIPTED)
    async with server.tenant("alice") as alice, server.browser("") as nobody:
        stream_id = await alice.ask()
        for endpoint in server.endpoints():
            answer = await nobody.request(endpoint.method, named(endpoint, stream_id), json={})
            assert answer.status_code == 401, endpoint.path


# -- a server of its own


async def test_user_id_grants_nothing(serve: Serve) -> None:
    """Who one says to be is a note where nobody is known, and nothing where somebody is."""
    server = await serve()
    async with connected(server, token=BOB, user_id="alice"):
        (member,) = server.registry
        assert member.statistics().user_id == "bob"


async def test_ownership_survives_a_restart(serve: Serve, sqlite: str) -> None:
    """After a restart streams and sessions still belong to who began them."""
    server = await serve(store=sqlite)
    async with alone(server).tenant("alice") as alice:
        stream_id = await alice.ask("demo:tokens=3,rate=1000")
        text = (await alice.read(stream_id)).text
    await server.stop()
    server = await serve(store=sqlite)
    async with alone(server).tenant("bob") as bob, alone(server).tenant("alice") as alice:
        await bob.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
        assert (await bob.until("error"))["error_type"] == "unknown_stream"
        await bob.send("get_history")
        assert (await bob.until("history"))["messages"] == []
        await alice.resume(stream_id, 0)
        assert (await alice.read(stream_id)).text == text
        await alice.send("get_history")
        assert len((await alice.until("history"))["messages"]) == 2


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
