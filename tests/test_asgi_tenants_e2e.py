"""Two tenants of a mounted application: whatever a stranger asks of somebody's, it is as if there were none.

The same matrix as in test_tenants_e2e.py, but that here the host application says who somebody is.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope
from websockets.asyncio.client import connect

from tests.conftest import SCRIPTED
from tests.data.scripted import Scripted
from tests.hosted import hosted
from tests.native import Native, connected
from tests.test_tenants_e2e import BY_STREAM, masked, told
from wsstream.asgi import WsstreamApp
from wsstream.assembly import Assembly
from wsstream.config import Config
from wsstream.limits import Buckets
from wsstream.wires.feeds import PREFIX

pytestmark = pytest.mark.usefixtures("quick_stop")

ALICE, BOB = {"X-User": "alice"}, {"X-User": "bob"}
STATES = ("running", "ended", "forgotten")
UNKNOWN = "s_" + "x" * 22


async def named(scope: Scope) -> str | None:
    """The host's word: in truth a session cookie, here a header."""
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


class House(NamedTuple):
    """A mounted application, and where it is."""

    port: int
    assembly: Assembly

    @property
    def url(self) -> str:
        """Of the mount."""
        return f"http://127.0.0.1:{self.port}/chat"

    def tenant(self, who: dict[str, str]) -> Any:
        """A native connection of one of them."""
        return connected(self, path="/chat/ws", headers=who, session_id="ses")

    def browser(self, who: dict[str, str]) -> httpx2.AsyncClient:
        """An HTTP client of one of them."""
        return httpx2.AsyncClient(base_url=self.url, headers=who, trust_env=False)


@asynccontextmanager
async def house(**settings: Any) -> AsyncIterator[House]:
    """An application with a gate, mounted at /chat."""
    app = WsstreamApp(Config(**{"store": "memory:", "provider": SCRIPTED, **settings}), gate=named)
    async with app.running(), hosted(Starlette(routes=[Mount("/chat", app)])) as server:
        assert app.assembly is not None
        yield House(server.port, app.assembly)


async def answer_in(state: str, alice: Native, scripted: Scripted) -> str:
    """A stream of alice's in that state."""
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
    return stream_id


def settings_of(state: str) -> dict[str, int]:
    """What makes a server forget."""
    return {"max_retained": 1} if state == "forgotten" else {}


@pytest.mark.parametrize("what", BY_STREAM)
@pytest.mark.parametrize("state", STATES)
async def test_a_strangers_stream_is_answered_like_none(scripted: Scripted, what: str, state: str) -> None:
    """Every message about somebody's stream, in every state of it, is answered as one about an id that never was."""
    async with house(**settings_of(state)) as mount, mount.tenant(ALICE) as alice, mount.tenant(BOB) as bob:
        stream_id = await answer_in(state, alice, scripted)
        answers = []
        for asked in (stream_id, "s_" + "x" * (len(stream_id) - 2)):
            await bob.send(what.split()[0], stream_id=asked, **BY_STREAM[what])
            answers.append(told(await bob.until("error"), asked))
        assert answers[0] == answers[1]
        assert answers[0]["error_type"] == "unknown_stream"
        if state == "running":  # and nothing has happened to it
            scripted.last.finish()
            assert (await alice.read(stream_id)).text == "ab"


@pytest.mark.parametrize("state", STATES)
async def test_every_address_of_a_stream_is_like_none(scripted: Scripted, state: str) -> None:
    """Each HTTP address with a stream's, a chat's or a connection's id says the same of a stranger's as of none."""
    async with house(**settings_of(state)) as mount, mount.tenant(ALICE) as alice, mount.browser(BOB) as bob:
        stream_id = await answer_in(state, alice, scripted)
        checked = set()
        for endpoint in [endpoint for wire in mount.assembly.wires() for endpoint in wire]:
            if "{" not in endpoint.path or re.search(r"session_id|{model|{name", endpoint.path):
                continue  # those that are no stream's ids; sessions and feeds are below
            mount.assembly.guard.lookups = Buckets(None, 1)  # which is tested elsewhere
            chat = "/ai/" in endpoint.path
            for query in ("", "?offset=-1&live=sse", "?stream=true", "?starting_after=3&stream=true"):
                answers = []
                for name in ("ses" if chat else stream_id, UNKNOWN):
                    path = re.sub(r"\{\w+(:\w+)?\}", name, endpoint.path)
                    answer = await bob.request(endpoint.method, mount.url + path + query, json={"type": "heartbeat"})
                    answers.append(masked(answer, name))
                assert answers[0] == answers[1], endpoint.path
                assert answers[0][0] == (204 if chat else 404), endpoint.path
                checked.add((endpoint.method, endpoint.path))
        assert len(checked) >= 9
        if state == "running":
            scripted.runs[0].finish()
            assert (await alice.read(stream_id)).text == "ab"


async def test_a_connection_over_http_is_of_who_opened_it(scripted: Scripted) -> None:
    """What somebody else posts to a connection's address goes nowhere."""
    hello = {"type": "hello"}
    async with (
        house() as mount,
        mount.browser(ALICE) as alice,
        mount.browser(BOB) as bob,
        alice.stream("POST", mount.url + "/api/native", json=hello) as response,
    ):
        lines = response.aiter_lines()
        while not (first := await anext(lines)).startswith("data: "):
            pass
        path = f"{mount.url}/api/native/{json.loads(first.removeprefix('data: '))['connection_id']}"
        assert (await bob.post(path, json={"type": "list_streams"})).status_code == 404
        assert (await alice.post(path, json={"type": "list_streams"})).status_code == 204


async def test_sessions_of_strangers_are_not_there(scripted: Scripted) -> None:
    """Lists, histories, titles and deletions of a session, on both wires, are about one's own of that name."""
    async with house() as mount, mount.tenant(ALICE) as alice, mount.tenant(BOB) as bob:
        hers = await alice.ask(request_id="r")
        scripted.last.put("secret")
        await alice.read(hers, to=1)
        await bob.send("list_streams")
        assert (await bob.until("stream_list"))["streams"] == []
        await bob.send("get_history")
        assert (await bob.until("history"))["messages"] == []
        await bob.send("rename_session", title="mine")
        await bob.until("error")  # his has no message yet
        await bob.send("delete_session")
        await bob.until("session_changed")
        assert await bob.ask(request_id="r") != hers
        async with mount.browser(BOB) as http:
            listed = (await http.get(mount.url + "/api/sessions/ses/messages")).json()["messages"]
            assert "secret" not in json.dumps(listed)
            streams = (await http.get(mount.url + "/api/sessions/ses/streams")).json()["streams"]
            assert hers not in json.dumps(streams)
            continued = {"input": "hi", "previous_response_id": hers}
            assert (await http.post(mount.url + "/v1/responses", json=continued)).status_code == 404
        await alice.round_trip()
        assert "session_changed" not in alice.types()
        await alice.send("get_history")
        history = await alice.until("history")
        assert [message["content"] for message in history["messages"]] == ["hi", "secret"]


async def test_the_ai_sdks_socket_shows_ones_own_chats(scripted: Scripted) -> None:
    """A chat of somebody else's is not active, and cannot be stopped."""
    async with house() as mount, mount.tenant(ALICE) as alice:
        stream_id = await alice.ask()
        for who, found in ((BOB, "no-active"), (ALICE, "start")):
            async with connect(
                f"ws://127.0.0.1:{mount.port}/chat/ai", additional_headers=who, proxy=None, compression=None
            ) as socket:
                await socket.send(json.dumps({"type": "resume", "requestId": "q", "id": "ses"}))
                assert json.loads(await socket.recv())["type"] == found
                if who is BOB:
                    await socket.send(json.dumps({"type": "abort", "requestId": "q"}))
        scripted.last.put("x")
        scripted.last.finish()
        assert (await alice.read(stream_id)).text == "x"


async def test_a_name_of_a_feed_is_of_its_user() -> None:
    """What one user writes under a name another cannot find, fork, append to or delete."""
    text = {"Content-Type": "text/plain"}
    async with house(durable_writes="on") as mount, mount.browser(ALICE) as alice, mount.browser(BOB) as bob:
        path = mount.url + PREFIX + "notes"
        assert (await alice.put(path, headers=text, content="secret")).status_code == 201
        for method in ("GET", "HEAD", "POST", "DELETE"):
            assert (await bob.request(method, path, headers=text, content="x")).status_code == 404, method
        fork = {**text, "Stream-Forked-From": PREFIX + "notes"}
        assert (await bob.put(mount.url + PREFIX + "mine", headers=fork)).status_code == 404
        assert (await bob.put(path, headers=text, content="mine")).status_code == 201
        assert (await alice.get(path)).text == "secret"


async def test_who_is_nobody_gets_nowhere(scripted: Scripted) -> None:
    """Without the host's word every address is 401, whatever it names."""
    async with house() as mount, mount.tenant(ALICE) as alice, mount.browser({}) as nobody:
        stream_id = await alice.ask()
        for endpoint in [endpoint for wire in mount.assembly.wires() for endpoint in wire]:
            path = re.sub(r"\{\w+(:\w+)?\}", stream_id, endpoint.path)
            answer = await nobody.request(endpoint.method, mount.url + path, json={})
            assert answer.status_code == 401, endpoint.path
