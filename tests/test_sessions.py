"""Conversations: what is noted of a request and its answer, and what the provider is told of it."""

from __future__ import annotations

from typing import Any

from tests.virtual import in_virtual_time
from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatMessage, Delta, Kind, Outcome, StreamState, ToolCall, Usage
from wsstream.messages import ChatRequested, encode, rewind_body
from wsstream.said import Said
from wsstream.sessions import Sessions, answer_message, end_of_interrupted
from wsstream.stores.base import StoredLog, StreamRecord
from wsstream.stores.memory import MemoryStore

COMPLETE = Outcome(StreamState.COMPLETE, 1, finish_reason="stop", usage=Usage(3, 4))


class Talk:
    """One session in a store of its own."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sessions = Sessions(self.store)
        self._asked = 0

    async def ask(self, **fields: Any) -> tuple[StreamRecord, list[ChatMessage]]:
        """Ask something; the record of the answer, and what its provider is given."""
        self._asked += 1
        record = StreamRecord(f"s_{self._asked}", "ses", f"r{self._asked}", "e", None, float(self._asked))
        asked = ChatRequested(request_id=record.request_id, **fields)
        conversation = self.sessions.begin(record, asked, self.sessions.earlier("ses"))
        return record, await conversation()

    async def said(self, running: ChunkLog | None = None) -> list[tuple[str, Any]]:
        """Who said what, as the history shows it."""
        messages, _ = await self.sessions.history("ses", lambda _: running)
        return [(message.role, message.content) for message in messages]


@in_virtual_time
async def test_a_conversation_goes_on() -> None:
    """A request with only a new message is asked behind all that was said before, and is noted once."""
    talk = Talk()
    record, given = await talk.ask(message="hi")
    assert given == [ChatMessage("user", "hi")]
    talk.sessions.end(record, Said("hello"), COMPLETE)
    _, given = await talk.ask(message="and?")
    assert given == [ChatMessage("user", "hi"), ChatMessage("assistant", "hello"), ChatMessage("user", "and?")]
    assert await talk.said() == [("user", "hi"), ("assistant", "hello"), ("user", "and?"), ("assistant", "")]


@in_virtual_time
async def test_a_request_that_says_everything_itself() -> None:
    """A list of messages goes to the provider as it is; the last is noted if it is the user's."""
    talk = Talk()
    await talk.ask(message="before")
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", "hi")]
    _, given = await talk.ask(messages=messages)
    assert given == messages
    assert (await talk.said())[2:] == [("user", "hi"), ("assistant", "")]
    _, given = await talk.ask(messages=[ChatMessage("user", "x"), ChatMessage("assistant", "go on")])
    assert given[-1] == ChatMessage("assistant", "go on")
    assert (await talk.said())[4:] == [("assistant", "")]


@in_virtual_time
async def test_content_in_parts_is_kept() -> None:
    """A message of parts is noted and asked as parts."""
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    talk = Talk()
    await talk.ask(messages=[ChatMessage("user", parts)])
    _, given = await talk.ask(message="and?")
    assert given == [ChatMessage("user", parts), ChatMessage("user", "and?")]
    assert (await talk.said())[0] == ("user", parts)


@in_virtual_time
async def test_an_answer_has_one_message() -> None:
    """It is there from the start, incomplete and empty, and is what the answer said in the end."""
    talk = Talk()
    record, _ = await talk.ask(message="hi")
    (_, before), _ = await talk.sessions.history("ses", lambda _: None)
    assert (before.content, before.is_complete, before.stream_id) == ("", False, record.stream_id)
    talk.sessions.end(record, Said("hello"), COMPLETE)
    (_, after), _ = await talk.sessions.history("ses", lambda _: None)
    assert (after.id, after.content, after.is_complete, after.usage) == (before.id, "hello", True, Usage(3, 4))
    assert after.last_chunk_id is None


@in_virtual_time
async def test_an_answer_that_ended_badly_is_incomplete() -> None:
    """What it said is kept, and the next request builds on it."""
    talk = Talk()
    record, _ = await talk.ask(message="hi")
    talk.sessions.end(record, Said("half"), Outcome(StreamState.FAILED, 1, error_type="provider_error"))
    messages, _ = await talk.sessions.history("ses", lambda _: None)
    assert [message.is_complete for message in messages] == [True, False]
    _, given = await talk.ask(message="go on")
    assert given[1] == ChatMessage("assistant", "half")


@in_virtual_time
async def test_a_running_answer_is_as_long_as_its_log() -> None:
    """The history shows what a viewer may have seen, and from which chunk on to follow it."""
    talk = Talk()
    record, _ = await talk.ask(message="hi")
    log = ChunkLog(record.stream_id, "e", talk.store)
    log.append([Delta("he"), Delta("hidden", Kind.REASONING), Delta("llo")])
    messages, _ = await talk.sessions.history("ses", lambda stream_id: log if stream_id == "s_1" else None)
    assert (messages[1].content, messages[1].last_chunk_id, messages[1].is_complete) == ("hello", 3, False)
    assert messages[0].last_chunk_id is None


@in_virtual_time
async def test_a_session_has_a_title_until_it_is_deleted() -> None:
    """Titles and deletions reach the store."""
    talk = Talk()
    await talk.ask(message="hi")
    assert (await talk.sessions.history("ses", lambda _: None))[1] is None
    talk.sessions.rename("ses", "Greetings")
    assert (await talk.sessions.history("ses", lambda _: None))[1] == "Greetings"
    talk.sessions.delete("ses")
    assert await talk.sessions.history("ses", lambda _: None) == ([], None)


CALL = ToolCall("c", "add", '{"a":1}')


@in_virtual_time
async def test_calls_and_thoughts_are_kept() -> None:
    """History shows what an answer called and thought, then and later; the next provider is told of the call."""
    talk = Talk()
    record, _ = await talk.ask(message="hi")
    log = ChunkLog(record.stream_id, "e", talk.store)
    lines = '{"index":0,"id":"c","name":"add"}\n{"index":0,"arguments":"{\\"a\\":1}"}\n'
    log.append([Delta("hm", Kind.REASONING), Delta("I add", Kind.TEXT), Delta(lines, Kind.TOOL_CALL)])
    (_, running), _ = await talk.sessions.history("ses", lambda stream_id: log)
    talk.sessions.end(record, log.whole_said(), COMPLETE)
    (_, ended), _ = await talk.sessions.history("ses", lambda _: None)
    for message in (running, ended):
        assert (message.content, message.reasoning, message.tool_calls) == ("I add", "hm", [CALL])
    result = ChatMessage("tool", "2", tool_call_id="c")
    called = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    turns = [ChatMessage("user", "hi"), ChatMessage("assistant", "I add", tool_calls=[called]), result]
    record, given = await talk.ask(messages=turns)
    assert given == turns
    talk.sessions.end(record, Said("two"), COMPLETE)
    _, given = await talk.ask(message="thanks")
    assert given == [*turns, ChatMessage("assistant", "two"), ChatMessage("user", "thanks")]
    shown, _ = await talk.sessions.history("ses", lambda _: None)
    assert [(message.role, message.tool_call_id) for message in shown[2:4]] == [("tool", "c"), ("assistant", None)]


# -- after a crash


def _log(*bodies: tuple[bytes, Kind]) -> tuple[StreamRecord, StoredLog]:
    record = StreamRecord("s_1", "ses", "r", "e", None, 0.0)
    kinds = bytes(kind for _, kind in bodies)
    return record, StoredLog(record, [body for body, _ in bodies], kinds, None)


def test_what_a_crash_cut_off_is_interrupted() -> None:
    """It ends with what it had, can be asked for again, and its message says as much."""
    record, log = _log((b"he", Kind.TEXT), (b"hm", Kind.REASONING), (b"llo", Kind.TEXT))
    outcome, message = end_of_interrupted(record, False, log)
    assert (outcome.state, outcome.final_chunk_id, outcome.error_type) == ("interrupted", 3, "interrupted")
    assert outcome.recoverable
    assert (message.content, message.is_complete, message.stream_id) == ("hello", False, "s_1")
    assert message.message_id == answer_message(record, Said(), complete=False).message_id


def test_what_was_cancelled_stays_cancelled() -> None:
    """A cancel that came before the crash is how the answer ended."""
    record, log = _log((b"he", Kind.TEXT))
    outcome, message = end_of_interrupted(record, True, log)
    assert (outcome.state, outcome.finish_reason, outcome.recoverable) == ("cancelled", "cancelled", False)
    assert outcome.receipt is not None
    assert outcome.receipt.generated_chunks == 1
    assert message.content == "he"


def test_what_was_withdrawn_is_not_in_the_message() -> None:
    """A rewind holds for the message too."""
    record, log = _log((b"a", Kind.TEXT), (b"b", Kind.TEXT), (rewind_body(1, "policy"), Kind.REWIND), (b"c", Kind.TEXT))
    assert end_of_interrupted(record, False, log)[1].content == "ac"


def test_what_was_thought_and_called_outlives_a_crash() -> None:
    """The message that is made after the crash has them as any other."""
    line = encode('{"index":0,"id":"c","name":"add","arguments":"{"}\n')[1:-1]
    record, log = _log((b"hm", Kind.REASONING), (line, Kind.TOOL_CALL))
    _, message = end_of_interrupted(record, False, log)
    assert (message.reasoning, message.tool_calls) == ("hm", [ToolCall("c", "add", "{")])


def test_a_message_is_decoded() -> None:
    """Chunks are kept as JSON; messages are text."""
    record, log = _log((encode('"ä"\n😀')[1:-1], Kind.TEXT))
    assert end_of_interrupted(record, False, log)[1].content == '"ä"\n😀'
