"""Anthropic's Messages: what is asked, and what is peculiar to its events. The rest is in test_faults.py."""

from __future__ import annotations

from typing import Any

import pytest

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Usage
from wsstream.errors import ProviderError
from wsstream.providers.anthropic import DEFAULT_MAX_TOKENS, AnthropicProvider
from wsstream.providers.names import Prefill
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import CHUNKED, LAST, Messages, Step, chunked, event, playing, said

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


async def asked(request: ChatRequest, prefill: Prefill | None = None) -> dict[str, Any]:
    """What is asked of the upstream."""
    async with playing([Step.REQUEST, CHUNKED, *said(Messages(), "a"), LAST]) as upstream:
        provider = AnthropicProvider("secret", upstream.root, model="m", prefill=prefill)
        await provider.answer(request, ListSink())
        await provider.close()
        assert upstream.seen[0].path == "/v1/messages"
        assert b"secret\r\n" in upstream.seen[0].requests[0].partition(b"\r\n\r\n")[0] + b"\r\n"
        body: dict[str, Any] = upstream.seen[0].body
        return body


async def answered(*events: dict[str, Any]) -> tuple[ListSink, Finish]:
    """What comes of these events."""
    async with playing([Step.REQUEST, CHUNKED, *(chunked(event(e)) for e in events), LAST, Step.HOLD]) as upstream:
        provider = AnthropicProvider("k", upstream.root)
        sink = ListSink()
        try:
            return sink, await provider.answer(ask(), sink)
        finally:
            await provider.close()


STOP = {"type": "message_stop"}


async def test_the_least_that_is_asked() -> None:
    """A plain question is asked for as a stream, with the limit that this API wants, and nothing else."""
    assert await asked(ask("hi")) == {
        "model": "m",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
    }


async def test_what_has_other_names_here() -> None:
    """Settings are translated to the names of this API; those that it does not have are left out."""
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    options = {
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning_effort": "high",
        "top_p": 0.5,
        "stop": "x",
        "user": "u",
        "seed": 1,
    }
    body = await asked(ChatRequest([ChatMessage("user", "q")], "other", 0.5, 7, schema, options))
    del body["messages"]
    assert body == {
        "model": "other",
        "max_tokens": 7,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.5,
        "stop_sequences": ["x"],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({}, None),
    ],
)
async def test_choices_of_tools(options: dict[str, Any], choice: dict[str, Any] | None) -> None:
    """Each way to choose a tool has its counterpart."""
    request = ChatRequest([ChatMessage("user", "q")], options={"tools": [TOOL], **options})
    assert (await asked(request)).get("tool_choice") == choice


async def test_turns_become_blocks() -> None:
    """What the system says stands apart; calls of tools, results and images are blocks; turns alternate."""
    turns = [
        ChatMessage("system", "s"),
        ChatMessage("user", "one"),
        ChatMessage("user", [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]),
        ChatMessage("assistant", None, tool_calls=[CALL]),
        ChatMessage("tool", "42", tool_call_id="c1"),
        ChatMessage("user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
        ChatMessage("developer", "d"),
    ]
    body = await asked(ChatRequest(turns))
    assert body["system"] == [{"type": "text", "text": "s"}, {"type": "text", "text": "d"}]
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one"},
                {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "42"}]},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                },
            ],
        },
    ]


async def test_arguments_that_are_no_json() -> None:
    """A call in the conversation that cannot be translated is refused with words that say so."""
    broken = {"id": "c", "function": {"name": "f", "arguments": "{"}}
    with pytest.raises(ProviderError, match="arguments that are not JSON"):
        await asked(ChatRequest([ChatMessage("assistant", None, tool_calls=[broken])]))


async def test_the_answer_so_far() -> None:
    """A model that takes it goes on behind its answer, without the last space, which the API refuses."""
    request = ChatRequest([ChatMessage("user", "q")], "claude-haiku-4-5", prefix="so far ")
    body = await asked(request, Prefill("assistant", ("claude-*-4-5*",)))
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "so far"}]}


async def test_newer_models_do_not_go_on() -> None:
    """Without the operator's word no model is given a prefix, and with it only those that it names."""
    for prefill in (None, Prefill("assistant", ("claude-*-4-5*",))):
        provider = AnthropicProvider("k", "http://127.0.0.1:9", prefill=prefill)
        assert provider.continues is (prefill is not None)
        assert [provider.suits(model) for model in ("claude-opus-4-5", "claude-opus-4-6")] == [
            prefill is not None,
            False,
        ]
        with pytest.raises(ProviderError, match="cannot go on"):
            await provider.answer(ChatRequest([], "claude-opus-5", prefix="a"), ListSink())
        await provider.close()


@pytest.mark.parametrize(
    ("said_reason", "told"),
    [
        *[("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("pause_turn", "length")],
        *[("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter")],
        *[("something_new", "stop"), (None, "stop")],
    ],
)
async def test_stop_reasons(said_reason: str | None, told: str) -> None:
    """Only the reasons of the protocol are told."""
    _, finish = await answered({"type": "message_delta", "delta": {"stop_reason": said_reason}}, STOP)
    assert finish.reason == told


async def test_all_input_counts() -> None:
    """Tokens from the cache and to it are input, too; later counts replace earlier ones."""
    given = {"input_tokens": 1, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 300, "output_tokens": 1}
    _, finish = await answered(
        {"type": "message_start", "message": {"usage": given}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        STOP,
    )
    assert finish.usage == Usage(321, 9, cached_tokens=20)


async def test_a_stop_reason_alone_is_no_end() -> None:
    """Without message_stop an answer was cut off, even if it said why it would stop."""
    with pytest.raises(Exception, match="broke off"):
        await answered({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})


async def test_only_tools_of_ours_are_calls() -> None:
    """What the provider's own tools are given is nobody's business here; text of a block's beginning is not lost."""
    events: list[dict[str, Any]] = [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "server_tool_use", "id": "s", "name": "w"},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "a"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": {}}},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_delta", "index": 3, "delta": {"type": "signature_delta", "signature": "x"}},
        {"type": "something_new"},
    ]
    sink, _ = await answered(*events, STOP)
    assert sink.deltas == [
        Delta("a"),
        Delta("b"),
        Delta('{"index":0,"id":"t","name":"f"}\n', Kind.TOOL_CALL),
        Delta('{"index":0,"arguments":"{}"}\n', Kind.TOOL_CALL),
    ]
