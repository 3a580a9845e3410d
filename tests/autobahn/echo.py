"""The real server, but that its WebSockets send back what they receive: what Autobahn's cases are run against.

``python -m tests.autobahn.echo`` prints its port. Sockets, handshake, frames and the way of short ones are those of
`wsstream.connection`; only what the messages mean is another. The shipped server has no such route.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "70000"  # read when the library is imported

import uvloop
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from wsstream.config import Config
from wsstream.connection import NativeConnection
from wsstream.errors import CloseCode
from wsstream.server import Server, serve
from wsstream.wires.base import Visitor
from wsstream.wires.hub import Hub


class Echo:
    """In place of the dialogue."""

    session_id = session_key = access = user_id = round_trip = None
    closing = False
    attachments: dict[str, Any] = {}  # noqa: RUF012
    messages_received = bytes_sent = 0

    def __init__(self, line: EchoConnection) -> None:
        self._line = line
        self._answers: list[bytes] = []

    def receive(self, data: bytes) -> None:
        """Send a text back."""
        try:
            data.decode()
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_DATA, "not UTF-8")
            return
        self.answer(Opcode.TEXT, data)

    def answer(self, opcode: Opcode, data: bytes) -> None:
        """Have a message sent, like a dialogue's, at the end of the loop's turn."""
        if not self._answers:
            self._line.hub.flusher.mark(self)
        self._answers.append(Frame(opcode, data).serialize(mask=False))

    def flush(self) -> None:
        """Send what there is to send."""
        answers, self._answers = self._answers, []
        self._line.write_anyway(b"".join(answers))

    def close(self, code: int, reason: str) -> None:
        """Close."""
        self.flush()
        self.closing = True
        self._line.say_close(code, reason)

    def on_broken(self) -> None:
        """Show it: a case fails."""
        self.close(CloseCode.INTERNAL_ERROR, "broken")

    def receive_life(self) -> None:
        """A ping or pong."""

    def carry_out(self) -> None:
        """Everything is sent already."""

    on_unpaused = end = carry_out


class EchoConnection(NativeConnection):
    """A connection that takes binary messages too."""

    _kind = Opcode.TEXT

    @property
    def hub(self) -> Hub:
        """What the connections share."""
        return self._hub

    def _open(self, request: Request, visitor: Visitor) -> None:
        self._dialogue = Echo(self)

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._kind = frame.opcode
        if self._kind is not Opcode.BINARY or frame.opcode not in (Opcode.BINARY, Opcode.CONT):
            super()._on_frame(frame)
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            self._dialogue.answer(Opcode.BINARY, b"".join(self._fragments))
            self._fragments.clear()


class EchoServer(Server):
    """The server with such connections."""

    def connect(self, **_: Any) -> asyncio.Protocol:
        return EchoConnection(self.assembly.hub)


def main() -> None:
    """Serve until SIGTERM."""
    config = Config(
        port=0,
        store="memory:",
        provider="demo",
        metrics_port=0,
        max_message_bytes=64 * 1024 * 1024,
        max_fragments=70_000,
        max_control_bytes=64 * 1024 * 1024,
        drain_timeout=0.1,
    )
    uvloop.run(serve(config, lambda server: print(server.port, flush=True), EchoServer))


if __name__ == "__main__":
    main()
