"""A server that dies again and again under real clients, and a checker who remembers what those have seen.

A `World` is one server process on one port and one store, killed and restarted round by round; `Client` speaks to it on
plain `websockets` and shares no code with the project; all that clients see goes into one `Book`, which objects to
whatever contradicts what was seen before. After every restart the world asks for everything again and compares.

What happens when is drawn from a seed. A failing test names it; ``WSSTREAM_CRASH_SEED=N`` runs the tests with it, and
``WSSTREAM_CRASH_KILLS=N`` sets how many kills the slow test does. (Seeds repeat the plan, not the race: where exactly a
kill hits is up to the machine.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from asyncio import Task
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.conftest import ROOT, clean_environ

Message = dict[str, Any]

START_TIMEOUT = 20.0
END_TIMEOUT = 5.0
"""Seconds after a restart until every stream must have told its end."""
RETRY = 0.01
MOST_OPEN = 12
"""Streams that one client follows at once."""
LIFE = {"content_chunk", "chunk_batch", "stream_complete", "stream_error"}


# -- what was seen


@dataclass
class Request:
    """One question. ``start`` is the first answer that anybody got to it."""

    session_id: str
    request_id: str
    message: str
    model: str
    start: Message | None = None

    @property
    def stream_id(self) -> str:
        assert self.start is not None
        stream_id: str = self.start["stream_id"]
        return stream_id


@dataclass
class Seen:
    """What clients have seen of one stream."""

    request: Request
    chunks: dict[int, str] = field(default_factory=dict)
    spans: list[tuple[int, int, str]] = field(default_factory=list)
    """Batches: first, last, contents."""
    furthest: int = 0
    end: Message | None = None
    cancel_sent: bool = False

    @property
    def text(self) -> str:
        return "".join(self.chunks[n] for n in sorted(self.chunks))

    @property
    def final(self) -> int:
        """The last chunk as the terminal record has it."""
        assert self.end is not None
        final: int = self.end["final_chunk_id" if self.end["type"] == "stream_complete" else "last_chunk_id"]
        return final

    @property
    def how(self) -> str:
        """How it ended: a finish reason or an error type."""
        assert self.end is not None
        how: str = self.end["finish_reason" if self.end["type"] == "stream_complete" else "error_type"]
        return how


class Book:
    """Everything that any client was ever told, and what was wrong with it."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], Request] = {}
        self.streams: dict[str, Seen] = {}
        self.violations: list[str] = []
        self.hurry = False
        """Whether slow readers should be slow no longer."""

    def object(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(what)

    def add(self, request: Request) -> Request:
        """Note a request that will be made."""
        self.requests[request.session_id, request.request_id] = request
        return request

    def on_start(self, request: Request, message: Message) -> None:
        """Somebody was told that the request is answered."""
        told = {name: message[name] for name in ("stream_id", "session_id", "epoch", "model", "timestamp")}
        if request.start is None:
            if told["stream_id"] in self.streams:
                self.object(f"two requests got the stream {told['stream_id']}")
            request.start = told
            self.streams[told["stream_id"]] = Seen(request)
        elif request.start != told:
            self.object(f"request {request.request_id} was answered by {request.start}, and again by {told}")

    def on_chunks(self, stream_id: str, first: int, last: int, message: Message) -> None:
        """Somebody got a chunk or batch."""
        seen = self.streams[stream_id]
        content = message["content"]
        seen.furthest = max(seen.furthest, last)
        if message["type"] == "chunk_batch":
            seen.spans.append((first, last, content))
        elif seen.chunks.setdefault(first, content) != content:
            self.object(f"{stream_id} chunk {first} was {seen.chunks[first]!r}, now {content!r}")

    def on_end(self, stream_id: str, message: Message) -> None:
        """Somebody got a terminal record."""
        seen = self.streams.get(stream_id)
        if seen is None:
            self.object(f"an unknown stream has ended: {message}")
        elif seen.end is None:
            seen.end = message
        elif seen.end != message:
            self.object(f"{stream_id} ended as {seen.end}, and again as {message}")

    def check(self, stream_id: str) -> None:
        """Hold everything seen of an ended stream, that was read from its start once, against each other."""
        seen = self.streams[stream_id]
        if seen.end is None:
            self.object(f"{stream_id} has no end")
            return
        if seen.furthest > seen.final:
            self.object(f"{stream_id} ends at {seen.final}, but chunk {seen.furthest} was seen")
        if sorted(seen.chunks) != list(range(1, seen.final + 1)):
            self.object(f"{stream_id} ends at {seen.final}, but has the chunks {sorted(seen.chunks)}")
            return
        for first, last, content in set(seen.spans):
            if "".join(seen.chunks.get(n, "") for n in range(first, last + 1)) != content:
                self.object(f"{stream_id} batch {first}-{last} is not its chunks")
        seen.spans.clear()
        if seen.how not in ("stop", "cancelled", "interrupted"):
            self.object(f"{stream_id} ended as {seen.end}")
        if seen.how == "cancelled" and not seen.cancel_sent:
            self.object(f"{stream_id} was cancelled by nobody")
        if seen.how == "interrupted" and not seen.end["recoverable"]:
            self.object(f"{stream_id} is interrupted, but not recoverable")


# -- clients


class Client:
    """One client on one connection after another. It ends when all it was asked to follow has ended."""

    def __init__(
        self, book: Book, port: int, session_id: str, *, batch: bool, pace: float = 0.0, window: int = 50
    ) -> None:
        self.hold = False
        """Whether to stay although there is nothing left to follow."""
        self.meddles = False
        """Whether to cancel everything that it resumes, at once; what has ended does not mind."""
        self._book = book
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._hello = {"type": "hello", "session_id": session_id, "batch": batch, "window": window}
        self._pace = pace
        self._asking: dict[str, Request] = {}
        self._open: dict[str, int] = {}
        self._waiting: list[tuple[str, int]] = []
        self._resumed: dict[str, int] = {}
        self._resuming: set[str] = set()
        self._socket: ClientConnection | None = None

    async def ask(self, request: Request) -> None:
        """Ask until the stream has started, then follow it.

        Not while it is followed here: if it has ended for the server, acks on their way would meet a new window.
        """
        if request.request_id in self._asking or (request.start and request.stream_id in self._open):
            return
        self._asking[request.request_id] = request
        await self._try_to_send(self._request(request))

    def follow(self, stream_id: str, last: int = 0) -> None:
        """Follow a stream, when its turn comes, from behind a chunk."""
        self._waiting.append((stream_id, last))

    async def cancel(self, stream_id: str) -> None:
        """Ask for a stream's end."""
        if self._socket is not None:
            self._book.streams[stream_id].cancel_sent = True
            await self._try_to_send({"type": "cancel_stream", "stream_id": stream_id})

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.hold or self._asking or self._open or self._waiting)

    async def run(self) -> None:
        """Follow everything to its end, across restarts of the server."""
        while not self.done:
            try:
                await self._converse()
            except (OSError, WebSocketException):
                await asyncio.sleep(RETRY)

    async def _converse(self) -> None:
        async with connect(
            self._url,
            subprotocols=[Subprotocol("wsstream.v1")],
            compression=None,
            ping_interval=None,
            open_timeout=5,
            close_timeout=1,
            max_size=None,
            proxy=None,
        ) as connection:
            # What ends between the hello and our reading of its answer may still be listed there as running.
            ended = {stream_id for stream_id, seen in self._book.streams.items() if seen.end}
            await connection.send(json.dumps(self._hello))
            established = json.loads(await connection.recv())
            if established["type"] != "connection_established":
                self._book.object(f"hello was answered by {established}")
            self._socket = connection
            try:
                await self._begin(established, ended)
                while not self.done:
                    await self._on_message(json.loads(await connection.recv()))
            finally:
                self._socket = None

    async def _begin(self, established: Message, ended: set[str]) -> None:
        self._resuming.clear()
        for active in established["active_streams"]:
            if active["stream_id"] in ended:
                self._book.object(f"{active} had ended before")
        for stream_id, last in self._open.items():
            await self._resume(stream_id, last)
        for request in list(self._asking.values()):
            await self._send(self._request(request))
        await self._open_more()

    async def _open_more(self) -> None:
        while self._waiting and len(self._open) < MOST_OPEN:
            stream_id, last = self._waiting.pop(0)
            if stream_id not in self._open:
                self._open[stream_id] = last
                await self._resume(stream_id, last)

    async def _resume(self, stream_id: str, last: int) -> None:
        self._resumed[stream_id] = last
        self._resuming.add(stream_id)
        epoch = self._book.streams[stream_id].request.start["epoch"]  # type: ignore[index]
        await self._send({"type": "resume_stream", "stream_id": stream_id, "last_chunk_id": last, "epoch": epoch})
        if self.meddles:
            await self._send({"type": "cancel_stream", "stream_id": stream_id})

    def _request(self, request: Request) -> Message:
        names = ("session_id", "request_id", "message", "model")
        return {"type": "chat_request", **{name: getattr(request, name) for name in names}}

    async def _send(self, message: Message) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(message))

    async def _try_to_send(self, message: Message) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                await self._send(message)

    # -- what comes

    async def _on_message(self, message: Message) -> None:
        kind = message["type"]
        if kind in LIFE and message["stream_id"] in self._resuming:
            return  # asked for and resumed at once: what the request brought before the resume does not count
        if kind in LIFE and message["stream_id"] in self._open:
            await self._on_life(kind, message["stream_id"], message)
        elif kind == "stream_start":
            self._on_start(message)
        elif kind == "stream_resumed":
            if message["last_chunk_id"] != self._resumed.get(message["stream_id"]):
                self._book.object(f"resumed elsewhere: {message}")
            self._resuming.discard(message["stream_id"])
        elif kind == "heartbeat":
            await self._send({"type": "heartbeat_ack", "timestamp": message["timestamp"]})
        elif kind == "error":
            self._on_error(message)
        elif kind in ("stream_complete", "stream_error"):  # a cancel was answered directly
            self._book.on_end(message["stream_id"], message)
        elif kind in LIFE:
            self._book.object(f"nobody follows this (any more): {message}")

    def _on_start(self, message: Message) -> None:
        request = self._asking.pop(message["request_id"], None)
        if request is None:
            self._book.object(f"nobody asked: {message}")
            return
        self._book.on_start(request, message)
        if message["stream_id"] in self._book.streams:
            self._open.setdefault(message["stream_id"], 0)

    async def _on_life(self, kind: str, stream_id: str, message: Message) -> None:
        had = self._open[stream_id]
        if kind in ("stream_complete", "stream_error"):
            final = message["final_chunk_id" if kind == "stream_complete" else "last_chunk_id"]
            if final != had:
                self._book.object(f"{stream_id} ended at {final}, but {had} came last")
            self._book.on_end(stream_id, message)
            del self._open[stream_id]
            await self._open_more()
            return
        first, last = (message.get(name, message.get("chunk_id")) for name in ("first_chunk_id", "last_chunk_id"))
        assert isinstance(first, int)
        assert isinstance(last, int)
        if first != had + 1:
            self._book.object(f"{stream_id} chunk {first} came after {had}")
        self._open[stream_id] = last
        self._book.on_chunks(stream_id, first, last, message)
        if self._pace and not self._book.hurry:
            await asyncio.sleep(self._pace)
        await self._send({"type": "chunk_ack", "stream_id": stream_id, "chunk_id": last})

    def _on_error(self, message: Message) -> None:
        if message["error_type"] == "capacity" and message["recoverable"]:
            return  # it is draining; the next one will answer
        self._book.object(f"refused: {message}")
        self._open.pop(message.get("stream_id", ""), None)
        self._asking.pop(message.get("request_id", ""), None)


# -- the server


class Server:
    """``python -m wsstream serve`` on one port and one store, as often as it is started."""

    def __init__(self, directory: Path, *flags: str, planted: str | None = None) -> None:
        self.port = free_port()
        self.store = directory / "crash.db"
        self._log = directory / "server.log"
        module = ["-m", "wsstream"] if planted is None else ["-m", "tests.data.planted", planted]
        where = ["--port", str(self.port), "--store", f"sqlite:{self.store}"]
        # These clients say things twice and too late on purpose, and more often than a decent one may.
        where += ["--message-burst", "10000"]
        self._command = [sys.executable, *module, "serve", *where, "--provider", "demo", "--listeners", "2", *flags]
        self._process: asyncio.subprocess.Process | None = None
        self.fell = False
        """Whether it was ended by something that was not told to."""

    @property
    def pid(self) -> int:
        """The process, since its last start."""
        assert self._process is not None
        return self._process.pid

    async def launch(self, prefix: Sequence[str] = ()) -> None:
        """Start it, under another command if one is given."""
        self.fell = False
        with self._log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *prefix,
                *self._command,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=clean_environ(),
            )

    async def is_ready(self) -> bool:
        """Wait until it listens; False where it ends before."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT):
            return b" is ready: " in await self._process.stdout.readline()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self, patience: float) -> int | None:
        """Its exit status; None where it goes on living."""
        assert self._process is not None
        try:
            async with asyncio.timeout(patience):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def kill(self) -> None:
        """End it at once."""
        self.tell(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    @property
    def log(self) -> str:
        """All it ever wrote to stderr."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def journalled_cancels(self) -> set[str]:
        """The running streams of which the store of a dead server says that somebody has cancelled them."""
        with tempfile.TemporaryDirectory() as place:
            for path in self.store.parent.glob(self.store.name + "*"):
                shutil.copy(path, place)
            query = "SELECT stream_id FROM streams WHERE cancelled AND ending IS NULL"
            with contextlib.closing(sqlite3.connect(Path(place) / self.store.name)) as database:
                try:
                    return {stream_id for (stream_id,) in database.execute(query)}
                except sqlite3.OperationalError:  # it died before it had any tables
                    return set()


def free_port() -> int:
    """A free port below the ephemeral ones: clients that try in vain must not connect to themselves."""
    for port in random.SystemRandom().sample(range(15_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


# -- ways to end a server


@dataclass(frozen=True)
class Kill:
    """SIGKILL after a while."""

    after: float
    frozen: bool = False
    """Whether SIGSTOP comes a moment before, so that a commit hangs."""

    prefix: Sequence[str] = ()

    async def end(self, server: Server) -> str | None:
        """Do it; what was wrong."""
        await asyncio.sleep(self.after)
        if self.frozen:
            server.tell(signal.SIGSTOP)
            await asyncio.sleep(0.03)
        await server.kill()
        return None


@dataclass(frozen=True)
class Terminate:
    """SIGTERM after a while: it has 15 seconds."""

    after: float
    prefix: Sequence[str] = ()

    async def end(self, server: Server) -> str | None:
        """Do it; what was wrong."""
        await asyncio.sleep(self.after)
        server.tell(signal.SIGTERM)
        status = await server.wait(15.0)
        if status is None:
            await server.kill()
        return None if status == 0 else f"SIGTERM: the exit status was {status}"


@dataclass(frozen=True)
class AtSystemCall:
    """SIGKILL when one of its threads enters a system call for the n-th time; if it never does, after a while."""

    call: str
    count: int
    after: float = 0.8
    terminate: bool = False
    """Whether SIGTERM comes after that while, to reach the calls of an orderly end."""

    @property
    def prefix(self) -> Sequence[str]:
        """strace, as a grandchild: the server stays our own child."""
        inject = f"inject={self.call}:signal=SIGKILL:when={self.count}"
        # Not with --seccomp-bpf: strace 6.1 does not count with it.
        quiet = ("-qq", "-o", "/dev/null")
        return ("strace", "-D", "-f", *quiet, "-e", f"trace={self.call}", "-e", inject)

    async def end(self, server: Server) -> str | None:
        """Wait for it."""
        status = await server.wait(self.after)
        if status is None and self.terminate:
            server.tell(signal.SIGTERM)
            status = await server.wait(15.0)
        server.fell = status == -signal.SIGKILL
        await server.kill()
        return None


End = Kill | Terminate | AtSystemCall


# -- the world


class World:
    """A server that dies round by round, and all of its clients."""

    def __init__(self, directory: Path, seed: int, *, planted: str | None = None, flags: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.book = Book()
        self.kills = 0
        self.recoveries: list[float] = []
        """Seconds from each restart until every stream had told every client its end."""
        self.reached = 0
        """Kills at a system call; where the call did not come that often, there was an ordinary one."""
        self._seed = seed
        self._random = random.Random(seed)
        self._server = Server(directory, *flags, planted=planted)
        self._up = False
        self._sessions: list[str] = []
        self._clients: list[Client] = []
        self._tasks: list[Task[None]] = []
        self._new: list[Request] = []

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_clients()
        await self._server.kill()

    # -- rounds

    def random_kill(self) -> Kill:
        """A kill at a random moment."""
        return Kill(self._random.choice((0.02, 0.1, 0.5)) * self._random.random(), self._random.random() < 0.25)

    async def round(self, end: End, *, again: bool = False) -> None:
        """Load the server, end it, restart it, check. ``again``: kill it once more while it recovers."""
        await self._start(end.prefix)
        self.book.hurry = False
        self._load()
        script = asyncio.create_task(self._act())
        try:
            trouble = await end.end(self._server)
        finally:
            await _end([script])
        if trouble:
            self.book.object(trouble)
        self.reached += self._server.fell
        self._up = False
        self.kills += not isinstance(end, Terminate)
        await self._recover(again)

    async def run(self, ends: Iterable[tuple[End, bool]]) -> None:
        """Rounds, until something is wrong; then everything is read once more."""
        for end, again in ends:
            await self.round(end, again=again)
            if self.book.violations:
                break
        else:
            await self.read_all()
        self.hold()

    def hold(self) -> None:
        """Fail if anything was wrong."""
        log = self._server.log
        for word in ("CRITICAL", "Traceback", " ERROR "):
            if word in log:
                self.book.object(f"the server's log says {word.strip()}")
        if self.book.violations:
            shown = "\n".join(text[:600] for text in self.book.violations[:8])
            raise Violation(
                f"seed {self._seed}, after {self.kills} kills, {len(self.book.violations)} violations:\n{shown}\n"
                f"the server's log ends:\n{log[-1500:]}"
            )

    async def _start(self, prefix: Sequence[str] = ()) -> None:
        if self._up and prefix:
            await self._server.kill()  # nothing runs: no loss, and one kill more
            self.kills += 1
            self._up = False
        if not self._up:
            await self._server.launch(prefix)
            self._up = await self._server.is_ready()
            if not self._up and not prefix:
                raise RuntimeError(f"seed {self._seed}: the server did not start:\n{self._server.log[-2000:]}")

    # -- load

    def _request(self, session_id: str) -> Request:
        draw = self._random
        rate, tokens = draw.choice(((30, 40), (200, 5000), (500, 60), (700, 9000), (0, 300), (0, 900), (1500, 150)))
        model = f"demo:rate={rate},tokens={tokens},seed={draw.randrange(99)}" + (
            ",stamp=1" if draw.random() < 0.7 else ""
        )
        number = len(self.book.requests) + 1
        request = Request(session_id, f"r{number}", f"question {number} – {draw.random()}", model)
        self._new.append(request)
        return self.book.add(request)

    def _session(self) -> str:
        if self._sessions and self._random.random() < 0.3:
            return self._random.choice(self._sessions)
        self._sessions.append(f"ses_{self._seed}_{len(self._sessions)}")
        return self._sessions[-1]

    def _client(self, session_id: str, *, batch: bool, pace: float = 0.0) -> Client:
        client = Client(self.book, self._server.port, session_id, batch=batch, pace=pace)
        client.hold = True
        self._clients.append(client)
        return client

    def _run(self, *clients: Client) -> None:
        self._tasks += [asyncio.create_task(client.run()) for client in clients]

    def _load(self) -> None:
        """The clients of a round: owners of several answers each, and one that repeats their requests."""
        self._clients, self._tasks, self._new = [], [], []
        one, two = self._session(), self._session()
        first = self._client(one, batch=False)
        second = self._client(two, batch=True)
        same = self._client(one, batch=True)
        slow = self._client(two, batch=False, pace=0.004)
        asked = [self._request(one) for _ in range(3)]
        for client, requests in (
            (first, asked),
            (second, [self._request(two) for _ in range(2)]),
            (same, asked),
            (slow, [self._request(two)]),
        ):
            for request in requests:
                client._asking[request.request_id] = request
        self._run(*self._clients)

    async def _act(self) -> None:
        """What goes on until the kill: more viewers, cancels, requests that come again, requests that come late."""
        draw = self._random
        while True:
            await asyncio.sleep(draw.random() * 0.05)
            started = [request for request in self._new if request.start is not None]
            deed = draw.random()
            if deed < 0.35 and len(self._new) < 16:
                client = draw.choice(self._clients)
                await client.ask(self._request(client._hello["session_id"]))
            elif not started:
                continue
            elif deed < 0.6 and len(self._clients) < 8:
                self._run(self._viewer(draw.choice(started)))
            elif deed < 0.75:
                await draw.choice(self._clients).cancel(draw.choice(started).stream_id)
            else:
                await draw.choice(self._clients).ask(draw.choice(started))

    def _viewer(self, request: Request) -> Client:
        seen = self.book.streams[request.stream_id]
        pace = self._random.choice((0.0, 0.002, 0.02))
        client = self._client(request.session_id, batch=self._random.random() < 0.5, pace=pace)
        client.follow(request.stream_id, self._random.choice((0, self._random.randint(0, seen.furthest))))
        return client

    async def _stop_clients(self) -> None:
        tasks, self._tasks = self._tasks, []
        await _end(tasks)

    # -- after the kill

    async def _recover(self, again: bool) -> None:
        self.book.hurry = True
        cancelled = self._server.journalled_cancels()
        for client in self._clients:
            client.hold = False
        if again:
            await self._server.launch()
            await asyncio.sleep(self._random.uniform(0.15, 0.8))
            await self._server.kill()
            self.kills += 1
        fresh = [request for request in self._new if request.start is None]
        began = time.monotonic()
        await self._start()
        weary = asyncio.create_task(self._cancel_fresh(fresh))
        try:
            await self._wait_ends()
        finally:
            await _end([weary])
        self.recoveries.append(time.monotonic() - began)
        await self._check(cancelled)

    async def _cancel_fresh(self, requests: list[Request]) -> None:
        """What begins only now, because its request was lost, is not to be waited for."""
        while requests:
            for request in [request for request in requests if request.start is not None]:
                for client in self._clients:
                    await client.cancel(request.stream_id)
                requests.remove(request)
            await asyncio.sleep(0.005)

    async def _wait_ends(self) -> None:
        """Every client must be told the end of everything it follows, soon."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=END_TIMEOUT)
            if late:
                running = {stream_id for client in self._clients for stream_id in client._open}
                self.book.object(f"no end within {END_TIMEOUT} s of the restart: {sorted(running)}")
        await self._stop_clients()

    async def _check(self, cancelled: set[str]) -> None:
        """Ask for everything of this round again, and for some of what was before."""
        await self._ask_again()
        new = [request.stream_id for request in self._new if request.start is not None]
        old = [stream_id for stream_id in self.book.streams if stream_id not in new]
        await self._read(new + self._random.sample(old, min(4, len(old))))
        for stream_id in cancelled & self.book.streams.keys():
            if self.book.streams[stream_id].how != "cancelled":
                self.book.object(f"{stream_id}: the cancel was journalled, yet: {self.book.streams[stream_id].end}")
        for session_id in sorted({request.session_id for request in self._new}):
            await self._check_session(session_id)

    async def _ask_again(self) -> None:
        """All requests of this round, on two connections at once: whoever saw a start sees the same one."""
        clients = [self._quick_client(batch) for batch in (True, False)]
        for client in clients:
            for request in self._new:
                client._asking[request.request_id] = request
        await self._finish([asyncio.create_task(client.run()) for client in clients])

    def _quick_client(self, batch: bool) -> Client:
        return Client(self.book, self._server.port, f"ses_checker_{self._seed}", batch=batch, window=1000)

    async def _finish(self, tasks: list[Task[None]]) -> None:
        late: set[Task[None]] = set()
        try:
            _, late = await asyncio.wait(tasks, timeout=30.0)
        finally:
            await _end(tasks)
        if late:
            self.book.object(f"{len(late)} readers did not come to an end")

    async def _read(self, stream_ids: Sequence[str]) -> None:
        """Read streams from the start, chunk by chunk; and from a random point, in batches. Compare."""
        clients = [self._quick_client(batch=False), self._quick_client(batch=True)]
        clients[0].meddles = True
        for stream_id in stream_ids:
            clients[0].follow(stream_id)
            clients[1].follow(stream_id, self._random.randint(0, self.book.streams[stream_id].furthest))
        await self._finish([asyncio.create_task(client.run()) for client in clients])
        for stream_id in stream_ids:
            self.book.check(stream_id)

    async def read_all(self) -> None:
        """Everything that ever was."""
        await self._start()
        await self._read(list(self.book.streams))
        for session_id in self._sessions:
            await self._check_session(session_id)

    # -- sessions

    async def _check_session(self, session_id: str) -> None:
        streams = {i: seen for i, seen in self.book.streams.items() if seen.request.session_id == session_id}
        history, listed = await self._session_of(session_id)
        if {stream["stream_id"] for stream in listed} != streams.keys() or len(listed) != len(streams):
            self.book.object(f"{session_id} lists {listed}, but {sorted(streams)} were started")
        if len(history) != 2 * len(streams):
            self.book.object(f"{session_id} has {len(history)} messages, but {len(streams)} answers")
        for asked, answered in zip(history[::2], history[1::2], strict=False):
            self._check_pair(asked, answered, streams)

    def _check_pair(self, asked: Message, answered: Message, streams: dict[str, Seen]) -> None:
        seen = streams.get(answered.get("stream_id", ""))
        if seen is None or asked["role"] != "user" or answered["role"] != "assistant":
            self.book.object(f"history: {asked} was answered by {answered}")
            return
        if asked["content"] != seen.request.message or not asked["is_complete"]:
            self.book.object(f"history: {seen.request} is kept as {asked}")
        if answered["content"] != seen.text or answered["is_complete"] != (seen.how == "stop"):
            self.book.object(f"history: an answer of {len(seen.text)} characters, {seen.end}, is kept as {answered}")

    async def _session_of(self, session_id: str) -> tuple[list[Message], list[Message]]:
        async with (
            asyncio.timeout(10),
            connect(f"ws://127.0.0.1:{self._server.port}/ws", proxy=None, max_size=None) as connection,
        ):
            await connection.send(json.dumps({"type": "hello", "session_id": session_id}))
            await connection.send(json.dumps({"type": "list_streams"}))
            await connection.send(json.dumps({"type": "get_history"}))
            answers: dict[str, Message] = {}
            while not {"history", "stream_list"} <= answers.keys():
                message = json.loads(await connection.recv())
                answers[message["type"]] = message
        return answers["history"]["messages"], answers["stream_list"]["streams"]


async def _end(tasks: list[Task[None]]) -> None:
    """End tasks; what one of them failed of is raised."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class Violation(AssertionError):
    """Something that was promised was not kept."""
