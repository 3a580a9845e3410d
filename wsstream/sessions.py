"""Conversations: who said what, in which order. What an answer says is in its log until it ends, then here too."""

from __future__ import annotations

import secrets
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import msgspec

from wsstream.chunklog import ChunkLog
from wsstream.chunks import PAGE, PAGE_BYTES, ChatMessage, Outcome, Receipt, StreamState
from wsstream.errors import BadRequest, Interrupted
from wsstream.messages import ChatRequested, HistoryMessage
from wsstream.rejections import Clamp
from wsstream.said import KEEP, Keep, Said, conversation, fitting, said_of
from wsstream.stores.base import Store, StoredLog, StoredMessage, StreamRecord, untold

RESTARTED = "The server was restarted"

Conversation = Callable[[], Awaitable[list[ChatMessage]]]


class HistoryPage(NamedTuple):
    """Some messages of a session, oldest first."""

    messages: list[HistoryMessage]
    title: str | None
    more: bool
    """Whether there are older ones."""


class Sessions:
    """The messages of all sessions."""

    def __init__(
        self,
        store: Store,
        page_bytes: int = PAGE_BYTES,
        keep: Keep = KEEP,
        clamped: Callable[[Clamp], None] = lambda _: None,
    ) -> None:
        """The sessions in a store.

        Args:
            page_bytes: of the messages in one page, unless there is only one.
            keep: what is kept of answers.
            clamped: told of each of which less was kept than there was.
        """
        self._store = store
        self._keep = keep
        self._clamped = clamped
        self._page_bytes = page_bytes

    def earlier(self, session_id: str) -> Future[list[StoredMessage]]:
        """What was said up to now."""
        return self._store.history(session_id)

    def begin(
        self,
        record: StreamRecord,
        asked: ChatRequested,
        earlier: Future[list[StoredMessage]],
        client_id: str | None = None,
    ) -> Conversation:
        """Note a request and the answer to come; gives what waits for the whole conversation, for the provider.

        A request with only a new message continues what is stored. One with a list of messages says itself what was
        said before; of those, the last is noted if it is the user's, or the results of tools that are last. What the
        user says has ``client_id``, if its client calls it something.
        """
        messages = asked.messages
        new = [ChatMessage("user", asked.message or "")] if messages is None else _news(messages)
        for message in new:
            self._store.save_message(_noted(record, message, client_id))
        self._store.save_message(answer_message(record, Said(), complete=False))

        async def whole() -> list[ChatMessage]:
            return conversation(await earlier, new) if messages is None else messages

        return whole

    def again(self, record: StreamRecord, messages: list[ChatMessage] | None, unheard: Collection[str]) -> Conversation:
        """As `begin`, of a request that was noted before: what was said up to its answer, or ``messages``.

        Args:
            record: of the answer.
            messages: what the request brought.
            unheard: the streams whose answers were not there yet.

        What waits for it raises:
            Interrupted: the session is gone.
        """

        async def whole() -> list[ChatMessage]:
            if messages is not None:
                return messages
            stored = await self._store.history(record.session_key)
            place = next((n for n, message in enumerate(stored) if message.stream_id == record.stream_id), 0)
            if not place:
                raise Interrupted(RESTARTED)
            return conversation([message for message in stored[:place] if message.stream_id not in unheard], [])

        return whole

    def end(self, record: StreamRecord, said: Said, outcome: Outcome) -> None:
        """Note what an answer said in the end."""
        complete = outcome.state is StreamState.COMPLETE
        said = said.kept(self._keep)
        if said.cut:
            self._clamped(Clamp.KEPT)
        self._store.save_message(answer_message(record, said, complete=complete, outcome=outcome))

    async def history(
        self, session_id: str, running: Callable[[str], ChunkLog | None]
    ) -> tuple[list[HistoryMessage], str | None]:
        """The session's messages and its title.

        Args:
            running: the log of a stream that still runs, whose message is as long as its log.
        """
        messages = await self._store.history(session_id)
        session = await self._store.session(session_id)
        return [self._shown(message, running) for message in messages], session.title if session else None

    async def page(
        self, session_id: str, before: str | None, limit: int | None, running: Callable[[str], ChunkLog | None]
    ) -> HistoryPage:
        """The session's newest messages that are older than ``before``, as many as fit, and its title.

        Raises:
            BadRequest: there is no message of that id.
        """
        # What is shown may be shorter than what is stored, which has longer names for its session: so twice a page.
        found = await self._store.page(session_id, before, limit or PAGE, 2 * self._page_bytes)
        if found is None:
            raise BadRequest("before: the session has no such message")
        session = await self._store.session(session_id)
        messages = fitting([self._shown(message, running) for message in found.messages], self._page_bytes)
        more = found.more or len(messages) < len(found.messages)
        return HistoryPage(list(messages), session.title if session else None, more)

    def _shown(self, message: StoredMessage, running: Callable[[str], ChunkLog | None]) -> HistoryMessage:
        log = running(message.stream_id) if message.stream_id is not None else None
        return _told(message) if log is None else _told_so_far(message, log, log.said().kept(self._keep))

    def rename(self, session_id: str, title: str, told: Callable[[bool], None] = untold) -> None:
        """Give a session a title; ``told`` is called when that is stored, with whether there is such a session."""
        self._store.rename_session(session_id, title, told)

    def delete(self, session_id: str, deleted: Callable[[], None] = untold) -> None:
        """Forget a session's messages; ``deleted`` is called when that is stored."""
        self._store.delete_session(session_id, deleted)


def answer_message(
    record: StreamRecord, said: Said, *, complete: bool, outcome: Outcome | None = None
) -> StoredMessage:
    """The message of an answer; its id is made from the stream's, so that a renewed one keeps it."""
    return StoredMessage(
        message_id="m_" + record.stream_id.removeprefix("s_"),
        session_id=record.session_key,
        role="assistant",
        content=said.text,
        created=record.created,
        is_complete=complete,
        stream_id=record.stream_id,
        usage=outcome.usage if outcome else None,
        reasoning=said.reasoning or None,
        tool_calls=list(said.tool_calls) or None,
    )


def end_of_interrupted(
    record: StreamRecord, cancelled: bool, log: StoredLog, retries: int = 0, keep: Keep = KEEP
) -> tuple[Outcome, StoredMessage | None]:
    """How a stream ends that was running when its process was killed, so that it is not "running" for ever.

    ``retries`` are the tries after the first that are known of, ``keep`` what is kept of what it said.
    """
    size = len(log.bodies)
    if cancelled:
        receipt = Receipt(generated_chunks=size, delivered_chunk_id=0)
        outcome = Outcome(StreamState.CANCELLED, size, finish_reason="cancelled", receipt=receipt, retry_count=retries)
    else:
        outcome = Outcome(
            StreamState.INTERRUPTED,
            size,
            error_type="interrupted",
            message=RESTARTED,
            recoverable=True,
            elapsed_seconds=max(0.0, round(time.time() - record.created, 3)),
            retry_count=retries,
        )
    if record.note:
        return outcome, None  # it is no answer
    return outcome, answer_message(record, said_of(log.bodies, log.kinds).kept(keep), complete=False, outcome=outcome)


def _news(messages: list[ChatMessage]) -> list[ChatMessage]:
    """What a request says that the session does not know: what the user says, or the results of the tools."""
    begin = len(messages)
    while begin and messages[begin - 1].role == "tool":
        begin -= 1
    return messages[begin:] or [message for message in messages[-1:] if message.role == "user"]


def _noted(record: StreamRecord, message: ChatMessage, client_id: str | None) -> StoredMessage:
    return StoredMessage(
        _message_id(),
        record.session_key,
        message.role,
        message.content or "",
        record.created,
        tool_call_id=message.tool_call_id,
        client_id=client_id if message.role == "user" else None,
    )


def _told(message: StoredMessage) -> HistoryMessage:
    return HistoryMessage(
        id=message.message_id,
        role=message.role,
        content=message.content,
        created=message.created,
        is_complete=message.is_complete,
        stream_id=message.stream_id,
        usage=message.usage,
        reasoning=message.reasoning,
        tool_calls=message.tool_calls,
        tool_call_id=message.tool_call_id,
        client_id=message.client_id,
    )


def _told_so_far(message: StoredMessage, log: ChunkLog, said: Said) -> HistoryMessage:
    return msgspec.structs.replace(
        _told(message),
        content=said.text,
        last_chunk_id=log.tail,
        reasoning=said.reasoning or None,
        tool_calls=list(said.tool_calls) or None,
    )


def _message_id() -> str:
    return "m_" + secrets.token_urlsafe(16)
