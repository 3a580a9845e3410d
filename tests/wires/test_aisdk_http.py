"""The AI SDK's UI message stream over server-sent events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.answers import until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.wires.http import browsing, events
from wsstream.wires import aisdk_http

CHAT = "/api/ai/chat"
STREAM = f"{CHAT}/chat/stream"


def body(**fields: Any) -> dict[str, Any]:
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    return {"id": "chat", "messages": [message], "trigger": "submit-message", **fields}


async def test_an_answer(serve: Serve, scripted: Scripted, store: str) -> None:
    """It comes as numbered events, under the header by which clients know it, and ends with [DONE]."""
    async with browsing(await serve(provider=SCRIPTED, store=store)) as client:
        async with events(client, "POST", CHAT, json=body(model="theirs")) as stream:
            await until(lambda: scripted.runs)
            assert scripted.last.request.model == "theirs"
            scripted.last.put("one ", "two")
            scripted.last.finish()
            found = await stream.rest()
        assert stream.response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert found[-1].data == "[DONE]"
        assert [event.id for event in found[:-1]] == [str(number) for number in range(len(found) - 1)]
        assert "".join(e.data["delta"] for e in found[:-1] if e.data["type"] == "text-delta") == "one two"
        assert found[-2].data["type"] == "finish"


async def test_a_resume(serve: Serve, scripted: Scripted) -> None:
    """What runs is told from its beginning, or from behind a number; where nothing runs it is 204."""
    async with browsing(await serve(provider=SCRIPTED)) as client:
        assert (await client.get(STREAM)).status_code == 204
        async with events(client, "POST", CHAT, json=body()) as stream:
            await until(lambda: scripted.runs)
            scripted.last.put("one ")
            first = [await stream.next() for _ in range(4)]
        async with events(client, "GET", STREAM) as again:
            assert [await again.next() for _ in range(4)] == first
            async with events(client, "GET", STREAM, headers={"Last-Event-ID": "2"}) as rest:
                assert await rest.next() == first[3]
            scripted.last.finish()
            assert (await again.rest())[-1].data == "[DONE]"
        assert (await client.get(STREAM)).status_code == 204


async def test_an_end_that_nobody_saw(serve: Serve, scripted: Scripted) -> None:
    """An answer that ended while its client was away is there for who comes back, and then not again."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client:
        async with events(client, "POST", CHAT, json=body()) as stream:
            await stream.next()
        await until(lambda: not server.streams.of_session("chat")[0].log.attachments)
        scripted.last.put("all of it")
        scripted.last.finish()
        await until(lambda: server.streams.of_session("chat")[0].log.outcome)
        reply = await client.get(STREAM)
        assert reply.status_code == 200
        assert "all of it" in reply.text
        assert (await client.get(STREAM)).status_code == 204


async def test_a_stop(serve: Serve, scripted: Scripted) -> None:
    """DELETE stops what runs, is told to who follows, and may be said again."""
    async with browsing(await serve(provider=SCRIPTED)) as client:
        async with events(client, "POST", CHAT, json=body()) as stream:
            await stream.next()
            assert (await client.delete(STREAM)).status_code == 204
            assert [event.data for event in (await stream.rest())[-2:]] == [
                {"type": "abort", "reason": "cancelled"},
                "[DONE]",
            ]
        assert (await client.delete(STREAM)).status_code == 204
        assert (await client.get(STREAM)).status_code == 204


async def test_the_same_request_twice(serve: Serve, scripted: Scripted) -> None:
    """A request that is named is one request, however often it is sent."""
    async with browsing(await serve(provider=SCRIPTED)) as client:
        for _ in range(2):
            async with events(client, "POST", CHAT, json=body(requestId="once")) as stream:
                await stream.next()
        assert len(scripted.runs) == 1


@pytest.mark.parametrize(
    ("wrong", "status", "word"),
    [
        ({"messages": []}, 400, "messages"),
        ({"id": "no good id!"}, 400, "id"),
        ({"config": {"provider": "none"}}, 400, "provider"),
        ({"messages": [{"role": "user", "parts": [{"type": "text", "text": "x" * 20_000}]}]}, 422, "10000"),
    ],
)
async def test_a_wrong_request(serve: Serve, wrong: dict[str, Any], status: int, word: str) -> None:
    """The body of a refusal is its message, which the client shows."""
    async with browsing(await serve()) as client:
        reply = await client.post(CHAT, json=body(**wrong))
        assert reply.status_code == status
        assert word in reply.text
        assert not reply.text.startswith("{")


async def test_a_wrong_position(serve: Serve, scripted: Scripted) -> None:
    """A Last-Event-ID that is none is refused."""
    async with (
        browsing(await serve(provider=SCRIPTED)) as client,
        events(client, "POST", CHAT, json=body()) as stream,
    ):
        await stream.next()
        assert (await client.get(STREAM, headers={"Last-Event-ID": "x"})).status_code == 400


async def test_what_was_said(serve: Serve, scripted: Scripted, store: str) -> None:
    """A page that is loaded anew begins with the chat's messages, under the ids that they had, up to now."""
    async with browsing(await serve(provider=SCRIPTED, store=store)) as client:
        assert (await client.get(f"{CHAT}/chat")).json() == {"id": "chat", "messages": [], "more": False}
        async with events(client, "POST", CHAT, json=body()) as stream:
            await until(lambda: scripted.runs)
            scripted.last.put("so ", "far")
            told = [await stream.next() for _ in range(5)]
            assert told[0] is not None
            assert told[4] is not None
            begun = told[0].data
            assert told[4].data["delta"] == "far"
            found = (await client.get(f"{CHAT}/chat")).json()["messages"]
            scripted.last.finish()
            await stream.rest()
        assert [message["id"] for message in found] == ["m1", begun["messageId"]]
        assert [message["parts"] for message in found] == [
            [{"type": "text", "text": "hi"}],
            [{"type": "text", "text": "so far"}],
        ]
        assert found[1]["metadata"] == {"streamId": begun["messageMetadata"]["streamId"], "isComplete": False}


async def test_an_answer_asked_for_again(serve: Serve, scripted: Scripted, store: str) -> None:
    """It takes the place of the first one, and of all that came behind that."""
    async with browsing(await serve(provider=SCRIPTED, store=store)) as client:
        again = body(trigger="regenerate-message")
        other = {"id": "m2", "role": "user", "parts": [{"type": "text", "text": "more"}]}
        for number, asked in enumerate((body(), body(messages=[*body()["messages"], other]), again)):
            async with events(client, "POST", CHAT, json=asked) as stream:
                await until(lambda number=number: len(scripted.runs) > number)  # type: ignore[misc]
                scripted.last.put(f"answer {number}")
                scripted.last.finish()
                await stream.rest()
        found = (await client.get(f"{CHAT}/chat")).json()["messages"]
        assert [[part["text"] for part in message["parts"]] for message in found] == [["hi"], ["answer 2"]]


async def test_a_long_chat(serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read page by page, and only as far back as a page could send it again."""
    monkeypatch.setattr(aisdk_http, "PAGE", 3)
    server = await serve(provider=SCRIPTED, max_ui_message_bytes=1024)
    async with browsing(server) as client:
        for number in range(8):
            message = {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "text": "x" * 100}]}
            async with events(client, "POST", CHAT, json=body(messages=[message])) as stream:
                await until(lambda number=number: len(scripted.runs) > number)  # type: ignore[misc]
                scripted.last.put(f"answer {number}")
                scripted.last.finish()
                await stream.rest()
        found = (await client.get(f"{CHAT}/chat")).json()
        assert found["more"]
        assert [message["id"] for message in found["messages"] if message["role"] == "user"][-2:] == ["m6", "m7"]
        assert 3 < len(found["messages"]) < 16
