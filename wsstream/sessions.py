"""Conversations: who said what, in which order. What an answer says is in its log until it ends, then here too."""

from __future__ import annotations

import secrets
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Collection

from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatMessage, Outcome, Receipt, StreamState
from wsstream.errors import Interrupted
from wsstream.messages import ChatRequested, HistoryMessage, text_of
from wsstream.stores.base import Store, StoredLog, StoredMessage, StreamRecord

RESTARTED = "The server was restarted"

Conversation = Callable[[], Awaitable[list[ChatMessage]]]


class Sessions:
    """The messages of all sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def earlier(self, session_id: str) -> Future[list[StoredMessage]]:
        """What was said up to now."""
        return self._store.history(session_id)

    def begin(self, record: StreamRecord, asked: ChatRequested, earlier: Future[list[StoredMessage]]) -> Conversation:
        """Note a request and the answer to come; gives what waits for the whole conversation, for the provider.

        A request with only a new message continues what is stored. One with a list of messages says itself what was
        said before; of those, the last is noted if it is the user's.
        """
        new = ChatMessage("user", asked.message or "") if asked.messages is None else asked.messages[-1]
        if new.role == "user":
            self._store.save_message(
                StoredMessage(_message_id(), record.session_key, new.role, new.content or "", record.created)
            )
        self._store.save_message(answer_message(record, "", complete=False))

        async def conversation() -> list[ChatMessage]:
            if asked.messages is not None:
                return asked.messages
            return [*_said(await earlier), new]

        return conversation

    def again(self, record: StreamRecord, messages: list[ChatMessage] | None, unheard: Collection[str]) -> Conversation:
        """As `begin`, of a request that was noted before: what was said up to its answer, or ``messages``.

        Args:
            record: of the answer.
            messages: what the request brought.
            unheard: the streams whose answers were not there yet.

        What waits for it raises:
            Interrupted: the session is gone.
        """

        async def conversation() -> list[ChatMessage]:
            if messages is not None:
                return messages
            stored = await self._store.history(record.session_key)
            place = next((n for n, message in enumerate(stored) if message.stream_id == record.stream_id), 0)
            if not place:
                raise Interrupted(RESTARTED)
            return _said([message for message in stored[:place] if message.stream_id not in unheard])

        return conversation

    def end(self, record: StreamRecord, text: str, outcome: Outcome) -> None:
        """Note what an answer said in the end."""
        complete = outcome.state is StreamState.COMPLETE
        self._store.save_message(answer_message(record, text, complete=complete, outcome=outcome))

    async def history(
        self, session_id: str, running: Callable[[str], ChunkLog | None]
    ) -> tuple[list[HistoryMessage], str | None]:
        """The session's messages and its title.

        Args:
            running: the log of a stream that still runs, whose message is as long as its log.
        """
        messages = await self._store.history(session_id)
        session = await self._store.session(session_id)
        return [_shown(message, running) for message in messages], session.title if session else None

    def rename(self, session_id: str, title: str) -> None:
        """Give a session a title."""
        self._store.rename_session(session_id, title)

    def delete(self, session_id: str) -> None:
        """Forget a session's messages."""
        self._store.delete_session(session_id)


def answer_message(
    record: StreamRecord, content: str, *, complete: bool, outcome: Outcome | None = None
) -> StoredMessage:
    """The message of an answer; its id is made from the stream's, so that a renewed one keeps it."""
    return StoredMessage(
        message_id="m_" + record.stream_id.removeprefix("s_"),
        session_id=record.session_key,
        role="assistant",
        content=content,
        created=record.created,
        is_complete=complete,
        stream_id=record.stream_id,
        usage=outcome.usage if outcome else None,
    )


def end_of_interrupted(record: StreamRecord, cancelled: bool, log: StoredLog) -> tuple[Outcome, StoredMessage | None]:
    """How a stream ends that was running when its process was killed, so that it is not "running" for ever."""
    size = len(log.bodies)
    if cancelled:
        receipt = Receipt(generated_chunks=size, delivered_chunk_id=0)
        outcome = Outcome(StreamState.CANCELLED, size, finish_reason="cancelled", receipt=receipt)
    else:
        outcome = Outcome(
            StreamState.INTERRUPTED,
            size,
            error_type="interrupted",
            message=RESTARTED,
            recoverable=True,
            elapsed_seconds=max(0.0, round(time.time() - record.created, 3)),
        )
    if record.note:
        return outcome, None  # it is no answer
    return outcome, answer_message(record, text_of(log.bodies, log.kinds), complete=False, outcome=outcome)


def _said(messages: list[StoredMessage]) -> list[ChatMessage]:
    return [ChatMessage(message.role, message.content) for message in messages if message.content]


def _shown(message: StoredMessage, running: Callable[[str], ChunkLog | None]) -> HistoryMessage:
    log = running(message.stream_id) if message.stream_id is not None else None
    return HistoryMessage(
        id=message.message_id,
        role=message.role,
        content=message.content if log is None else log.text(),
        created=message.created,
        is_complete=message.is_complete,
        stream_id=message.stream_id,
        usage=message.usage,
        last_chunk_id=None if log is None else log.tail,
    )


def _message_id() -> str:
    return "m_" + secrets.token_urlsafe(16)
