"""What every store and every provider must do, as checks to run over one::

    async def test_my_store(tmp_path):
        await check_store(lambda place: MyStore(tmp_path / place))

    async def test_my_provider():
        await check_provider(my_function)

They need no test framework; one that fails raises AssertionError with what was expected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from wsstream.chunks import ChatMessage, ChatRequest, Finish, Kind, Outcome, Receipt, StreamState, ToolCall, Usage
from wsstream.errors import StoreError, StreamFailure
from wsstream.providers.base import Provider
from wsstream.providers.callable import adapt
from wsstream.stores.base import Store, StoredLog, StoredMessage, StreamRecord, StreamSummary
from wsstream.testing.sinks import ListSink

Make = Callable[[str], Store]
"""Makes a store, not opened yet, at a place of that name; the same name is the same place."""

UNICODE = ["", "a", "ä€😀", "e\u0301", "\u202eabc", "\x00\x7f", "家族 👨‍👩‍👧‍👦", "x" * 70_000]


async def check_store(make: Make) -> None:
    """Hold a store to `wsstream.stores.base.Store`.

    Raises:
        AssertionError: it does not keep it.
    """
    for check in CHECKS:
        bench = Bench(make, check.__name__)
        await bench.start()
        try:
            await check(bench)
            expect(bench.failures == [], f"{check.__name__}: no failure without trouble, got {bench.failures}")
            expect(bench.store.trouble() is None, f"{check.__name__}: no trouble, got {bench.store.trouble()}")
        finally:
            await bench.store.close()


def expect(condition: bool, what: str) -> None:
    """See that ``condition`` holds.

    Raises:
        AssertionError: it does not; says ``what`` was expected.
    """
    if not condition:
        raise AssertionError(what)


class Bench:
    """A store with what was written to it and what it has acknowledged."""

    def __init__(self, make: Make, place: str) -> None:
        self._make = make
        self._place = place
        self.store = make(place)
        self.failures: list[tuple[StoreError, set[str]]] = []
        self.begun: list[str] = []
        self.acks: dict[str, list[int]] = {}
        self.ended: list[str] = []
        self.renamed: list[bool] = []
        self.told: list[str] = []
        self.written: dict[str, tuple[list[bytes], bytes]] = {}
        self.asked_to_end: dict[str, tuple[bool, StoredLog]] = {}
        self.going_on: set[str] = set()
        """The streams that get no end when the store is opened."""

    async def start(self) -> list[StreamSummary]:
        """Open the store."""
        self.store.on_failure = lambda error, streams: self.failures.append((error, streams))
        return await self.store.open(self._end)

    def _end(
        self, record: StreamRecord, cancelled: bool, log: StoredLog
    ) -> tuple[Outcome, StoredMessage | None] | StreamRecord:
        self.asked_to_end[record.stream_id] = (cancelled, log)
        if record.stream_id in self.going_on:
            return msgspec.structs.replace(record, again=record.again + b"!")
        outcome = Outcome(StreamState.INTERRUPTED, len(log.bodies), error_type="interrupted")
        return outcome, message(record.session_id, "cut off", stream_id=record.stream_id, message_id="a")

    async def restart(self) -> list[StreamSummary]:
        """Close it, and open it where it was."""
        await self.store.close()
        self.store = self._make(self._place)
        return await self.start()

    async def settle(self) -> None:
        """Wait until everything written so far is acknowledged."""
        await self.store.history("")
        await asyncio.sleep(0)

    def create(self, stream_id: str, session_id: str = "ses") -> StreamRecord:
        """Begin a log."""
        made = record(stream_id, session_id)
        self.acks[stream_id] = []
        self.written[stream_id] = ([], b"")
        self.store.create(made, lambda: self.begun.append(stream_id))
        return made

    def append(self, stream_id: str, *texts: str, kind: Kind = Kind.TEXT) -> None:
        """Add chunks to it."""
        bodies, kinds = self.written[stream_id]
        new = [text.encode() for text in texts]
        self.written[stream_id] = (bodies + new, kinds + bytes([kind]) * len(new))
        self.store.append(stream_id, len(bodies) + 1, new, bytes([kind]) * len(new), self.acks[stream_id].append)

    def finish(self, stream_id: str, outcome: Outcome | None = None) -> Outcome:
        """End it."""
        bodies, kinds = self.written[stream_id]
        outcome = outcome or Outcome(StreamState.COMPLETE, len(bodies), finish_reason="stop")
        self.store.finish(stream_id, outcome, bodies, kinds, lambda: self.ended.append(stream_id))
        return outcome

    async def expect_log(self, stream_id: str, outcome: Outcome) -> None:
        """See that a durable store gives back what was written."""
        found = await self.store.load(stream_id)
        if not self.store.durable:
            expect(found is None, "a store that is not durable has no log to load")
            return
        expect(found is not None, f"{stream_id} can be loaded")
        assert found is not None
        bodies, kinds = self.written[stream_id]
        expect(list(found.bodies) == bodies, f"{stream_id} comes back with its bodies")
        expect(found.kinds == kinds, f"{stream_id} comes back with its kinds")
        expect(found.outcome == outcome, f"{stream_id} comes back with its outcome")
        expect(found.record.stream_id == stream_id, f"{stream_id} comes back with its record")


def record(stream_id: str, session_id: str = "ses") -> StreamRecord:
    """A stream's record."""
    return StreamRecord(stream_id, session_id, "r-" + stream_id, "e-" + stream_id, None, 1.5)


def message(
    session_id: str, content: str, created: float = 1.0, stream_id: str | None = None, message_id: str = "m"
) -> StoredMessage:
    """A message of a session."""
    role = "user" if stream_id is None else "assistant"
    return StoredMessage(message_id, session_id, role, content, created, stream_id=stream_id)


async def a_log_comes_back(bench: Bench) -> None:
    """What was appended and finished is loaded as it was, before and after a restart."""
    bench.create("s")
    for text in UNICODE:
        bench.append("s", text)
    bench.append("s", "b", "c", kind=Kind.REASONING)
    bench.append("s", "{}", kind=Kind.DATA)
    outcome = bench.finish(
        "s",
        Outcome(
            StreamState.CANCELLED,
            len(UNICODE) + 3,
            finish_reason="cancelled",
            usage=Usage(1, 2),
            ttft_ms=0.5,
            receipt=Receipt(3, 2, 1.0),
        ),
    )
    await bench.settle()
    expect(bench.ended == ["s"], "an end is acknowledged, once")
    await bench.expect_log("s", outcome)
    summaries = await bench.restart()
    if bench.store.durable:
        expect([s.record for s in summaries] == [record("s")], "a stream is listed with its record")
        expect(summaries[0].outcome == outcome and summaries[0].size > 70_000, "and with its outcome and size")
    else:
        expect(summaries == [], "a store that is not durable lists nothing")
    await bench.expect_log("s", outcome)


async def acknowledgements_are_in_order(bench: Bench) -> None:
    """Each append is acknowledged, alone or by a later one; never a lower id than before, never one not written."""
    bench.create("s")
    for number in range(1, 21):
        bench.append("s", "x", "y")
        if number % 7 == 0:
            await bench.settle()
            expect(bench.acks["s"][-1] == 2 * number, "what is written is acknowledged before it can be read")
    bench.finish("s")
    await bench.settle()
    acks = bench.acks["s"]
    expect(bench.begun == ["s"], "a beginning is acknowledged, once")
    expect(acks == sorted(set(acks)) and acks[-1] == 40, f"acknowledgements grow to the last chunk, got {acks}")


async def many_streams_interleave(bench: Bench) -> None:
    """Streams that are written turn by turn stay apart."""
    names = [f"s{number}" for number in range(40)]
    for name in names:
        bench.create(name)
    for turn in range(10):
        for number, name in enumerate(names):
            if number % (turn + 1) == 0:
                bench.append(name, f"{name}-{turn}")
        await asyncio.sleep(0)
    outcomes = {name: bench.finish(name) for name in reversed(names)}
    await bench.settle()
    expect(sorted(bench.ended) == sorted(names), "all ends are acknowledged")
    for name in names:
        await bench.expect_log(name, outcomes[name])
    listed = [summary.record.stream_id for summary in await bench.restart()]
    expect(listed == (names if bench.store.durable else []), "streams are listed oldest first")


async def an_empty_stream(bench: Bench) -> None:
    """A stream that ends without a chunk is a stream."""
    bench.create("s")
    outcome = bench.finish("s", Outcome(StreamState.FAILED, 0, error_type="provider_error", message="no"))
    await bench.settle()
    expect(bench.ended == ["s"], "its end is acknowledged")
    await bench.expect_log("s", outcome)


async def what_was_cut_off_gets_its_end(bench: Bench) -> None:
    """A stream without an end gets one when the store is opened, with everything it had, and only then."""
    for name in ("running", "cancelled", "empty", "done"):
        bench.create(name)
        bench.store.save_message(message("ses", "", stream_id=name, message_id=name))
    bench.append("running", "a", "b")
    bench.append("cancelled", "c")
    bench.append("done", "d")
    bench.append("running", "e")
    bench.store.cancel("cancelled")
    done = bench.finish("done")
    await bench.settle()
    await bench.restart()
    if not bench.store.durable:
        expect(bench.asked_to_end == {}, "a store that is not durable has nothing to end")
        return
    expect(set(bench.asked_to_end) == {"running", "cancelled", "empty"}, "only what was cut off gets an end")
    for name, (cancelled, log) in bench.asked_to_end.items():
        expect(cancelled == (name == "cancelled"), "a cancel is remembered")
        expect((list(log.bodies), log.kinds) == bench.written[name], "an end is made of all that is left")
        await bench.expect_log(name, Outcome(StreamState.INTERRUPTED, len(log.bodies), error_type="interrupted"))
    await bench.expect_log("done", done)
    said = {each.stream_id: each.content for each in await bench.store.history("ses")}
    expect(said["running"] == "cut off" and said["done"] == "", "its message is renewed, and no other")
    bench.asked_to_end.clear()
    expect(len(await bench.restart()) == 4 and not bench.asked_to_end, "an end is made once")


async def what_goes_on_is_a_log_like_any(bench: Bench) -> None:
    """A stream that goes on after a crash has the chunks it had, takes more, and can be cut off again, and end."""
    bench.going_on = {"much", "empty", "last"}
    for name in ("much", "other", "empty", "last"):
        bench.create(name)
    bench.append("much", "a", "b")
    bench.append("other", "c")
    bench.append("much", "d")
    bench.append("last", "e")
    await bench.settle()
    for count in (1, 2):
        ended = await bench.restart()
        running = {log.record.stream_id: log for log in bench.store.take_running()}
        expect(bench.store.take_running() == [], "they are given once")
        if not bench.store.durable:
            expect(running == {}, "nothing goes on where nothing is kept")
            return
        expect({summary.record.stream_id for summary in ended} == {"other"}, "what goes on has not ended")
        expect(running.keys() == bench.going_on, "what goes on is given")
        for name, log in running.items():
            expect((list(log.bodies), log.kinds) == bench.written[name], f"{name} goes on with all its chunks")
            expect(log.record.again == b"!" * count, "and with its new record")
            expect(log.outcome is None and log.whole, "and has no end")
            bench.append(name, f"more {count}")
        await bench.settle()
        expect(all(bench.acks[name][-1] == len(bench.written[name][0]) for name in running), "more is acknowledged")
    outcome = bench.finish("much")
    bench.store.delete("empty")
    await bench.settle()
    await bench.expect_log("much", outcome)
    bench.going_on.clear()
    listed = {summary.record.stream_id: summary.record for summary in await bench.restart()}
    expect(listed.keys() == {"much", "other", "last"}, "they end as others do")
    expect(listed["last"].again == b"", "what has ended after all is not to be asked for again")
    await bench.expect_log("last", Outcome(StreamState.INTERRUPTED, 3, error_type="interrupted"))


async def a_record_is_renewed(bench: Bench) -> None:
    """A new record replaces the old one, together with what is written beside it, also of a stream that has no end."""
    told: list[str] = []
    for name in ("open", "done"):
        made = bench.create(name)
        bench.append(name, "a")
        bench.store.update(msgspec.structs.replace(made, note=b"first"), lambda: told.append("replaced"))
        bench.store.update(msgspec.structs.replace(made, note=b"last"), lambda: told.append("last"))
    bench.finish("done")
    await bench.settle()
    expect(told.count("last") == 2, "a new record is acknowledged")
    summaries = await bench.restart()
    notes = {summary.record.stream_id: summary.record.note for summary in summaries}
    expect(notes == ({"open": b"last", "done": b"last"} if bench.store.durable else {}), "the last record is listed")


async def a_deleted_log_is_gone(bench: Bench) -> None:
    """What was deleted is not loaded and not listed; deleting it again, or what never was, is fine."""
    for name in ("a", "b"):
        bench.create(name)
        bench.append(name, name)
        bench.finish(name)
    await bench.settle()
    for name in ("a", "a", "never was"):
        bench.store.delete(name)
    await bench.settle()
    expect(await bench.store.load("a") is None, "a deleted log is not loaded")
    expect(await bench.store.load("never was") is None, "nor is one that never was")
    listed = [summary.record.stream_id for summary in await bench.restart()]
    expect(listed == (["b"] if bench.store.durable else []), "a deleted log is not listed")
    bench.store.delete("b")
    expect(await bench.restart() == [], "a log of an earlier run can be deleted")


async def messages_are_in_order(bench: Bench) -> None:
    """A question sees what was written before it, and nothing that comes later."""
    store = bench.store
    bench.create("s")
    before = store.history("ses")
    store.save_message(message("ses", "hi ä😀", 1.0))
    store.save_message(message("ses", "", 1.0, stream_id="s", message_id="a"))
    store.save_message(message("other", "hidden", 2.0))
    between = store.history("ses")
    said = msgspec.structs.replace(
        message("ses", "said", 1.0, stream_id="s", message_id="a"),
        reasoning="hm",
        tool_calls=[ToolCall("c", "f", "{}")],
    )
    store.save_message(said)
    store.save_message(message("ses", "thanks", 3.0))
    after = store.history("ses")
    expect(await before == [], "a question sees nothing that is written later")
    expect([each.content for each in await between] == ["hi ä😀", ""], "a question sees what was written before")
    expect([each.content for each in await after] == ["hi ä😀", "said", "thanks"], "the message of a stream is renewed")
    expect(await store.history("nobody") == [], "a session without a message has none")
    bench.finish("s")
    await bench.restart()
    if bench.store.durable:
        kept = await bench.store.history("ses")
        expect([each.content for each in kept] == ["hi ä😀", "said", "thanks"], "messages outlive the process")
        expect(kept[1] == said, "with all they hold")


async def sessions_are_known(bench: Bench) -> None:
    """A session is there from its first message on, until it is deleted."""
    store = bench.store
    store.rename_session("ses", "too early", bench.renamed.append)
    expect(await store.session("ses") is None, "a session without a message is not known")
    store.save_message(message("ses", "one", 5.0))
    store.save_message(message("ses", "two", 7.0))
    found = await store.session("ses")
    assert found is not None
    expect((found.title, found.created, found.updated) == (None, 5.0, 7.0), "a session has the times of its messages")
    store.rename_session("ses", "Über alles", bench.renamed.append)
    found = await store.session("ses")
    assert found is not None
    expect(found.title == "Über alles", "a session can be renamed")
    await bench.settle()
    expect(bench.renamed == [False, True], f"a title is acknowledged where there is a session, got {bench.renamed}")
    store.save_message(message("ses", "late", 6.0))
    found = await store.session("ses")
    assert found is not None
    expect((found.title, found.updated) == ("Über alles", 7.0), "its time never goes back, and its title stays")
    store.delete_session("ses")
    expect(await store.session("ses") is None and await store.history("ses") == [], "a deleted session is gone")
    store.delete_session("ses")
    await bench.restart()
    expect(await bench.store.session("ses") is None, "and stays gone")


async def pages_make_the_whole(bench: Bench) -> None:
    """Read from the newest to the oldest, pages hold every message once, in order, and say when there are no more."""
    store = bench.store
    everything = [message("ses", f"{number} ä😀", message_id=f"m{number}") for number in range(10)]
    for number, each in enumerate(everything):
        store.save_message(each)
        store.save_message(message("other", "hidden", message_id=f"o{number}"))
    for limit in (1, 3, 10, 100):
        page = await store.page("ses", None, limit, 1_000_000)
        assert page is not None
        found = page.messages
        expect(len(found) == min(limit, 10), "a page has as many messages as were asked for")
        while page.more:
            page = await store.page("ses", found[0].message_id, limit, 1_000_000)
            assert page is not None
            found = [*page.messages, *found]
        expect(found == everything, "pages make the whole")
    expect(await store.page("ses", "never was", 5, 1000) is None, "there is no page before what there is not")
    expect(await store.page("ses", "o1", 5, 1000) is None, "nor before another session's message")
    empty = await store.page("nobody", None, 5, 1000)
    expect(
        empty is not None and (empty.messages, empty.more) == ([], False), "a session without a message has one page"
    )
    store.save_message(message("ses", "x" * 5000, message_id="large"))
    page = await store.page("ses", None, 5, 1000)
    expect(page is not None and [each.message_id for each in page.messages] == ["large"], "a large one comes alone")
    page = await store.page("ses", "large", 5, 150)
    expect(page is not None and page.more and 0 < len(page.messages) < 5, "and of small ones as many as fit")
    bench.create("s")
    store.save_message(message("ses", "", stream_id="s", message_id="a"))
    store.save_message(message("ses", "renewed", stream_id="s", message_id="b"))
    expect(await store.page("ses", "a", 5, 1000) is None, "a renewed message has its new id")
    await bench.settle()
    bench.finish("s")
    await bench.restart()
    page = await bench.store.page("ses", "b", 2, 1_000_000)
    if bench.store.durable:
        ids = [each.message_id for each in page.messages] if page else []
        expect(ids == ["m9", "large"], f"pages are there after a restart, got {ids}")


async def what_is_gone_is_told_when_it_is_written(bench: Bench) -> None:
    """A deletion is acknowledged once, and not before it is written; also of what there is not."""
    store, told = bench.store, bench.told
    bench.create("s")
    bench.finish("s")
    store.save_message(message("ses", "one"))
    await bench.settle()
    store.delete("s", lambda: told.append("log"))
    store.delete("never was", lambda: told.append("no log"))
    store.delete_session("ses", lambda: told.append("session"))
    store.delete_session("never was", lambda: told.append("no session"))
    expect(told == [] or not store.durable, "nothing is acknowledged before it is written")
    await bench.settle()
    expect(sorted(told) == ["log", "no log", "no session", "session"], f"every deletion is acknowledged, got {told}")
    store.save_message(message("ses", "two"))
    store.rename_session("ses", "a title", bench.renamed.append)
    store.delete_session("ses", lambda: told.append("again"))
    await store.close()
    expect((bench.renamed, told[4:]) == ([True], ["again"]), "also what is pending when the store is closed")


async def closing_writes_what_is_pending(bench: Bench) -> None:
    """Nothing that was asked for before `close` is lost by it, and closing twice is fine."""
    bench.create("s")
    bench.append("s", "a")
    bench.store.save_message(message("ses", "hi"))
    outcome = bench.finish("s")
    await bench.store.close()
    expect(bench.ended == ["s"] and bench.acks["s"] == [1], "what was pending is acknowledged")
    await bench.restart()
    await bench.expect_log("s", outcome)


CHECKS: list[Callable[[Bench], Awaitable[None]]] = [
    a_log_comes_back,
    acknowledgements_are_in_order,
    many_streams_interleave,
    an_empty_stream,
    what_was_cut_off_gets_its_end,
    what_goes_on_is_a_log_like_any,
    a_record_is_renewed,
    a_deleted_log_is_gone,
    messages_are_in_order,
    sessions_are_known,
    pages_make_the_whole,
    what_is_gone_is_told_when_it_is_written,
    closing_writes_what_is_pending,
]
"""All checks, for whoever wants to run them one by one."""


# -- providers

PATIENCE = 10.0
"""Seconds that a provider gets for each step of a check."""
REASONS = ("stop", "length", "content_filter", "tool_calls")
MOST_AT_ONCE = 4096
"""Deltas that a provider may put before it looks whether there is room: what one read of an upstream may bring."""


async def check_provider(target: Any, request: ChatRequest | None = None) -> None:
    """Hold a provider to `wsstream.providers.base.Provider`.

    ``target`` is what ``--provider module:attribute`` may name: an async generator function, a provider, or what makes
    one. It is asked ``request`` several times, also at once, and has to answer it with three deltas or more.

    Raises:
        AssertionError: it does not keep it.
    """
    provider = adapt(target)
    request = request or ChatRequest([ChatMessage("user", "Say a few words.")])
    try:
        for check in PROVIDER_CHECKS:
            try:
                async with asyncio.timeout(PATIENCE):
                    await check(provider, request)
            except TimeoutError:
                raise AssertionError(f"{check.__name__}: it takes longer than {PATIENCE:g} seconds") from None
    finally:
        await provider.close()


async def _answered(provider: Provider, request: ChatRequest) -> tuple[ListSink, Finish]:
    sink = ListSink()
    try:
        finish = await provider.answer(request, sink)
    except StreamFailure as failure:
        raise AssertionError(f"it answers this request, but: {failure.error_type}: {failure}") from failure
    expect(len(sink.deltas) >= 3, f"it answers with three deltas or more, got {len(sink.deltas)}")
    return sink, finish


async def an_answer_has_an_end(provider: Provider, request: ChatRequest) -> None:
    """It puts deltas that are not empty, and returns a `Finish` with a reason that clients know."""
    sink, finish = await _answered(provider, request)
    expect(isinstance(finish, Finish), f"it returns a Finish, got {finish!r}")
    expect(finish.reason in REASONS, f"its reason is one of {', '.join(REASONS)}, got {finish.reason!r}")
    count = len(sink.deltas)
    await asyncio.sleep(0.05)
    expect(len(sink.deltas) == count, "it puts nothing behind its end")


async def calls_are_lines(provider: Provider, request: ChatRequest) -> None:
    """What it puts of a tool's call is one line of JSON, with its newline."""
    sink, _ = await _answered(provider, request)
    for delta in sink.deltas:
        if delta.kind is Kind.TOOL_CALL:
            expect(delta.content.endswith("\n") and delta.content.count("\n") == 1, f"one line: {delta.content!r}")
            fields = msgspec.json.decode(delta.content)
            expect(isinstance(fields, dict) and "index" in fields, f"a call has an index: {delta.content!r}")


async def it_waits_for_room(provider: Provider, request: ChatRequest) -> None:
    """Without room it puts nothing more, but for what it had read already; with room it goes on where it was."""
    sink = ListSink(room=1)
    task = asyncio.create_task(provider.answer(request, sink))
    while not sink.waits and not task.done():  # noqa: ASYNC110 - a sink has no event for it
        await asyncio.sleep(0.002)
    # Where all of an answer came with one read, there is nothing to wait for.
    asked = sink.waits or len(sink.puts) < 3
    expect(bool(asked), "it waits where there is no room: await sink.give_way() or sink.wait_room()")
    count = len(sink.deltas)
    await asyncio.sleep(0.05)
    expect(len(sink.deltas) == count <= MOST_AT_ONCE, f"it puts nothing without room, got {len(sink.deltas)}")
    sink.give()
    await task


async def a_cancel_ends_it(provider: Provider, request: ChatRequest) -> None:
    """Cancelled, it ends soon and as cancelled, puts nothing more, and can be asked again."""
    sink = ListSink(room=1)
    task = asyncio.create_task(provider.answer(request, sink))
    while not sink.deltas and not task.done():  # noqa: ASYNC110 - a sink has no event for it
        await asyncio.sleep(0.002)
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
        expect(task.cancelled(), "a cancelled answer ends with CancelledError")
    count = len(sink.deltas)
    await asyncio.sleep(0.05)
    expect(len(sink.deltas) == count, "it puts nothing after a cancel")
    await _answered(provider, request)


async def answers_do_not_meet(provider: Provider, request: ChatRequest) -> None:
    """Several answers at once are each whole."""
    answers = await asyncio.gather(*(_answered(provider, request) for _ in range(3)))
    expect(all(isinstance(finish, Finish) for _, finish in answers), "each has its own end")


PROVIDER_CHECKS: list[Callable[[Provider, ChatRequest], Awaitable[None]]] = [
    an_answer_has_an_end,
    calls_are_lines,
    it_waits_for_room,
    a_cancel_ends_it,
    answers_do_not_meet,
]
"""All checks of providers."""
