"""Conversations on real sockets: continued, told, shared by tabs, renamed, deleted, and there after a restart."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.answers import answered, begun, history, said, until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.mounted import mount
from tests.native import Answer, Native, connected, frame
from tests.virtual import in_virtual_time
from wsstream.access import Access
from wsstream.chunks import ChatMessage, Finish, Kind, Usage
from wsstream.errors import ContentFiltered
from wsstream.messages import SessionChanged
from wsstream.protocol import ServerProtocol
from wsstream.stores.base import StoredPage
from wsstream.stores.database import Database


async def refusal(native: Native, stream_id: str) -> str:
    """The error type with which a resume is refused."""
    await native.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
    error = await native.until("error", stream_id=stream_id)
    return str(error["error_type"])


# -- what the provider is told


async def test_a_conversation_is_continued(serve: Serve, scripted: Scripted, store: str) -> None:
    """A request with one new message brings the provider exactly what was said before, and the message."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native:
        await answered(native, scripted, "hel", "lo", message="hi")
        await answered(native, scripted, "fine", message="how are you?")
        await answered(native, scripted, message="and now?")
    assert scripted.runs[0].request.messages == [ChatMessage("user", "hi")]
    assert scripted.last.request.messages == [
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "hello"),
        ChatMessage("user", "how are you?"),
        ChatMessage("assistant", "fine"),
        ChatMessage("user", "and now?"),
    ]


async def test_a_list_says_itself_what_was_said(serve: Serve, scripted: Scripted, store: str) -> None:
    """A request with a list of messages brings the provider just that, and the session keeps what is new in it."""
    server = await serve(provider=SCRIPTED, store=store)
    parts = [{"type": "text", "text": "hi"}]
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    async with connected(server) as native:
        await answered(native, scripted, "one", message="first")
        await answered(native, scripted, "two", messages=asked, message=None)
        told = await history(native)
    assert [(message.role, message.content) for message in scripted.last.request.messages] == [
        ("system", "be brief"),
        ("user", parts),
    ]
    assert said(told) == [("user", "first"), ("assistant", "one"), ("user", parts), ("assistant", "two")]


async def test_two_requests_at_once(serve: Serve, scripted: Scripted, store: str) -> None:
    """Two answers of one session run side by side, and the second knows the question before it."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native:
        first, one = await begun(native, scripted, message="a")
        second, two = await begun(native, scripted, message="b")
        two.put("B")
        one.put("A")
        for run in (two, one):
            run.finish()
        await native.read(first)
        await native.read(second)
        assert said(await history(native)) == [("user", "a"), ("assistant", "A"), ("user", "b"), ("assistant", "B")]
    assert [message.content for message in two.request.messages] == ["a", "b"]


# -- what a page is told


async def test_history_tells_everything(serve: Serve, scripted: Scripted, store: str) -> None:
    """History has each message in order, with its time, whether it is whole, and the tokens that were counted."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native:
        good, run = await begun(native, scripted)
        run.put("good")
        run.finish(Finish("stop", Usage(3, 7)))
        await native.read(good)
        bad, run = await begun(native, scripted)
        run.put("ba")
        run.fail(ContentFiltered())
        await native.read(bad)
        stopped, run = await begun(native, scripted)
        run.put("stop")
        await native.read(stopped, to=1)
        await native.send("cancel_stream", stream_id=stopped)
        await native.read(stopped)
        told = await history(native)
        assert told == {**await history(native), "session_id": "mine"}
    messages = told["messages"]
    assert said(told) == [
        ("user", "hi"),
        ("assistant", "good"),
        ("user", "hi"),
        ("assistant", "ba"),
        ("user", "hi"),
        ("assistant", "stop"),
    ]
    assert [message["is_complete"] for message in messages] == [True, True, True, False, True, False]
    assert [message.get("stream_id") for message in messages[1::2]] == [good, bad, stopped]
    assert messages[1]["usage"] == {"input_tokens": 3, "output_tokens": 7}
    assert len({message["id"] for message in messages}) == 6
    created = [message["created"] for message in messages]
    assert created == sorted(created)
    assert time.time() - 60 < created[0] <= created[-1] <= time.time()
    assert not any("last_chunk_id" in message for message in messages)


async def test_a_running_answer_is_followed_from_its_message(serve: Serve, scripted: Scripted, store: str) -> None:
    """The message of a running answer has its text so far, and following from its last chunk gives exactly the rest."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native, connected(server, session_id="mine") as tab:
        stream_id, run = await begun(native, scripted)
        assert (await history(tab))["messages"][-1]["last_chunk_id"] == 0
        run.put("one ", "two ", "three ")
        await native.read(stream_id, to=3)
        answer = (await history(tab))["messages"][-1]
        assert (answer["content"], answer["last_chunk_id"], answer["is_complete"]) == ("one two three ", 3, False)
        await tab.resume(answer["stream_id"], answer["last_chunk_id"])
        run.put("four")
        run.finish()
        assert (await tab.read(stream_id)).text == "four"
        answer = (await history(tab))["messages"][-1]
    assert (answer["content"], answer["is_complete"], "last_chunk_id" in answer) == ("one two three four", True, False)


async def test_history_while_an_answer_ends(
    serve: Serve, scripted: Scripted, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that ends between the reading of its message and the telling of it is told as it ended."""
    server = await serve(provider=SCRIPTED, store=store)
    read, told = asyncio.Event(), asyncio.Event()
    ask = server.assembly.store.page

    async def slowly(*asked: Any) -> StoredPage | None:
        found = await ask(*asked)
        read.set()
        await told.wait()
        return found

    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("text")
        monkeypatch.setattr(server.assembly.store, "page", slowly)
        await native.send("get_history")
        await read.wait()
        run.finish()
        await native.read(stream_id)
        told.set()
        answer = (await native.until("history"))["messages"][-1]
    assert (answer["content"], answer["is_complete"], "last_chunk_id" in answer) == ("text", True, False)


LINES = (
    json.dumps({"index": 0, "id": "c", "name": "add"}) + "\n",
    json.dumps({"index": 0, "arguments": '{"a":1}'}) + "\n",
)


async def test_thoughts_and_calls_are_told_and_taken_up(serve: Serve, scripted: Scripted, store: str) -> None:
    """While an answer runs and later, history has all it holds; a tool's result joins it, and the provider is told."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native, connected(server, session_id="mine") as tab:
        stream_id, run = await begun(native, scripted)
        run.put("hm", kind=Kind.REASONING)
        run.put("so")
        run.put(LINES[0], kind=Kind.TOOL_CALL)
        await native.read(stream_id, to=3)
        running = (await history(tab))["messages"][-1]
        run.put(LINES[1], kind=Kind.TOOL_CALL)
        run.finish(Finish("tool_calls"))
        await native.read(stream_id)
        ended = (await history(tab))["messages"][-1]
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "so", "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "c", "content": "2"},
        ]
        await answered(native, scripted, "two", messages=turns, message=None)
        await answered(native, scripted, "fine", message="thanks")
        whole = (await history(tab))["messages"]
    for message, arguments in ((running, ""), (ended, '{"a":1}')):
        assert (message["content"], message["reasoning"]) == ("so", "hm")
        assert message["tool_calls"] == [{"id": "c", "name": "add", "arguments": arguments}]
    assert [(message["role"], message.get("tool_call_id")) for message in whole] == [
        *[("user", None), ("assistant", None), ("tool", "c")],
        *[("assistant", None), ("user", None), ("assistant", None)],
    ]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    assert scripted.last.request.messages == [
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "so", tool_calls=[call]),
        ChatMessage("tool", "2", tool_call_id="c"),
        ChatMessage("assistant", "two"),
        ChatMessage("user", "thanks"),
    ]


async def test_pages(serve: Serve, scripted: Scripted, store: str) -> None:
    """A long conversation is read from its end, page by page, within the size of a message."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native:
        for _ in range(3):
            await answered(native, scripted, "x" * 100_000)
        pages = [await history(native)]
        while pages[0].get("more"):
            pages.insert(0, await history(native, before=pages[0]["messages"][0]["id"]))
        assert [len(page["messages"]) for page in pages] == [2, 4]
        assert all(len(json.dumps(page)) < 257 * 1024 for page in pages)
        assert [role for page in pages for role, _ in said(page)] == ["user", "assistant"] * 3
        await native.send("get_history", before="gone")
        assert (await native.until("error"))["error_type"] == "bad_request"
        assert len((await history(native, limit=1))["messages"]) == 1


async def test_one_history_at_a_time(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A second question is refused while the first is being answered, and answered after that."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server) as native:
        await native.send("get_history")
        await native.send("get_history")
        await native.until_that(lambda m: m["type"] == "error" and m["error_type"] == "rate_limit")
        if "history" not in native.types():
            await native.until("history")
        await native.round_trip()
        assert native.types().count("history") == 1
        await history(native)


@in_virtual_time
async def test_histories_are_told_in_the_order_they_were_asked_for(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several questions may wait, a quick answer does not overtake a slow one, and only one is looked up at a
    time; answered ones make room."""
    under_way, most = 0, 0
    page = Access.page

    async def slowly(access: Access, session_id: str, *asked: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1.0 if session_id == "slow" else 0.1)
        under_way -= 1
        return await page(access, session_id, *asked)

    monkeypatch.setattr(Access, "page", slowly)
    async with mount(scripted, max_history_questions=2) as it:
        talk = await it.talk()
        for _ in range(2):
            for session_id in ("slow", "quick"):
                talk.say("get_history", session_id=session_id)
            await asyncio.sleep(2)
        assert [told["session_id"] for told in talk.of_type("history")] == ["slow", "quick"] * 2
        assert (most, await talk.found()) == (1, "served")


async def test_whoever_leaves_while_history_is_read(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A connection that is gone before its answer leaves nothing behind, and others are served."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server) as native:
        for _ in range(5):
            async with connected(server) as leaving:
                await leaving.send("get_history")
                leaving.drop()
        await until(lambda: len(server.registry) == 1)
        assert said(await history(native)) == []


async def test_a_large_history_waits_for_a_slow_reader(serve: Serve, scripted: Scripted, store: str) -> None:
    """A client on a slow line that asks for a long conversation is not cut off for it."""
    server = await serve(provider=SCRIPTED, store=store, window_bytes=1024 * 1024)
    async with connected(server, window=1000, max_queue=1) as native:
        await answered(native, scripted, *["x" * 1000] * 300)
        stream_id, run = await begun(native, scripted)
        native.socket.transport.pause_reading()
        run.put(*["y" * 1000] * 700)
        await until(lambda: any(member.paused for member in server.registry))  # type: ignore[attr-defined]
        await native.send("get_history")
        await asyncio.sleep(0.1)
        assert len(server.registry) == 1
        native.socket.transport.resume_reading()
        told = await native.until("history")
        (page,) = told["messages"]
        assert (len(page["content"]), told["more"]) == (700_000, True)
        (page,) = (await history(native, before=page["id"], limit=1))["messages"]
        (page,) = (await history(native, before=page["id"]))["messages"]
        assert len(page["content"]) == 300_000
        run.finish()
        assert (await native.read(stream_id)).last == 700


# -- several tabs


async def test_a_second_tab(serve: Serve, scripted: Scripted, store: str) -> None:
    """Another tab of the session learns what runs, follows it live beside the first, and may stop it for both."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as first, connected(server, greet=False) as second:
        stream_id, run = await begun(first, scripted)
        run.put("a", "b")
        await first.read(stream_id, to=2)
        greeting = await second.hello(session_id="mine")
        assert greeting["active_streams"] == [{"stream_id": stream_id, "last_chunk_id": 2, "state": "running"}]
        await second.resume(stream_id, 0)
        run.put("c")
        for tab in (first, second):
            assert (await tab.read(stream_id, to=3)).text == "abc"
        await second.send("cancel_stream", stream_id=stream_id)
        ends = [(await tab.read(stream_id)).end for tab in (first, second)]
        assert ends[0] == ends[1]
        assert ends[0] is not None
        assert ends[0]["finish_reason"] == "cancelled"


async def test_tabs_are_told_of_an_answer(serve: Serve, scripted: Scripted, store: str) -> None:
    """When one tab asks, the others of its session learn the stream and can follow it; nobody else hears of it."""
    server = await serve(provider=SCRIPTED, store=store)
    async with (
        connected(server, session_id="mine") as first,
        connected(server, session_id="mine") as second,
        connected(server) as stranger,
    ):
        stream_id, run = await begun(first, scripted)
        told = await second.until("session_changed")
        assert told == {"type": "session_changed", "session_id": "mine", "stream_id": stream_id}
        await second.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
        run.put("both")
        assert (await second.read(stream_id, to=1)).text == "both"
        for tab in (first, stranger):
            await tab.round_trip()
            assert "session_changed" not in tab.types()


@pytest.mark.parametrize("whose", [{}, {"session_id": "mine"}])
async def test_rename(serve: Serve, scripted: Scripted, store: str, whose: dict[str, str]) -> None:
    """A title is told to every tab of the session and to nobody else, and stays."""
    server = await serve(provider=SCRIPTED, store=store)
    async with (
        connected(server, session_id="mine") as first,
        connected(server, session_id="mine") as second,
        connected(server) as stranger,
    ):
        await answered(first, scripted, "x")
        await first.send("rename_session", title="A title", **whose)
        for tab in (first, second):
            assert await tab.until("session_changed", title="A title") == {
                "type": "session_changed",
                "session_id": "mine",
                "title": "A title",
            }
        assert (await history(second))["title"] == "A title"
        await stranger.round_trip()
        assert "session_changed" not in stranger.types()


async def test_no_title_is_confirmed_that_is_not_kept(serve: Serve, scripted: Scripted, store: str) -> None:
    """A session has no title before its first message: to give it one is refused, and told to nobody."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as native, connected(server, session_id="mine") as tab:
        await native.send("rename_session", title="too early")
        told = await native.until("error")
        assert (told["error_type"], "no such session" in told["message"]) == ("bad_request", True)
        await answered(native, scripted, "x")
        assert "title" not in await history(native)
        await tab.round_trip()
        assert not [message for message in (*native.seen, *tab.seen) if message.get("title") == "too early"]


async def test_no_crash_brings_back_what_somebody_saw_gone(
    serve: Serve, scripted: Scripted, sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment at which a session is told to be deleted or renamed, that is in the store's file."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    file, kept = Path(sqlite.removeprefix("sqlite:")), []
    tell = ServerProtocol.tell_session_changed

    def told(core: ServerProtocol, change: SessionChanged) -> None:
        if change.stream_id is None:
            kept.append(tmp_path / f"at-{len(kept)}")
            for suffix in ("", "-wal"):
                shutil.copy(f"{file}{suffix}", f"{kept[-1]}{suffix}")
        tell(core, change)

    monkeypatch.setattr(ServerProtocol, "tell_session_changed", told)
    async with connected(server, session_id="mine") as native:
        await answered(native, scripted, "x")
        _, run = await begun(native, scripted)
        run.put("half")
        await native.send("rename_session", title="A title")
        await native.until("session_changed", title="A title")
        await native.send("delete_session")
        await native.until("session_changed", deleted=True)
    renamed, deleted = (Database(str(path)) for path in kept)
    found = renamed.session("mine")
    assert found is not None
    assert (found.title, len(renamed.summaries())) == ("A title", 1)
    assert (deleted.session("mine"), deleted.history("mine"), deleted.summaries()) == (None, [], [])
    assert deleted.highest_number() == 0
    for database in (renamed, deleted):
        database.close()


async def test_delete(serve: Serve, scripted: Scripted, store: str) -> None:
    """A deleted session is told to every tab; its answers are stopped, its logs and messages are gone."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server, session_id="mine") as first, connected(server, session_id="mine") as second:
        ended = await answered(first, scripted, "x")
        running, run = await begun(first, scripted)
        run.put("half")
        await first.read(running, to=1)
        await second.send("delete_session")
        for tab in (first, second):
            await tab.until("session_changed", deleted=True)
        assert ((await first.read(running)).end or {})["finish_reason"] == "cancelled"
        assert run.closed.is_set()
        await until(lambda: not server.streams.of_session("mine"))
        assert said(await history(first)) == []
        assert {await refusal(first, stream_id) for stream_id in (ended, running)} == {"log_trimmed"}
        await answered(first, scripted, "new", message="anew")
        assert said(await history(second)) == [("user", "anew"), ("assistant", "new")]
    assert scripted.last.request.messages == [ChatMessage("user", "anew")]


async def test_another_session_is_deleted(serve: Serve, scripted: Scripted) -> None:
    """A session is deleted by its name from a connection of another one, which is told too and keeps its own."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="old") as old, connected(server, session_id="mine") as native:
        await answered(old, scripted, "x")
        await answered(native, scripted, "y")
        await native.send("delete_session", session_id="old")
        for tab in (old, native):
            assert (await tab.until("session_changed", deleted=True))["session_id"] == "old"
        assert said(await history(native, session_id="old")) == []
        assert len(said(await history(native))) == 2


# -- restarts


async def test_a_conversation_survives_a_restart(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """After a restart a session has its messages and title, and goes on where it was."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        await answered(native, scripted, "hello", message="hi")
        await native.send("rename_session", title="A title")
        before = await history(native)
    await server.stop()
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        assert await history(native) == before
        await answered(native, scripted, "fine", message="how are you?", request_id="new")
    assert [message.content for message in scripted.last.request.messages] == ["hi", "hello", "how are you?"]


async def test_a_request_is_made_once_across_restarts(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """The same request after a restart is the same stream, from its start, and asks no provider."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        stream_id = await answered(native, scripted, "a", "b", request_id="once")
        end = native.answer(stream_id).end
    await server.stop()
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        assert await native.ask(request_id="once") == stream_id
        answer = await native.read(stream_id)
        assert (answer.text, answer.end) == ("ab", end)
        assert len(said(await history(native))) == 2
    async with connected(server) as other:
        assert await other.ask(request_id="once") != stream_id
    assert len(scripted.runs) == 2


async def test_ended_streams_are_resumed_after_a_restart(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """What had ended can be read from any position after a restart; what ran was interrupted, and kept so far."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        ended = await answered(native, scripted, "a", "b", "c")
        cut, run = await begun(native, scripted)
        run.put("half")
        await native.read(cut, to=1)
        await server.stop()
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine", greet=False) as native:
        assert (await native.hello(session_id="mine"))["active_streams"] == []
        resumed = await native.resume(ended, 1)
        assert (resumed["tail_chunk_id"], resumed["state"]) == (3, "complete")
        assert (await native.read(ended)).text == "bc"
        assert (await native.resume(cut, 0))["state"] == "interrupted"
        answer = await native.read(cut)
        assert (answer.text, (answer.end or {})["error_type"]) == ("half", "interrupted")
        assert said(await history(native))[-1] == ("assistant", "half")


async def test_retention_goes_on_after_a_restart(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A stream that became too old while no server ran is no longer kept; what was said is."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        stream_id = await answered(native, scripted, "x")
    await server.stop()
    server = await serve(provider=SCRIPTED, store=sqlite, retention=0.001)
    async with connected(server, session_id="mine") as native:
        assert await refusal(native, stream_id) == "log_trimmed"
        assert said(await history(native)) == [("user", "hi"), ("assistant", "x")]


async def test_a_log_that_cannot_be_read(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A log whose bytes are not those that were written is refused, not shown; the connection and the others go on."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        broken = await answered(native, scripted, "broken")
        good = await answered(native, scripted, "good")
    await server.stop()
    with sqlite3.connect(sqlite.removeprefix("sqlite:")) as database:
        database.execute("UPDATE logs SET chunks = x'00010203' WHERE number = 1")
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        for _ in range(2):
            await native.resume(broken, 0)
            error = await native.until("error", stream_id=broken)
            assert error["error_type"] == "internal_error"
        await native.resume(good, 0)
        assert (await native.read(good)).text == "good"


# -- logs that are not in memory


async def test_logs_are_loaded_for_whoever_asks(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """An answer whose chunks have left the memory is read again by all who ask for it at once, each from its place."""
    server = await serve(provider=SCRIPTED, store=sqlite, max_memory_bytes=1)
    async with connected(server, session_id="mine") as native, connected(server) as other:
        stream_id = await answered(native, scripted, "a", "b", "c", request_id="once")
        await answered(native, scripted, "another")
        assert not server.streams.get(stream_id).log.loaded
        asked = [
            {"type": "chat_request", "request_id": "once", "message": "hi"},
            {"type": "chat_request", "request_id": "once", "message": "hi"},
            {"type": "resume_stream", "stream_id": stream_id, "last_chunk_id": 1},
            {"type": "resume_stream", "stream_id": stream_id, "last_chunk_id": 2},
        ]
        for count in (2, 3, 4):
            native.answers[stream_id] = Answer(stream_id, max(0, count - 2))
            native.send_bytes(b"".join([frame(1, json.dumps(message).encode()) for message in asked[:count]]))
            await other.resume(stream_id, 0)
            assert (await native.read(stream_id)).text == "abc"[max(0, count - 2) :]
            assert (await other.read(stream_id)).text == "abc"
            await native.round_trip()
            assert native.types()[-4:-2] == ["content_chunk" if count == 4 else "chunk_batch", "stream_complete"]
            assert server.streams.get(stream_id).log.attachments == []
            await answered(native, scripted, "another")
            assert not server.streams.get(stream_id).log.loaded


async def test_chunks_of_an_unloaded_log_are_sent_again(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """What was sent can be had once more, also when the answer is over and its chunks have left the memory."""
    server = await serve(provider=SCRIPTED, store=sqlite, max_memory_bytes=1)
    async with connected(server, batch=False) as native:
        stream_id = await answered(native, scripted, "a", "b", "c")
        await answered(native, scripted, "another")
        assert not server.streams.get(stream_id).log.loaded
        del native.answers[stream_id]
        native.answer(stream_id).last = 1
        await native.send("request_chunks", stream_id=stream_id, from_chunk_id=2, to_chunk_id=3)
        await native.until("content_chunk", chunk_id=3)
        assert native.answer(stream_id).text == "bc"
        await native.round_trip()
        assert native.types()[-3] == "content_chunk"


async def test_a_resume_behind_a_question_for_chunks(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A resume that comes while chunks of the unloaded log are asked for again wins: everything is read behind it."""
    server = await serve(provider=SCRIPTED, store=sqlite, max_memory_bytes=1)
    async with connected(server, window=2) as native:
        stream_id = await answered(native, scripted, *"abcdefgh")
        await answered(native, scripted, "another")
        assert not server.streams.get(stream_id).log.loaded
        await native.send("request_chunks", stream_id=stream_id, from_chunk_id=2, to_chunk_id=3)
        await native.resume(stream_id, 0)
        assert (await native.read(stream_id)).text == "abcdefgh"
        await native.round_trip()
        assert not server.streams.get(stream_id).log.attachments
