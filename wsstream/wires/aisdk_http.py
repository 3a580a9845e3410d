"""The AI SDK over HTTP: what `useChat` speaks without being told otherwise (`DefaultChatTransport`, AI SDK 5 to 7).

The UI message stream comes as server-sent events, numbered from 0 on; a chat is a session, and a response that was cut
off is asked for by the chat's id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from starlette.responses import PlainTextResponse, Response

from wsstream.chunks import Outcome
from wsstream.config import Config
from wsstream.errors import BadRequest, RequestError, WsstreamError
from wsstream.messages import HistoryMessage, SessionChanged, encode
from wsstream.registry import Registry
from wsstream.wires.aisdk import resumable
from wsstream.wires.base import StreamLike
from wsstream.wires.http import (
    STREAM_HEADERS,
    Call,
    Endpoint,
    LogResponse,
    json_response,
    read_json,
    retry_after,
    status_of,
)
from wsstream.wires.reader import Span
from wsstream.wires.uimessages import Asked, translate, ui_messages
from wsstream.wires.uistream import UiStream

UI_STREAM = {"x-vercel-ai-ui-message-stream": "v1"}
PAGE = 1000
"""Messages that are read from the store at once."""


class UiEvents:
    """One stream as UI message chunks; ``skip`` of them are not told."""

    def __init__(self, ui: UiStream, skip: int = 0) -> None:
        self._ui = ui
        self._skip = skip
        self._next = 0

    def begin(self) -> bytes:
        """The message begins."""
        return self._events(self._ui.begin())

    def span(self, span: Span) -> bytes:
        """What these chunks are."""
        return self._events(chunk for entry in span.entries() for chunk in self._ui.take(*entry))

    def end(self, outcome: Outcome) -> bytes:
        """How it ended, and that nothing follows."""
        return self._events(self._ui.end(outcome)) + b"data: [DONE]\n\n"

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b":\n\n"

    def refuse(self, error: RequestError) -> bytes:
        """An error, without an id: whoever comes back goes on behind what has a number."""
        told = {"type": "error", "errorText": str(error)}
        return b"data: %b\n\ndata: [DONE]\n\n" % encode(told)

    def _events(self, chunks: Iterable[bytes]) -> bytes:
        told = []
        for number, chunk in enumerate(chunks, self._next):
            self._next = number + 1
            if number >= self._skip:
                told.append(b"id: %d\ndata: %b\n\n" % (number, chunk))
        return b"".join(told)


class Chats:
    """The endpoints."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._max_body = config.max_body_bytes
        self._max_history = config.max_ui_message_bytes
        self._heartbeat = min(15.0, config.heartbeat_interval)
        self._registry = registry

    async def send(self, call: Call) -> Response:
        """``POST /api/ai/chat``: an answer, as it comes."""
        asked = await read_json(call.request, Asked, self._max_body)
        turn = translate(asked, asked.request_id or "r_" + secrets.token_urlsafe(16))
        known = call.streams.is_known(turn.session_id, turn.asked.request_id)
        stream = call.streams.start(turn.session_id, turn.asked, client_id=turn.client_id)
        if not known:
            begun = SessionChanged(session_id=turn.session_id, stream_id=stream.stream_id)
            key = call.streams.session_key(turn.session_id)
            stream.when_stored(lambda: self._registry.tell_session_changed(key, begun, besides=""))
        return self._tell(call, stream, UiEvents(UiStream(stream, turn.continues)))

    async def resume(self, call: Call) -> Response:
        """``GET /api/ai/chat/{id}/stream``: the answer that runs, from its beginning; 204 where there is none.

        One that has ended is told where nobody has read it to its end. With ``Last-Event-ID`` only what is behind that.
        """
        stream = resumable(call.streams, call.request.path_params["id"], ended=False)
        if stream is None:
            return Response(status_code=204, headers=STREAM_HEADERS)
        return self._tell(call, stream, UiEvents(UiStream(stream), _skip(call)))

    async def stop(self, call: Call) -> Response:
        """``DELETE /api/ai/chat/{id}/stream``: stop what runs; 204, also where nothing does.

        A client of HTTP can only leave, which may be the network's doing as well; so a stop has its own request.
        """
        chat_id = call.request.path_params["id"]
        for stream in call.streams.of_session(chat_id):
            if not stream.log.state.final:
                call.streams.cancel(stream)
        return Response(status_code=204, headers=STREAM_HEADERS)

    async def history(self, call: Call) -> Response:
        """``GET /api/ai/chat/{id}``: what was said, as UI messages; what a page begins with.

        As much of it as such a page could send back, the newest: ``more`` says whether there is more.
        """
        chat_id = call.request.path_params["id"]
        found: list[HistoryMessage] = []
        size, before, more = 0, None, True
        while more and size < self._max_history:
            page = await call.streams.page(chat_id, before, PAGE)
            found[:0] = page.messages
            size += sum(len(encode(message)) for message in page.messages)
            before, more = (found[0].id if found else None), page.more
        return json_response({"id": chat_id, "messages": ui_messages(found), "more": more})

    def _tell(self, call: Call, stream: StreamLike, script: UiEvents) -> Response:
        headers = {**UI_STREAM, "X-Wsstream-Stream-Id": stream.stream_id}
        return LogResponse(call.streams, stream, script, heartbeat=self._heartbeat, headers=headers)


def _skip(call: Call) -> int:
    text = call.request.headers.get("last-event-id")
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 17):
        raise BadRequest("Last-Event-ID must be the id of an event of this stream")
    return int(text) + 1


def refuse(error: WsstreamError) -> Response:
    """An error as the AI SDK shows it: the body is the message."""
    return PlainTextResponse(str(error), status_of(error), {**STREAM_HEADERS, **retry_after(error.retry_after)})


def endpoints(config: Config, registry: Registry) -> list[Endpoint]:
    """The wire's addresses."""
    chats = Chats(config, registry)
    return [
        Endpoint("POST", "/api/ai/chat", chats.send, refuse),
        Endpoint("GET", "/api/ai/chat/{id}", chats.history, refuse),
        Endpoint("GET", "/api/ai/chat/{id}/stream", chats.resume, refuse),
        Endpoint("DELETE", "/api/ai/chat/{id}/stream", chats.stop, refuse),
    ]
