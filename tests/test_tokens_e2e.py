"""Credentials on a real server: tokens that are wrong, renewed or run out, tickets, and the pages that may use them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx2
import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import SCRIPTED, Serve, Spawn
from tests.data.scripted import Scripted
from tests.native import Closed, Message, Native, connected
from tests.tenants import ALICE, SHOP, TOKENS, alone, bearer

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSTREAM_TOKENS", TOKENS)
    monkeypatch.setenv("WSSTREAM_JWT_KEY", KEY)


def signed(user: str, seconds: float) -> str:
    """A token of ``user`` that is good for so long."""
    return jwt.encode({"sub": user, "exp": time.time() + seconds}, KEY, algorithm="HS256")


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
    async with connected(server, token=signed("alice", 0.5)) as native:
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
    async with connected(server, token=signed("alice", 0.1)) as native:
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
    async with alone(server).tenant("alice") as native:
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
    async with alone(server).tenant("alice"), alone(server).tenant("alice"):
        async with connected(server, greet=False) as third:
            await third.send("hello", token=ALICE)
            error = await third.until("error")
            assert (error["error_type"], error["retry_after"] > 0) == ("rate_limit", True)
            assert (await third.closed())[0] == 4429
        async with alone(server).tenant("bob"):
            pass


# -- tickets and pages


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
            await http.post("/v1/tickets", json={"user": "carol"}, headers=bearer("alice")),
            await http.post("/v1/tickets", content=b"[1]", headers={"Authorization": f"Bearer {SHOP}"}),
            await http.post("/v1/tickets", content=b"x" * 5000, headers={"Authorization": f"Bearer {SHOP}"}),
            await http.post(
                "/v1/tickets", headers={"Authorization": f"Bearer {ALICE}", "Origin": "https://evil.example"}
            ),
            await http.get("/v1/tickets", headers=bearer("alice")),
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
