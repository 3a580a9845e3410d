"""Where a dialogue's messages go, and what the registry is told of it whatever carries them."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Protocol

from wsstream.messages import SessionChanged
from wsstream.registry import ConnectionInfo, Member


class Line(Member, Protocol):
    """Where a dialogue's messages go: a connection. Nothing here ever blocks or raises."""

    paused: bool
    """Whether the client does not read: chunks wait in their logs meanwhile."""

    def write(self, data: bytes) -> None:
        """Send frames."""

    def write_anyway(self, data: bytes) -> None:
        """Send frames that do not wait for a client that does not read; one that provokes too many is cut off."""

    def keep_short(self, short: bool) -> None:
        """Because several streams wait for each other, count as `paused` when little is under way; or when much is.

        What was written cannot be taken back, and nothing can pass it. A line that cannot tell how much is under way
        may ignore this.
        """

    def say_close(self, code: int, reason: str) -> None:
        """Close; nothing is written any more."""


class Speaker(Protocol):
    """A dialogue, as its line sees it when the registry asks."""

    messages_received: int
    user_id: str | None

    @property
    def attachments(self) -> Sized: ...

    @property
    def bytes_sent(self) -> int: ...

    @property
    def round_trip(self) -> float | None: ...

    @property
    def session_id(self) -> str | None: ...

    @property
    def session_key(self) -> str | None: ...

    @property
    def access(self) -> object: ...

    def close(self, code: int, reason: str) -> None: ...

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None: ...

    def tell_session_changed(self, change: SessionChanged) -> None: ...


class DialogueLine(ABC):
    """A `Line` of which everything that the registry wants to know is its dialogue's to say."""

    __slots__ = ("_connected_at", "_dialogue", "connection_id")

    def __init__(self) -> None:
        self._dialogue: Speaker | None = None
        """None until it is known what is spoken here."""
        self._connected_at = time.time()
        self.connection_id = "c_" + secrets.token_urlsafe(16)

    @abstractmethod
    def _abort(self) -> None:
        """End at once."""

    @abstractmethod
    def _where(self) -> str:
        """Where the client is."""

    def _close_code(self) -> int | None:
        """With which the WebSocket was closed, when it is."""
        return None

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        if self._dialogue is None:
            self._abort()
        else:
            self._dialogue.close(code, reason)

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None:
        """Announce the end of this server."""
        if self._dialogue is not None:
            self._dialogue.go_away(deadline_ms, reconnect_after_ms)

    def tell_session_changed(self, change: SessionChanged) -> None:
        """Somebody else has changed this connection's session."""
        if self._dialogue is not None:
            self._dialogue.tell_session_changed(change)

    @property
    def session_id(self) -> str | None:
        """The session that its client has named, or was given."""
        return None if self._dialogue is None else self._dialogue.session_id

    @property
    def session_key(self) -> str | None:
        """The name of that session among everybody's."""
        return None if self._dialogue is None else self._dialogue.session_key

    @property
    def access(self) -> object:
        """What the gate has handed out to its client; None before that."""
        return None if self._dialogue is None else self._dialogue.access

    def statistics(self) -> ConnectionInfo:
        """What is known of this connection."""
        dialogue = self._dialogue
        return ConnectionInfo(
            connection_id=self.connection_id,
            session_id=self.session_id,
            user_id=None if dialogue is None else dialogue.user_id,
            remote=self._where(),
            connected_at=self._connected_at,
            streams=0 if dialogue is None else len(dialogue.attachments),
            messages_received=0 if dialogue is None else dialogue.messages_received,
            bytes_sent=0 if dialogue is None else dialogue.bytes_sent,
            round_trip=None if dialogue is None else dialogue.round_trip,
            close_code=self._close_code(),
        )
