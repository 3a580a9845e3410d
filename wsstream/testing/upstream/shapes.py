"""What the APIs say: the same answer in the events of chat completions, of Responses, and of Anthropic's Messages."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from wsstream.testing.upstream.server import chunked, whole


def event(fields: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def failure(status: str, body: Any, **headers: str) -> bytes:
    """An answer that is an error, of known length."""
    return whole(json.dumps(body).encode(), status, Content_Type="application/json", **headers)


class Shape(ABC):
    """One answer in the making. Its methods give the bytes of events, to be sent in the order they were made."""

    path: str
    """Where requests go."""

    @abstractmethod
    def begin(self) -> bytes:
        """What stands before the first word."""

    @abstractmethod
    def text(self, text: str) -> bytes:
        """A piece of the answer."""

    @abstractmethod
    def thought(self, text: str) -> bytes:
        """A piece of thinking."""

    @abstractmethod
    def call(self, call_id: str, name: str) -> bytes:
        """The beginning of a tool's call."""

    @abstractmethod
    def arguments(self, text: str) -> bytes:
        """A piece of its arguments."""

    @abstractmethod
    def end(self, reason: str = "stop", given: int = 3, made: int = 2) -> bytes:
        """The end, by the reason's name in chat completions, with the tokens given and made."""

    @abstractmethod
    def error(self, code: str) -> bytes:
        """An error in the middle of the answer."""

    @abstractmethod
    def ping(self) -> bytes:
        """A sign of life that says nothing."""

    def refusal(self, status: str, code: str, **headers: str) -> bytes:
        """A response that is an error."""
        return failure(status, {"error": {"message": "no", "type": code, "code": code}}, **headers)


def said(shape: Shape, *texts: str) -> list[bytes]:
    """A whole answer, in chunks of a chunked body, without the body's end."""
    return [chunked(each) for each in (shape.begin(), *map(shape.text, texts), shape.end())]


# -- chat completions, piece by piece


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """A piece of an answer."""
    content = {} if text is None else {"content": text}
    return event({"id": "c", "choices": [{"index": 0, "delta": {**content, **delta}, "finish_reason": finish}]})


def usage(prompt: int, completion: int) -> bytes:
    """The event that follows the last choice."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def done() -> bytes:
    """The end marker."""
    return b"data: [DONE]\n\n"


# -- whole answers


class Chat(Shape):
    """OpenAI's chat completions."""

    path = "/v1/chat/completions"

    def __init__(self) -> None:
        self._calls = 0

    def begin(self) -> bytes:
        return chunk("", role="assistant")

    def text(self, text: str) -> bytes:
        return chunk(text)

    def thought(self, text: str) -> bytes:
        return chunk(reasoning_content=text)

    def call(self, call_id: str, name: str) -> bytes:
        self._calls += 1
        function = {"name": name, "arguments": ""}
        return chunk(tool_calls=[{"index": self._calls - 1, "id": call_id, "type": "function", "function": function}])

    def arguments(self, text: str) -> bytes:
        return chunk(tool_calls=[{"index": self._calls - 1, "function": {"arguments": text}}])

    def end(self, reason: str = "stop", given: int = 3, made: int = 2) -> bytes:
        return chunk(finish=reason) + usage(given, made) + done()

    def error(self, code: str) -> bytes:
        return event({"error": {"message": "no", "type": code, "code": code}})

    def ping(self) -> bytes:
        return b": ping\n\n"


class Responses(Shape):
    """OpenAI's Responses."""

    path = "/v1/responses"

    def __init__(self) -> None:
        self._number = -1
        self._items = -1
        self._kind = ""

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return b"event: " + kind.encode() + b"\n" + event({"type": kind, "sequence_number": self._number, **fields})

    def _item(self, kind: str, **fields: Any) -> bytes:
        """Begin an item, unless it goes on with the last one."""
        if kind == self._kind and kind != "function_call":
            return b""
        self._kind = kind
        self._items += 1
        item = {"type": kind, "id": f"item_{self._items}", **fields}
        return self._event("response.output_item.added", output_index=self._items, item=item)

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        return {"id": "resp_1", "object": "response", "model": "fake", "status": status, "output": [], **fields}

    def begin(self) -> bytes:
        return self._event("response.created", response=self._response("in_progress")) + self.ping()

    def text(self, text: str) -> bytes:
        begun = self._item("message", role="assistant", content=[])
        return begun + self._event(
            "response.output_text.delta", output_index=self._items, content_index=0, delta=text, logprobs=[]
        )

    def thought(self, text: str) -> bytes:
        begun = self._item("reasoning", summary=[])
        return begun + self._event(
            "response.reasoning_summary_text.delta", output_index=self._items, summary_index=0, delta=text
        )

    def call(self, call_id: str, name: str) -> bytes:
        return self._item("function_call", call_id=call_id, name=name, arguments="")

    def arguments(self, text: str) -> bytes:
        return self._event("response.function_call_arguments.delta", output_index=self._items, delta=text)

    def end(self, reason: str = "stop", given: int = 3, made: int = 2) -> bytes:
        usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
        if reason in ("length", "content_filter"):
            why = {"reason": "max_output_tokens" if reason == "length" else reason}
            ended = self._response("incomplete", usage=usage, incomplete_details=why)
            return self._event("response.incomplete", response=ended)
        return self._event("response.completed", response=self._response("completed", usage=usage))

    def error(self, code: str) -> bytes:
        ended = self._response("failed", error={"code": code, "message": "no"})
        return self._event("response.failed", response=ended)

    def ping(self) -> bytes:
        return self._event("response.in_progress", response=self._response("in_progress"))


_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


class Messages(Shape):
    """Anthropic's Messages."""

    path = "/v1/messages"

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""

    def _event(self, kind: str, **fields: Any) -> bytes:
        return b"event: " + kind.encode() + b"\n" + event({"type": kind, **fields})

    def _block(self, kind: str, **fields: Any) -> bytes:
        """Begin a block, unless it goes on with the last one."""
        if kind == self._kind and kind != "tool_use":
            return b""
        ended = self._stop()
        self._kind = kind
        self._index += 1
        block = {"type": kind, **fields}
        return ended + self._event("content_block_start", index=self._index, content_block=block)

    def _stop(self) -> bytes:
        return self._event("content_block_stop", index=self._index) if self._kind else b""

    def _delta(self, **delta: Any) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def begin(self) -> bytes:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": []}
        usage = {"input_tokens": 3, "output_tokens": 1}
        return self._event("message_start", message={**message, "stop_reason": None, "usage": usage}) + self.ping()

    def text(self, text: str) -> bytes:
        return self._block("text", text="") + self._delta(type="text_delta", text=text)

    def thought(self, text: str) -> bytes:
        begun = self._block("thinking", thinking="", signature="")
        return begun + self._delta(type="thinking_delta", thinking=text)

    def call(self, call_id: str, name: str) -> bytes:
        return self._block("tool_use", id=call_id, name=name, input={})

    def arguments(self, text: str) -> bytes:
        return self._delta(type="input_json_delta", partial_json=text)

    def end(self, reason: str = "stop", given: int = 3, made: int = 2) -> bytes:
        usage = {"input_tokens": given, "output_tokens": made}
        delta = {"stop_reason": _STOPS.get(reason, reason), "stop_sequence": None}
        return self._stop() + self._event("message_delta", delta=delta, usage=usage) + self._event("message_stop")

    def error(self, code: str) -> bytes:
        return self._event("error", error={"type": code, "message": "no"})

    def ping(self) -> bytes:
        return self._event("ping")

    def refusal(self, status: str, code: str, **headers: str) -> bytes:
        return failure(status, {"type": "error", "error": {"type": code, "message": "no"}}, **headers)


SHAPES: dict[str, type[Shape]] = {shape.path: shape for shape in (Chat, Responses, Messages)}
"""By the path of their requests."""
