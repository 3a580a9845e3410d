"""OpenAI's interface, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, Omit

from tests.answers import until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import HasPort, connected
from tests.wires.http import browsing, events
from wsstream.chunks import ChatMessage, Delta, Finish, Kind, Usage
from wsstream.errors import ContentFiltered, ProviderError, ProviderRateLimited, StreamFailure
from wsstream.messages import rewind_body
from wsstream.providers.names import SERVICES

FAST = "demo:rate=0,tokens=40"
ASK: list[Any] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def asking(server: HasPort, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, pointed here."""
    base = f"http://127.0.0.1:{server.port}/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, timeout=5, **options) as client:
        yield client


def call_deltas() -> list[Delta]:
    lines = [
        {"index": 0, "id": "call_a", "name": "look"},
        {"index": 0, "arguments": '{"at":'},
        {"index": 1, "id": "call_b", "name": "listen"},
        {"index": 0, "arguments": "1}"},
    ]
    return [Delta(json.dumps(line) + "\n", Kind.TOOL_CALL) for line in lines]


async def play(scripted: Scripted, *deltas: Delta, finish: Finish | None = None) -> None:
    """Let the next answer be this."""
    await until(lambda: scripted.runs)
    scripted.last.sink.put(list(deltas))
    scripted.last.finish(finish)


async def test_a_completion(serve: Serve) -> None:
    """Streamed and whole, the client reads the same text, the reason, and what was used."""
    async with asking(await serve()) as client:
        whole = await client.chat.completions.create(model=FAST, messages=ASK)
        stream = await client.chat.completions.create(
            model=FAST, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        headers = stream.response.headers
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 40
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {headers["x-wsstream-stream-id"]}
    assert headers["x-request-id"].startswith("req_")


async def test_usage_comes_only_where_it_was_asked_for(serve: Serve) -> None:
    """Without the option no chunk is without choices."""
    async with asking(await serve()) as client:
        stream = await client.chat.completions.create(model=FAST, messages=ASK, stream=True)
        assert all([chunk.choices async for chunk in stream])


async def test_reasoning_and_tools(serve: Serve, scripted: Scripted) -> None:
    """What a model thinks and calls arrives as the client knows it, streamed and whole; the model got the tools."""
    tools: list[Any] = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    deltas = [Delta("hm", Kind.REASONING), *call_deltas()]
    async with asking(await serve(provider=SCRIPTED)) as client:
        playing = asyncio.create_task(play(scripted, *deltas, finish=Finish("tool_calls")))
        whole = await client.chat.completions.create(model="m", messages=ASK, tools=tools, top_p=0.5)
        await playing
        assert scripted.last.request.options == {"tools": tools, "top_p": 0.5}
        scripted.runs.clear()
        playing = asyncio.create_task(play(scripted, *deltas, finish=Finish("tool_calls")))
        async with client.chat.completions.stream(model="m", messages=ASK) as stream:
            streamed = await stream.get_final_completion()
        await playing
    for answer in (whole, streamed):
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == "tool_calls"
        assert message.content in (None, "")
        assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []] == [  # type: ignore[union-attr]
            ("call_a", "look", '{"at":1}'),
            ("call_b", "listen", ""),
        ]
    assert whole.choices[0].message.reasoning_content == "hm"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ProviderRateLimited(retry_after=3), openai.RateLimitError),
        (ProviderError(), openai.InternalServerError),
        (ContentFiltered(), openai.UnprocessableEntityError),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_failures_raise_what_the_client_knows(
    serve: Serve, scripted: Scripted, failure: StreamFailure, error: type[openai.APIStatusError], streamed: bool
) -> None:
    """A failure before the first chunk is a status, also where a stream was asked for, so that clients try again."""

    async def fail() -> None:
        await until(lambda: scripted.runs)
        scripted.last.fail(failure)

    async with asking(await serve(provider=SCRIPTED, retries=0)) as client:
        failing = asyncio.create_task(fail())
        with pytest.raises(error) as caught:
            await client.chat.completions.create(model="m", messages=ASK, stream=streamed)
        await failing
    assert caught.value.request_id
    assert caught.value.body["message"]  # type: ignore[index]
    advice = caught.value.response.headers.get("x-should-retry")
    assert advice == (None if failure.recoverable else "false"), "clients would ask again in vain"


async def test_clients_do_not_retry_what_is_of_no_use(serve: Serve) -> None:
    """A client with its ordinary retries asks once for what will not be there the next time."""
    base = f"http://127.0.0.1:{(await serve()).port}/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", timeout=5) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="unknown", messages=ASK)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_every_documented_option_reaches_the_provider(serve: Serve, scripted: Scripted) -> None:
    """What the table of options says is passed on is, also where a client of OpenAI's asks."""
    given = {"user": "u", "metadata": {"a": "b"}, "verbosity": "low", "service_tier": "auto", "seed": 1}
    given |= {"prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low", "logit_bias": {"5": 1.0}}
    async with browsing(await serve(provider=SCRIPTED)) as client:
        playing = asyncio.create_task(play(scripted, Delta("x")))
        await client.post("/v1/chat/completions", json={"model": "m", "messages": ASK, **given})
        await playing
    assert scripted.last.request.options == given


async def test_a_failure_in_the_middle(serve: Serve, scripted: Scripted) -> None:
    """Behind the first chunk a failure is an error in the stream, which the client raises."""
    async with asking(await serve(provider=SCRIPTED, retries=0)) as client:
        creating = asyncio.create_task(client.chat.completions.create(model="m", messages=ASK, stream=True))
        await until(lambda: scripted.runs)
        scripted.last.put("part")
        stream = await creating
        text = ""
        while not text:
            text = (await anext(aiter(stream))).choices[0].delta.content or ""
        assert text == "part"
        scripted.last.fail(ProviderError("It refused"))
        with pytest.raises(openai.APIError, match="refused"):
            await anext(aiter(stream))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": []}, 400),
        ({"messages": ASK, "n": 2}, 400),
        ({"messages": "hi"}, 400),
        ({"messages": [{"role": "user", "content": "x" * 10_001}]}, 422),
    ],
)
async def test_requests_that_cannot_be_served(serve: Serve, body: Any, status: int) -> None:
    """They are refused in OpenAI's shape."""
    async with browsing(await serve()) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == status
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"]


async def test_a_completion_goes_on_by_id(serve: Serve) -> None:
    """A cut stream is read on behind the last event's id, in the same shape, and on other wires by the same id."""
    body = {"model": FAST, "messages": ASK, "stream": True}
    async with browsing(await serve()) as client:
        async with events(client, "POST", "/v1/chat/completions", json=body) as stream:
            whole = await stream.rest()
        stream_id = whole[0].data["id"]
        async with events(client, "GET", f"/v1/streams/{stream_id}", headers={"Last-Event-ID": "7"}) as stream:
            rest = await stream.rest()
        async with events(client, "GET", f"/api/streams/{stream_id}", headers={"Last-Event-ID": "39"}) as stream:
            assert [event.data["type"] for event in await stream.rest()] == ["start", "token", "done"]
    assert rest[1:] == whole[8:]
    assert rest[-1].data == "[DONE]"


async def test_models(serve: Serve) -> None:
    """What this server offers is listed: the configured model and the demo's."""
    async with asking(await serve(model="my-model")) as client:
        names = [model.id async for model in client.models.list()]
        assert {"my-model", "demo"} <= set(names)
        assert (await client.models.retrieve("my-model")).id == "my-model"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nothing")


async def test_offered_providers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the models go the providers that a request may name, the default one first; no key, no offer."""
    for service in SERVICES.values():
        if service.key:
            monkeypatch.delenv(service.key, raising=False)
    monkeypatch.setenv("GROQ_API_KEY", "k")
    async with browsing(await serve()) as client:
        offer = (await client.get("/v1/models")).json()["wsstream"]["providers"]
    assert offer == [{"name": "demo", "model": "demo"}, {"name": "groq", "model": SERVICES["groq"].model}]


async def test_a_response(serve: Serve) -> None:
    """Streamed and whole, a response has the text; its events are numbered without a gap and end with the whole."""
    async with asking(await serve()) as client:
        whole = await client.responses.create(model=FAST, input="hi")
        told = [event async for event in await client.responses.create(model=FAST, input="hi", stream=True)]
    assert len(whole.output_text.split()) == 40
    assert whole.status == "completed"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 40
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert [event.type for event in told[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert "".join(e.delta for e in told if e.type == "response.output_text.delta") == whole.output_text
    last = told[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text


@pytest.mark.parametrize("n", [0, 1, 3, 4, 20, 43, 44, 46])
async def test_a_response_goes_on(serve: Serve, n: int) -> None:
    """Behind any ``starting_after`` come exactly the events that were left."""
    async with asking(await serve()) as client:
        told = [event async for event in await client.responses.create(model=FAST, input="hi", stream=True)]
        stream_id = told[0].response.id  # type: ignore[union-attr]
        rest = [event async for event in await client.responses.retrieve(stream_id, stream=True, starting_after=n)]
    assert rest == told[n + 1 :]


async def test_in_the_background(serve: Serve, scripted: Scripted) -> None:
    """It runs without anybody, can be looked at, followed, and cancelled twice."""
    async with asking(await serve(provider=SCRIPTED)) as client:
        begun = await client.responses.create(model="m", input="hi", background=True)
        assert begun.status == "in_progress"
        await until(lambda: scripted.runs)
        scripted.last.put("a", "b")
        stream = await client.responses.retrieve(begun.id, stream=True, starting_after=3)
        deltas = [(await anext(aiter(stream))).delta for _ in range(2)]  # type: ignore[union-attr]
        assert deltas == ["a", "b"]
        for _ in range(2):
            ended = await client.responses.cancel(begun.id)
            assert ended.status == "cancelled"
            assert ended.output_text == "ab"
        assert (await client.responses.retrieve(begun.id)).status == "cancelled"
        await stream.close()


async def test_a_conversation_of_responses(serve: Serve, scripted: Scripted) -> None:
    """A previous response is what was said before, instructions go first, and tools come as the model knows them."""
    tools: list[Any] = [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}]
    async with asking(await serve(provider=SCRIPTED)) as client:
        playing = asyncio.create_task(play(scripted, Delta("one")))
        first = await client.responses.create(model="m", input="hi")
        await playing
        scripted.runs.clear()
        playing = asyncio.create_task(play(scripted, *call_deltas()))
        second = await client.responses.create(
            model="m", input="on", previous_response_id=first.id, instructions="be kind", tools=tools
        )
        await playing
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="m", input="on", previous_response_id="nothing")
    request = scripted.last.request
    assert [said.content for said in request.messages] == ["be kind", "hi", "one", "on"]
    assert request.options["tools"][0]["function"]["name"] == "look"
    assert [(i.type, i.name, i.arguments) for i in second.output] == [  # type: ignore[union-attr]
        ("function_call", "look", '{"at":1}'),
        ("function_call", "listen", ""),
    ]


async def test_the_result_of_a_call_of_a_previous_response(serve: Serve, scripted: Scripted) -> None:
    """It is told behind its call, which the session has; what was thought, and calls without a result, are not told."""
    async with asking(await serve(provider=SCRIPTED)) as client:
        playing = asyncio.create_task(play(scripted, Delta("hm", Kind.REASONING), *call_deltas()))
        first = await client.responses.create(model="m", input="hi")
        await playing
        scripted.runs.clear()
        playing = asyncio.create_task(play(scripted, Delta("two")))
        result: Any = {"type": "function_call_output", "call_id": "call_a", "output": "2"}
        second = await client.responses.create(model="m", input=[result], previous_response_id=first.id)
        await playing
        told = scripted.last.request.messages
        scripted.runs.clear()
        playing = asyncio.create_task(play(scripted, Delta("three")))
        await client.responses.create(model="m", input="on", previous_response_id=second.id)
        await playing
    assert [(said.role, said.content, said.tool_call_id) for said in told] == [
        ("user", "hi", None),
        ("assistant", None, None),
        ("tool", "2", "call_a"),
    ]
    called = {"name": "look", "arguments": '{"at":1}'}
    assert told[1].tool_calls == [{"id": "call_a", "type": "function", "function": called}]
    rest = [ChatMessage("assistant", "two"), ChatMessage("user", "on")]
    assert scripted.last.request.messages == [*told, *rest]


async def test_a_response_that_is_not_stored(serve: Serve) -> None:
    """With ``store`` false nothing is left of it."""
    server = await serve()
    async with asking(server) as client:
        whole = await client.responses.create(model=FAST, input="hi", store=False)
        told = [e async for e in await client.responses.create(model=FAST, input="hi", stream=True, store=False)]
        assert told[-1].type == "response.completed"
        for stream_id in (whole.id, told[-1].response.id):
            with pytest.raises((openai.NotFoundError, openai.APIStatusError)):
                await client.responses.retrieve(stream_id)
    assert server.streams.statistics().retained == 0


@pytest.mark.parametrize(
    "body",
    [
        {"input": []},
        {"input": [{"type": "image"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        {"input": [{"role": "user", "content": 1}]},
        {"input": "hi", "tools": [{"type": "web_search"}]},
        {"input": "hi", "conversation": "conv_1"},
    ],
)
async def test_responses_that_cannot_be_served(serve: Serve, body: Any) -> None:
    """What this server does not do it refuses."""
    async with browsing(await serve()) as client:
        assert (await client.post("/v1/responses", json=body)).status_code == 400


async def test_what_was_withdrawn(serve: Serve, scripted: Scripted) -> None:
    """A rewind is told where there is a way to, and a whole answer has what stands."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client:
        async with events(client, "POST", "/v1/responses", json={"input": "hi", "stream": True}) as stream:
            first = await stream.next()
            assert first is not None
            await until(lambda: scripted.runs)
            scripted.last.put("a", "b")
            log = server.streams.get(first.data["response"]["id"]).log
            await until(lambda: len(log) == 2)
            log.append_bodies([rewind_body(1, "retry")], bytes([Kind.REWIND]))
            scripted.last.put("c")
            scripted.last.finish(Finish("stop", Usage(1, 2)))
            told = await stream.rest()
        rewinds = [event.data for event in told if event.data["type"] == "response.wsstream.rewind"]
        assert [rewind["to_chunk_id"] for rewind in rewinds] == [1]
        assert told[-1].data["response"]["output"][0]["content"][0]["text"] == "ac"
        async with events(client, "GET", f"/v1/streams/{log.stream_id}") as stream:
            found = [e.data["wsstream"] for e in await stream.rest() if e.data != "[DONE]" and "wsstream" in e.data]
        assert found == [{"rewind": {"to_chunk_id": 1, "reason": "retry"}}]


async def test_idempotency(serve: Serve) -> None:
    """The same key with the same body is the same completion."""
    server = await serve()
    headers = {"Idempotency-Key": "k-1", "User-Agent": Omit()}
    async with asking(server) as client:
        ids = {
            (await client.chat.completions.create(model=FAST, messages=ASK, extra_headers=headers)).id for _ in range(2)
        }
        with pytest.raises(openai.ConflictError):
            await client.chat.completions.create(model="demo", messages=ASK, extra_headers=headers)
    assert len(ids) == 1


@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Wsstream-Session-Id"])
async def test_names_in_headers(serve: Serve, header: str) -> None:
    """A request's or a session's name is no longer than max_name_chars, and what is refused is counted."""
    server = await serve(max_name_chars=64)
    async with browsing(server) as client:
        found = []
        for size in (64, 65, 640):
            body = {"model": "demo:rate=0,tokens=2", "messages": ASK}
            found.append(
                (await client.post("/v1/chat/completions", json=body, headers={header: "n" * size})).status_code
            )
    assert found == [200, 400, 400]
    assert server.rejections.statistics()["malformed"] == 2


async def test_a_completion_is_seen_on_the_socket(serve: Serve, scripted: Scripted) -> None:
    """What began here is followed and cancelled there."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client, connected(server) as native:
        body = {"messages": ASK, "stream": True}
        async with events(client, "POST", "/v1/chat/completions", json=body) as stream:
            first = await stream.next()
            assert first is not None
            await native.resume(first.data["id"], 0)
            scripted.last.put("a")
            await native.read(first.data["id"], to=1)
            await native.send("cancel_stream", stream_id=first.data["id"])
            assert (await stream.rest())[-1].data == "[DONE]"


async def test_a_response_is_deleted(serve: Serve, scripted: Scripted, store: str) -> None:
    """One that has ended, and one that runs, which is stopped; then there is none, and it is told in OpenAI's words."""
    server = await serve(provider=SCRIPTED, store=store)
    async with asking(server) as client:
        for ends in (True, False):
            response = await client.responses.create(input="hi", background=True)
            if ends:
                await play(scripted, Delta("yes"), finish=Finish())
                await until(lambda: not list(server.streams.running))
            raw = await client.responses.with_raw_response.delete(response.id)
            assert json.loads(raw.content) == {"id": response.id, "object": "response", "deleted": True}
            with pytest.raises(openai.APIStatusError) as gone:
                await client.responses.retrieve(response.id)
            assert gone.value.status_code == 410
            scripted.runs.clear()
        assert not list(server.streams.running)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete("s_never_was")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/a/b", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/models", 405),
    ],
)
async def test_no_address_answers_in_plain_text(serve: Serve, method: str, path: str, status: int) -> None:
    """What there is not is told as an error of OpenAI's shape."""
    async with browsing(await serve()) as client:
        reply = await client.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] in ("invalid_request_error", "not_found_error")
    assert ("allow" in reply.headers) == (status == 405)
