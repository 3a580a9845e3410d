"""One server that is restarted at random moments, a crowd of clients, and those who check what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import sqlite3
import time
from asyncio import Task
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx2

from tests.crash import Server, free_port
from tests.soak.answers import Model, Plan, draw_plan
from tests.soak.book import GOOD, Book, Told
from tests.soak.clients import KINDS, LOST, Auditor, Client
from tests.soak.gauges import Gauges, Sample

STILL = 60.0
"""Seconds within which every client must have come further."""
PATIENCE = 240.0
"""Seconds within which all must have come to their ends."""
AUDITORS = 8
DRAIN = 2.0
GRACE = 8.0
"""Seconds that an answer goes on without viewers."""
REST = 40.0
"""Seconds after the last client within which the server must be at rest."""
RESTING_FILES = 12
"""Files beyond those at its start that a server at rest may have: connections to the provider, kept for a while."""
RETENTION = 180.0
RECHECKED = 40
"""Streams that are read once more at the very end."""
EXPECTED = re.compile(
    r"upstream failed: "  # the provider does so on purpose
    r"|drain: \d+ answers did not end in time"
    r"|a proxy holds the events back"  # a client here that was too busy to answer in time looks like one
)
FLAGS = [
    *("--provider", "llamacpp", "--drain-timeout", str(DRAIN), "--orphan-grace", str(GRACE)),
    *("--retention", str(RETENTION), "--max-memory-bytes", "16777216"),
    *("--chunk-timeout", "2", "--first-token-timeout", "20", "--retry-base", "0.1", "--log-level", "warning"),
]


class World:
    """All of it. ``seconds`` is how long clients come; the end takes some more."""

    def __init__(self, directory: Path, seed: int, seconds: float, *, crowds: int = 1, planted: str | None = None):
        directory.mkdir(parents=True, exist_ok=True)
        self.seed = seed
        self.book = Book()
        self.over = False
        self.seconds = seconds
        self.readies: list[float] = []
        """Seconds that each start took."""
        self.metrics: dict[str, float] = {}
        self.warnings: Counter[str] = Counter()
        self._directory = directory
        self._crowds = crowds
        self._planted = planted
        self._draw = random.Random(f"{seed}/world")
        self._model = Model(self.book.object)
        self._plans = 0
        self._metrics_port = free_port()
        self._server: Server
        self._left: asyncio.Queue[Told] = asyncio.Queue()
        self._seen_leaving: set[str] = set()
        self._audited: list[tuple[float, Told]] = []
        """And when."""
        self._tasks: set[Task[None]] = set()
        self._up = asyncio.Event()
        self._first: Sample | None = None

    # -- what clients use

    @property
    def port(self) -> int:
        """The server's."""
        return self._server.port

    def plan(self, draw: random.Random, tokens: int | None = None, rate: float = 0.0) -> Plan:
        """A new plan, that the provider knows."""
        self._plans += 1
        plan = self._model.plans[self._plans] = draw_plan(self._plans, draw, tokens, rate)
        plan.killed, plan.terminated = self.book.killed, self.book.terminated
        return plan

    def leave(self, told: Told) -> None:
        """Somebody has read enough of it: an auditor reads it next."""
        if told.stream_id not in self._seen_leaving:
            self._seen_leaving.add(told.stream_id)
            self._left.put_nowait(told)

    # -- from the beginning to the end

    async def run(self) -> Book:
        """Everything; what was wrong is in the book."""
        asyncio.get_running_loop().set_exception_handler(self._on_stray)
        await self._model.start()
        flags = [*FLAGS, "--base-url", self._model.url, "--metrics-port", str(self._metrics_port)]
        self._server = Server(self._directory, *flags, planted=self._planted)
        self.gauges = Gauges(self._server.store, self.book.object)
        try:
            await self._start()
            await self._soak()
            await self._rest()
            await self._end()
        finally:
            await _cancel(self._tasks)
            await self._server.kill()
            await self._model.close()
        self._read_log()
        return self.book

    async def _soak(self) -> None:
        until = asyncio.get_running_loop().time() + self.seconds
        clients = self._spawn_crowd()
        watch = [self._spawn(self._watch()), self._spawn(self._chaos(until - self.seconds / 4))]
        auditors = [self._spawn(self._audit(number)) for number in range(AUDITORS)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await asyncio.gather(*map(asyncio.shield, clients))
        self.over = True
        await _all(clients, PATIENCE, self.book, "clients")
        await _all([self._spawn(self._left.join())], PATIENCE, self.book, "audits")
        await _cancel(auditors)
        await _cancel(watch)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> Task[None]:
        task = asyncio.create_task(self._object_to(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _object_to(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """What a task of ours trips over is a violation, too: it is where the server did what nobody expects."""
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001
            self.book.object(f"{coroutine!r} tripped over {error!r:.500}")

    def _on_stray(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the loop complains of. The HTTP client leaves generators behind where it did not read to the end."""
        if "asyncgen" not in context:
            self.book.object(f"on our side: {context['message']}: {context.get('exception')!r:.300}")

    def _spawn_crowd(self) -> list[Task[None]]:
        clients = [
            kind(self, f"{self.seed}/{kind.kind}/{number}")
            for kind, count in KINDS.items()
            for number in range(count * self._crowds)
        ]
        return [self._spawn(client.run(self._while_it_moves)) for client in clients]

    async def _while_it_moves(self, client: Client, work: Coroutine[Any, Any, None]) -> None:
        """How long something takes is the machine's matter; that it comes no further is a violation."""
        task = asyncio.create_task(work)
        try:
            stood = None
            while (await asyncio.wait([task], timeout=STILL))[1]:
                if stood == (stood := client.where()):
                    self.book.object(f"{client.kind} came no further for {STILL:.0f} s: {stood}")
                    return
            await task
        finally:
            await _cancel([task])

    # -- the server's lives

    async def _start(self) -> None:
        began = time.monotonic()
        await self._server.launch()
        if not await self._server.is_ready():
            raise RuntimeError(f"the server did not start:\n{self._server.log[-2000:]}")
        self.readies.append(time.monotonic() - began)
        self.gauges.attach(self._server.pid)
        self._up.set()
        self._first = self.gauges.sample()

    async def _chaos(self, until: float) -> None:
        """Restarts, until the last quarter: in that one, what leaks shall show."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._draw.uniform(0.1, 0.2) * min(self.seconds, 60) + self._draw.random())
            if loop.time() > until:
                return
            await self._restart(self._draw.choice(("terminate", "kill", "kill", "kill twice")))

    async def _restart(self, how: str) -> None:
        self.book.counts[f"restarts: {how}"] += 1
        self._up.clear()
        if how == "terminate":
            self.book.terminated += 1
            await self._terminate()
        else:
            self.book.killed += 1
            await self._server.kill()
        if how == "kill twice":
            await self._server.launch()
            await asyncio.sleep(self._draw.uniform(0.3, 2.0))
            self.book.killed += 1
            await self._server.kill()
        await self._start()

    async def _terminate(self) -> None:
        self._server.tell(signal.SIGTERM)
        status = await self._server.wait(DRAIN + 15)
        if status != 0:
            self.book.object(f"SIGTERM: the exit status was {status}")
            await self._server.kill()

    # -- gauges

    async def _watch(self) -> None:
        """Look once a second."""
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            while True:
                await asyncio.sleep(1)
                await self._up.wait()
                self.gauges.sample()
                with contextlib.suppress(*LOST):
                    await self._scrape(http)

    async def _scrape(self, http: httpx2.AsyncClient) -> None:
        response = await http.get(f"http://127.0.0.1:{self._metrics_port}/metrics")
        self.metrics = self.gauges.scraped(response.text)

    # -- audits

    async def _audit(self, number: int) -> None:
        """Read everything from its start when those who asked for it have gone."""
        auditor = Auditor(self, f"{self.seed}/auditor/{number}")
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
            while True:
                told = await self._left.get()
                try:
                    await self._while_it_moves(auditor, self._audit_one(auditor, http, told))
                finally:
                    self._left.task_done()
                self._note_end(told)

    async def _audit_one(self, auditor: Auditor, http: httpx2.AsyncClient, told: Told) -> None:
        await asyncio.sleep(auditor.draw.choice(self._waits(told)))
        await auditor.read(told)
        await self._check_history(http, told)

    def _waits(self, told: Told) -> tuple[float, ...]:
        """How long nobody may read it, for some so long that it is stopped."""
        return (0.0, 1.5, GRACE + 2) if told.deserted and self.seconds > 4 * GRACE else (0.0, 0.0, 1.0)

    def _note_end(self, told: Told) -> None:
        self.book.ends[told.how or "none"] += 1
        self.book.forget(told)
        self._audited.append((time.monotonic(), told))

    async def _check_history(self, http: httpx2.AsyncClient, told: Told) -> None:
        """The session has the same text."""
        before = ""
        while True:
            page = await self._page(http, told.session_id, before)
            for message in page["messages"]:
                if message.get("stream_id") == told.stream_id:
                    self._compare(told, message)
                    return
            if not page.get("more"):
                self.book.object(f"{told} is not in the history of {told.session_id}")
                return
            before = f"?before={page['messages'][0]['id']}"

    async def _page(self, http: httpx2.AsyncClient, session_id: str, before: str) -> dict[str, Any]:
        while True:
            with contextlib.suppress(*LOST):
                response = await http.get(f"http://127.0.0.1:{self.port}/api/sessions/{session_id}/messages{before}")
                if response.status_code == 200:
                    page: dict[str, Any] = response.json()
                    return page
            await asyncio.sleep(0.2)

    def _compare(self, told: Told, message: dict[str, Any]) -> None:
        text = told.plan.whole[: told.final_size]
        if message["content"] != text:
            self.book.object(f"{told}: the history has {len(message['content'])} characters, not the {len(text)}")
        if message["is_complete"] != (told.how in GOOD):
            self.book.object(f"{told} ended as {told.how}, is_complete in the history is {message['is_complete']}")

    # -- afterwards

    async def _rest(self) -> None:
        """With nobody there, nothing is left: no stream, no connection, hardly a file."""
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            until = time.monotonic() + REST
            while left := await self._left_over(http):
                if time.monotonic() > until:
                    self.book.object(f"{REST:.0f} s after the last client there is still: {left}")
                    return
                await asyncio.sleep(0.25)

    async def _left_over(self, http: httpx2.AsyncClient) -> dict[str, float]:
        await self._scrape(http)
        names = ("streams_running", "connections", "viewers", "uncommitted_chunks", "store_pending_operations")
        left = {name: value for name in names if (value := self.metrics[f"wsstream_{name}"])}
        now = self.gauges.sample()
        if now is None or self._first is None:
            return {"no process": 1}
        if now.files > self._first.files + RESTING_FILES:
            left["files"] = now.files
        return left

    async def _end(self) -> None:
        """An orderly end, a look into the store, and everything is still there after it."""
        await self._terminate()
        self._check_store()
        await self._start()
        auditor = Auditor(self, f"{self.seed}/last")
        kept = [told for at, told in self._audited if time.monotonic() - at < RETENTION / 3]
        try:
            async with asyncio.timeout(RETENTION / 3):
                for told in self._draw.sample(kept, min(RECHECKED, len(kept))):
                    await auditor.read(told)
        except TimeoutError:
            self.book.object("what was there before the last restart cannot be read")
        await self._terminate()

    def _check_store(self) -> None:
        store = self._server.store
        if left := [path.name for path in store.parent.glob(store.name + "-*") if path.stat().st_size]:
            self.book.object(f"an orderly end has left {left}")
        with contextlib.closing(sqlite3.connect(store)) as database:
            if (found := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                self.book.object(f"the store: {found!r:.300}")
            running = database.execute("SELECT count(*) FROM streams WHERE ending IS NULL").fetchone()[0]
        if running:
            self.book.object(f"the store has {running} streams without an end")

    def _read_log(self) -> None:
        """Nothing in the server's log but what was to be expected."""
        for line in self._server.log.splitlines():
            if " WARNING " in line and EXPECTED.search(line):
                self.warnings[EXPECTED.search(line)[0]] += 1  # type: ignore[index]
            elif line.strip():
                self.book.object(f"the server's log: {line[:400]}")


async def _all(tasks: list[Task[None]], patience: float, book: Book, what: str) -> None:
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=patience)
        if late:
            book.object(f"{len(late)} of {len(tasks)} {what} did not come to their end within {patience:.0f} s")
        await _cancel(late)


async def _cancel(tasks: Any) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def describe(world: World) -> str:
    """The table at the end, and every violation."""
    book = world.book
    lines = [
        f"seed {world.seed}, {world.seconds:.0f} s, {len(book.streams)} streams, {sum(book.ends.values())} audited"
    ]
    lines.append("")
    lines.append(f"{'clients':14} {'visits':>8} {'losses':>8} {'drops':>8}")
    for kind in KINDS:
        counts = [book.counts[f"{kind.kind} {what}"] for what in ("visits", "losses", "drops")]
        lines.append(f"{kind.kind:14} {counts[0]:8} {counts[1]:8} {counts[2]:8}")
    restarts = {name[10:]: count for name, count in book.counts.items() if name.startswith("restarts: ")}
    lines += ["", f"read: {book.counts['pieces']} pieces, {book.counts['characters']} characters"]
    lines.append(f"ends: {json.dumps(dict(book.ends.most_common()))}")
    lines.append(f"restarts: {json.dumps(restarts)}; ready within {max(world.readies, default=0):.2f} s")
    lines.append(f"warnings in its log: {json.dumps(dict(world.warnings))}")
    lines += ["", f"{'gauge':14} {'first':>8} {'median':>8} {'most':>8} {'last':>8}"]
    samples = world.gauges.samples
    for name in Sample.__dataclass_fields__:
        values = [getattr(sample, name) for sample in samples]
        if values:
            middle = sorted(values)[len(values) // 2]
            lines.append(f"{name:14} {values[0]:8.1f} {middle:8.1f} {max(values):8.1f} {values[-1]:8.1f}")
    lags = [f"{world.gauges.lag(share) * 1000:.0f}" for share in (0.5, 0.99, 0.999)]
    lines.append(f"loop lag, at most: p50 {lags[0]} ms, p99 {lags[1]} ms, p99.9 {lags[2]} ms")
    lines.append("")
    lines += [f"VIOLATION: {text}" for text in book.violations] or ["no violations"]
    return "\n".join(lines)
