"""OpenAI's Responses: what is asked, and what is peculiar to its events. The rest is in test_faults.py."""

from __future__ import annotations

from typing import Any

import pytest

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Usage
from wsstream.errors import ProviderError
from wsstream.providers.responses import ResponsesProvider
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import CHUNKED, LAST, Responses, Step, chunked, event, playing, said

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


async def asked(request: ChatRequest) -> dict[str, Any]:
    """What is asked of the upstream."""
    async with playing([Step.REQUEST, CHUNKED, *said(Responses(), "a"), LAST]) as upstream:
        provider = ResponsesProvider("k", upstream.url, model="m")
        await provider.answer(request, ListSink())
        await provider.close()
        assert upstream.seen[0].path == "/v1/responses"
        body: dict[str, Any] = upstream.seen[0].body
        return body


async def answered(*events: bytes) -> tuple[ListSink, Finish]:
    """What comes of these events."""
    async with playing([Step.REQUEST, CHUNKED, *map(chunked, events), LAST, Step.HOLD]) as upstream:
        provider = ResponsesProvider("k", upstream.url, model="m")
        sink = ListSink()
        try:
            return sink, await provider.answer(ask(), sink)
        finally:
            await provider.close()


def completed(**response: Any) -> bytes:
    """The good end."""
    return event({"type": "response.completed", "response": response})


async def test_the_least_that_is_asked() -> None:
    """A plain question is asked for as a stream that is not stored, and with nothing that was not said."""
    assert await asked(ask("hi")) == {
        "model": "m",
        "input": [{"role": "user", "content": "hi"}],
        "stream": True,
        "store": False,
    }


async def test_what_has_other_names_here() -> None:
    """Settings are translated to the names of this API; those that it does not have are left out."""
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    options = {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "reasoning_effort": "low",
        "verbosity": "low",
        "top_p": 0.5,
        "parallel_tool_calls": False,
        "stop": ["x"],
        "seed": 1,
    }
    body = await asked(ChatRequest([ChatMessage("user", "q")], "other", 0.5, 7, schema, options))
    del body["input"]
    assert body == {
        "model": "other",
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "max_output_tokens": 7,
        "top_p": 0.5,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "text": {
            "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            "verbosity": "low",
        },
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
    }


async def test_turns_become_items() -> None:
    """Parts, images, calls of tools and their results are items of input."""
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    turns = [
        ChatMessage("system", "s"),
        ChatMessage("user", [{"type": "text", "text": "t"}, image]),
        ChatMessage("assistant", [{"type": "text", "text": "so"}], tool_calls=[CALL]),
        ChatMessage("tool", "42", tool_call_id="c1"),
    ]
    assert (await asked(ChatRequest(turns)))["input"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "t"},
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
            ],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    ]


async def test_the_answer_so_far_has_no_place() -> None:
    """This API cannot go on behind an answer."""
    provider = ResponsesProvider("k", "http://127.0.0.1:9/v1")
    assert provider.continues is False
    with pytest.raises(ProviderError, match="cannot go on"):
        await provider.answer(ChatRequest([], "m", prefix="a"), ListSink())
    await provider.close()


async def test_openai_is_asked_for_no_padding() -> None:
    """As with chat completions, only where it exists."""
    provider = ResponsesProvider("k")
    assert provider._body(ask(), "m")["stream_options"] == {"include_obfuscation": False}
    await provider.close()


async def test_parts_of_a_summary_are_paragraphs() -> None:
    """Parts of a thinking model's summary are set apart."""
    events = [
        {"type": "response.reasoning_summary_part.added", "summary_index": 0},
        {"type": "response.reasoning_summary_text.delta", "delta": "one"},
        {"type": "response.reasoning_summary_part.added", "summary_index": 1},
        {"type": "response.reasoning_text.delta", "delta": "two"},
    ]
    sink, _ = await answered(*map(event, events), completed())
    assert sink.reasoning == "one\n\ntwo"


async def test_a_refusal_is_text_and_a_reason() -> None:
    """What a model says when it refuses is shown, and the end says that it did."""
    sink, finish = await answered(event({"type": "response.refusal.delta", "delta": "no"}), completed())
    assert (sink.text, finish.reason) == ("no", "content_filter")


async def test_arguments_that_come_at_the_end_only() -> None:
    """Arguments that a server sends whole are not lost, and those that came in pieces not repeated."""
    added = {"type": "response.output_item.added", "output_index": 0}
    whole = {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"a": 1}'}
    item = {"type": "function_call", "call_id": "c", "name": "f"}
    pieces = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a": 1}'}
    for events in ([whole], [pieces, whole]):
        sink, finish = await answered(*map(event, [{**added, "item": item}, *events]), completed())
        assert finish.reason == "tool_calls"
        assert [delta.content for delta in sink.deltas] == [
            '{"index":0,"id":"c","name":"f"}\n',
            '{"index":0,"arguments":"{\\"a\\": 1}"}\n',
        ]


async def test_tokens_in_detail() -> None:
    """Tokens of thinking and of the cache are told."""
    usage = {
        "input_tokens": 9,
        "output_tokens": 5,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens_details": {"reasoning_tokens": 4},
    }
    _, finish = await answered(completed(usage=usage))
    assert finish.usage == Usage(9, 5, 4, 8)


def numbered(*numbers: int) -> list[bytes]:
    """Pieces of text that say their place, with these numbers."""
    kind = "response.output_text.delta"
    return [event({"type": kind, "delta": chr(97 + n), "sequence_number": n}) for n in numbers]


async def test_an_event_that_comes_twice_counts_once() -> None:
    """A repetition of the last event is left out."""
    sink, _ = await answered(*numbered(0, 1, 2, 2, 3), completed())
    assert sink.text == "abcd"


async def test_an_event_that_is_missing_is_missed() -> None:
    """A gap in the numbers ends the answer: a text with a hole is worse than none."""
    with pytest.raises(ProviderError, match="left out a part") as raised:
        await answered(*numbered(0, 1, 2, 4), completed())
    assert raised.value.recoverable


@pytest.mark.parametrize("numbers", [(0, 0, 0), (5, 9, 2, 7), (0, 1, 2, 0, 1, 2), (2, 1, 0)])
async def test_numbers_that_are_none_are_ignored(numbers: tuple[int, ...]) -> None:
    """A server that numbers in a way of its own loses no text by it."""
    kind = "response.output_text.delta"
    events = [event({"type": kind, "delta": str(place), "sequence_number": n}) for place, n in enumerate(numbers)]
    sink, _ = await answered(*events, completed())
    assert sink.deltas == [Delta(str(place)) for place in range(len(numbers))]


async def test_the_other_apis_marker_is_no_end() -> None:
    """A marker of chat completions is neither an end nor an error here."""
    sink, finish = await answered(*numbered(0), b"data: [DONE]\n\n", completed())
    assert (sink.text, finish.reason) == ("a", "stop")


async def test_events_nobody_knows_are_ignored() -> None:
    """New kinds of events do no harm."""
    sink, _ = await answered(
        event({"type": "response.web_search_call.searching", "output_index": 0}),
        event({"type": "response.output_item.added", "item": {"type": "web_search_call"}}),
        event({"type": "response.output_text.delta", "delta": "a", "logprobs": [1]}),
        event({"type": "something.new", "payload": {"x": 1}}),
        completed(),
    )
    assert sink.deltas == [Delta("a", Kind.TEXT)]


async def test_an_error_on_its_own() -> None:
    """An error event that is none of the answer's events ends it, too."""
    with pytest.raises(ProviderError) as raised:
        await answered(*numbered(0), event({"type": "error", "code": "server_error", "message": "x"}))
    assert (raised.value.recoverable, raised.value.upstream_code) == (True, "server_error")
