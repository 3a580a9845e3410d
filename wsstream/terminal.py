"""``python -m wsstream chat``: answers on stdout as they come, everything else in short lines on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from wsstream import messages as m
from wsstream.chunks import StreamState
from wsstream.client import ChatStream, Client, ClientEvent, Lost, connect
from wsstream.client_protocol import Piece, Resumed, Told
from wsstream.errors import ConnectionFailed, WsstreamError

INTERRUPTED = 130
"""The exit status of what Ctrl-C ended: 128 and the signal's number, as shells have it."""


async def chat(url: str, prompt: str | None, model: str | None, session: str | None, token: str | None = None) -> int:
    """Ask ``prompt``, or without one hold a conversation: a question a line, until the end of stdin.

    What was said before in ``session`` the server knows, and tells the model.
    Ctrl-C cancels the running answer; once more, or where none runs, it leaves. The exit status: 0 answered,
    1 failed, 130 cancelled.
    """
    screen = _Screen()
    interrupts = _Interrupts()
    try:
        with interrupts.handled():
            async with connect(url, token=token, session_id=session, on_event=screen.on_event) as client:
                talk = _Talk(client, model, screen, interrupts)
                return await (talk.ask_once(prompt) if prompt is not None else talk.converse())
    except asyncio.CancelledError:
        if not interrupts.left:
            raise
        return INTERRUPTED
    except WsstreamError as error:
        screen.notice(str(error))
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`). What Python flushes at its exit must find somebody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Talk:
    """Questions and answers."""

    def __init__(self, client: Client, model: str | None, screen: _Screen, interrupts: _Interrupts) -> None:
        self._client = client
        self._model = model
        self._screen = screen
        self._interrupts = interrupts

    async def ask_once(self, question: str) -> int:
        """Ask; the exit status.

        Raises:
            WsstreamError: there is no answer.
        """
        return INTERRUPTED if await self._ask(question) else 0

    async def converse(self) -> int:
        """Ask what stdin says, line by line. A failed answer ends nothing, a failed connection does."""
        lines = _read_lines()
        while (line := await self._next_line(lines)) is not None:
            if not line.strip():
                continue
            try:
                await self._ask(line)
            except ConnectionFailed:
                raise
            except WsstreamError as error:
                self._screen.notice(str(error))
        return 0

    async def _next_line(self, lines: asyncio.Queue[str | None]) -> str | None:
        if sys.stdin.isatty():
            print("> ", end="", flush=True, file=sys.stderr)
        return await lines.get()

    async def _ask(self, question: str) -> bool:
        """Show the answer as it comes; True where it was cancelled."""
        stream = await self._client.chat(question, model=self._model)
        try:
            with self._interrupts.cancelling(stream):
                async for piece in stream.pieces():
                    self._screen.show(piece, stream)
        finally:
            self._screen.end_line()
        return stream.outcome is not None and stream.outcome.state is StreamState.CANCELLED


class _Screen:
    """Text goes to stdout, notices to stderr, each on a line of its own."""

    def __init__(self) -> None:
        self._in_line = False
        self._lost = False

    def show(self, piece: Piece, stream: ChatStream) -> None:
        """Show a piece of the answer."""
        if piece.kind == "rewind":
            self.notice("the answer starts over")
            self._write(stream.text)
        elif piece.kind == "text":
            self._write(piece.content)

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Begin a new line, where one has been begun."""
        if self._in_line:
            self._write("\n")

    def notice(self, text: str) -> None:
        """One line on stderr."""
        both = self._in_line and sys.stdout.isatty() and sys.stderr.isatty()
        print(("\n" if both else "") + f"wsstream: {text}", file=sys.stderr, flush=True)

    def on_event(self, event: ClientEvent) -> None:
        """Tell what the client does about its connection."""
        match event:
            case Lost(reason, _, attempt, delay):
                self._lost = True
                self.notice(f"no connection ({reason}); try {attempt} in {delay:.1f} s")
            case Resumed() if self._lost:
                self._lost = False
                self.notice("connected again, the answer goes on")
            case Told(m.GoingAway()):
                self.notice("the server is about to restart")
            case Told(m.StreamStatus(message=message)):
                self.notice(message)
            case Told(m.Error(error_type="capacity", recoverable=True)):
                self.notice("the server is at capacity, waiting")


class _Interrupts:
    """What Ctrl-C does."""

    def __init__(self) -> None:
        self.left = False
        self._stream: ChatStream | None = None
        self._cancelling: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle Ctrl-C in the block, by cancelling the running task in the end."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        try:
            loop.add_signal_handler(signal.SIGINT, lambda: self._on_signal(task))
        except (NotImplementedError, RuntimeError, ValueError):
            yield  # Windows, or not the main thread: there, Ctrl-C leaves at once
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    @contextlib.contextmanager
    def cancelling(self, stream: ChatStream) -> Iterator[None]:
        """In the block, the first Ctrl-C cancels ``stream``."""
        self._stream = stream
        try:
            yield
        finally:
            self._stream = self._cancelling = None

    def _on_signal(self, task: asyncio.Task[int] | None) -> None:
        if self._stream is not None and self._cancelling is None:
            self._cancelling = asyncio.get_running_loop().create_task(self._stream.cancel())
        elif task is not None:
            self.left = True
            task.cancel()


def _read_lines() -> asyncio.Queue[str | None]:
    """The lines of stdin as they are typed, then None.

    A daemon thread reads them: one of the loop's own would keep the process alive until the next Enter.
    """
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(line: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def read() -> None:
        for line in sys.stdin:
            put(line.rstrip("\n"))
        put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines
