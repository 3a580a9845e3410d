"""The log: nobody waits for it, nothing secret gets into it, and what repeats itself does not fill it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, Serve, Spawn, clean_environ
from tests.native import connected, fetch
from wsstream import logs
from wsstream.logs import BURST, EVERY, MAX_FIELD, MAX_LINES, PERIOD, Cleaner, JsonFormatter, Sampler, Writer

CANARY = "canary-4f1d9c-in-the-coal-mine"


class Output:
    """What was written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.data += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def output() -> Output:
    """Where the log goes."""
    return Output()


@pytest.fixture
def logger(output: Output, request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    """A logger whose lines are JSON in ``output`` when the test calls `tell`; a parameter is its level."""
    level = getattr(request, "param", "info")
    writer = logs.set_up(level, "json", {"MY_API_KEY": CANARY, "SHORT_KEY": "abc", "HOME": "/home/me"}, output.write)
    logger = logging.getLogger("wsstream.test")
    logger.tell = lambda: writer.close()  # type: ignore[attr-defined]
    yield logger
    logs.tear_down(writer)


def tell(logger: Any) -> None:
    """See that everything is written."""
    logger.tell()


# -- what is in a line


def test_a_line_is_an_object(logger: logging.Logger, output: Output) -> None:
    """Time, level, name and message, and the fields that were given, numbers as numbers."""
    logger.warning("two %s", "words", extra={"stream_id": "s_1", "chunks": 3, "ok": True, "seconds": 0.5, "no": None})
    tell(logger)
    (line,) = output.objects
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "wsstream.test",
        "message": "two words",
        **{"stream_id": "s_1", "chunks": 3, "ok": True, "seconds": 0.5, "no": None},
    }


def test_text_is_for_people(output: Output) -> None:
    """The same in one line of text, values with spaces in quotes."""
    writer = logs.set_up("info", "text", {}, output.write)
    logging.getLogger("wsstream.test").info("begun", extra={"stream_id": "s_1", "reason": "too slow"})
    logs.tear_down(writer)
    (line,) = output.lines
    assert line.split(" ", 1)[1] == 'INFO wsstream.test: begun stream_id=s_1 reason="too slow"'


def test_the_level_counts(logger: logging.Logger, output: Output) -> None:
    """What is below the level is not written."""
    logger.debug("no")
    logger.info("yes")
    tell(logger)
    assert [line["message"] for line in output.objects] == ["yes"]


HOSTILE = 'a\r\nFAKE LINE\x1b[31m\x00\x7f\x9b2J\u2028\u202eend"\\'


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_client_can_write_lines_of_its_own(output: Output, style: str) -> None:
    """Line ends, escape sequences and marks that turn the direction of writing are shown, not done."""
    writer = logs.set_up("info", style, {}, output.write)
    logging.getLogger("wsstream.test").info("from %s", HOSTILE, extra={"agent": HOSTILE})
    logs.tear_down(writer)
    assert len(output.lines) == 1
    assert output.data.endswith(b"\n")
    shown = output.data[:-1].decode()
    assert shown.isprintable()
    assert shown.count("FAKE LINE") == 2


@given(st.text(st.characters(), max_size=600))
def test_whatever_a_field_holds(value: str) -> None:
    """It comes out printable and short."""
    clean = Cleaner({}).text(value)
    assert len(clean) <= MAX_FIELD
    assert "\n" not in clean
    assert "\x1b" not in clean
    clean.encode()


def test_fields_are_cut(logger: logging.Logger, output: Output) -> None:
    """A long message or field ends with an ellipsis."""
    logger.info("m" * 10_000, extra={"field": "f" * 10_000})
    tell(logger)
    (line,) = output.objects
    assert len(line["message"]) == len(line["field"]) == MAX_FIELD
    assert line["field"].endswith("f…")


@pytest.mark.parametrize(
    "text",
    [
        "key sk-abcdefghijklmnop123",
        "sk-proj-_abcdefghijklmnop123",
        "Authorization: Bearer abc.def-ghi",
        "authorization: basic dXNlcjpwYXNz",
        "GET /ws?token=abc.def-ghi HTTP/1.1",
        "api_key=abc.def-ghi&x=1",
        "password=abc.def-ghi",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc.def-ghi",
        "https://me:abc.def-ghi@host/",
        f"it is {CANARY}!",
    ],
)
def test_secrets_are_left_out(text: str) -> None:
    """What looks like a credential, and what the environment calls one, does not appear."""
    clean = Cleaner({"MY_API_KEY": CANARY}).text(text)
    assert logs.REDACTED in clean
    for secret in ("abc", "ijkl", "dXNl", "eyJz", CANARY):
        assert secret not in clean


def test_innocent_words_stay() -> None:
    """Not everything is a secret, and short values of the environment are none."""
    text = "the token count is 7, key frames at /ws, session ses_abc, chunk key x, desk-top, abc"
    assert Cleaner({"A_KEY": "abc"}).text(text) == text


def test_a_secret_that_is_cut_stays_secret() -> None:
    """Cutting happens after leaving out, so no half of a secret is left."""
    clean = Cleaner({"MY_API_KEY": CANARY}).text("x" * (MAX_FIELD - 10) + CANARY)
    assert "canary" not in clean


def _fail() -> None:
    raise ValueError("the prompt was: " + CANARY[:6])


@pytest.mark.parametrize("logger", ["info"], indirect=True)
def test_an_exception_is_its_type_and_place(logger: logging.Logger, output: Output) -> None:
    """Its words may be a prompt's: they are not written."""
    try:
        _fail()
    except ValueError:
        logger.exception("failed")
    tell(logger)
    (line,) = output.objects
    assert line["error"] == "ValueError"
    assert line["at"].startswith("test_logs.py:")
    assert "_fail < test_logs.py" in line["at"].replace(line["at"].split()[0] + " ", "")
    assert "prompt" not in str(line)


@pytest.mark.parametrize("logger", ["debug"], indirect=True)
def test_its_words_are_for_debugging(logger: logging.Logger, output: Output) -> None:
    """At level debug they are written, without secrets."""
    try:
        _fail()
    except ValueError:
        logger.exception("failed")
    tell(logger)
    assert output.objects[-1]["error_message"] == "the prompt was: canary"


def test_a_record_that_cannot_be_written(logger: logging.Logger, output: Output) -> None:
    """A mistake in a log call costs its line, not what it is about."""
    (writer,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, Writer)]
    writer.handle(logging.LogRecord("wsstream.x", logging.INFO, "x.py", 1, "%d", ("no number",), None))
    tell(logger)
    assert output.lines == ["a log record could not be written"]


# -- what repeats itself


def record(message: str, at: float, level: int = logging.WARNING) -> logging.LogRecord:
    """A record of a time."""
    made = logging.LogRecord("wsstream.x", level, "x.py", 1, message, ("anything",), None)
    made.created = at
    return made


def test_repetition_is_sampled() -> None:
    """The first of a kind are written, then each hundredth, which says so; other kinds are not touched."""
    sampler = Sampler()
    passed = [sampler.filter(record("broken %s", 0.0)) for _ in range(BURST + 3 * EVERY)]
    assert sum(passed) == BURST + 3
    assert sampler.left_out == 3 * (EVERY - 1)
    assert sampler.filter(record("other %s", 0.0))


def test_a_sample_says_for_how_many_it_stands() -> None:
    """It has a field for that."""
    sampler = Sampler()
    records = [record("broken %s", 0.0) for _ in range(BURST + EVERY)]
    (sample,) = [r for r in records if sampler.filter(r)][BURST:]
    assert json.loads(JsonFormatter(Cleaner({}), words=False).format(sample))["repeated"] == EVERY


def test_after_a_while_it_is_news_again() -> None:
    """Each period begins anew."""
    sampler = Sampler()
    for _ in range(BURST + 5):
        sampler.filter(record("broken %s", 0.0))
    assert sampler.filter(record("broken %s", PERIOD + 1))


def test_what_is_no_warning_is_not_sampled() -> None:
    """A line per answer is wanted, however many there are."""
    sampler = Sampler()
    assert all(sampler.filter(record("begun %s", 0.0, logging.INFO)) for _ in range(1000))


def test_kinds_are_bounded() -> None:
    """However many different messages there are, only so many are remembered."""
    sampler = Sampler()
    for number in range(3 * logs.MAX_KINDS):
        sampler.filter(record(str(number), 0.0))
    assert len(sampler._seen) == logs.MAX_KINDS


# -- nobody waits


def test_a_reader_that_does_not_read() -> None:
    """What does not fit is dropped and counted, the one who logs goes on, and afterwards a line tells how many."""
    begun, go_on, written = threading.Event(), threading.Event(), Output()

    def stuck(data: bytes) -> None:
        begun.set()
        go_on.wait(10)
        written.write(data)

    writer = Writer(stuck)
    logger = logging.Logger("x")
    logger.addHandler(writer)
    logger.info("the first")
    begun.wait(10)
    for number in range(MAX_LINES + 500):
        logger.info("line %d", number)
    assert writer.dropped == 500
    assert len(writer._lines) <= MAX_LINES
    go_on.set()
    writer.close()
    assert f"{writer.dropped} lines were dropped" in written.lines[-1]
    assert writer.written == 1 + MAX_LINES


def test_large_lines_fill_the_queue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bounded in bytes as well."""
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    go_on = threading.Event()
    writer = Writer(lambda _: go_on.wait(10))
    logger = logging.Logger("x")
    logger.addHandler(writer)
    for _ in range(50):
        logger.info("x" * 99)
    assert writer._size <= 1000
    assert writer.dropped >= 29
    go_on.set()
    writer.close()


def test_a_reader_that_has_gone(output: Output) -> None:
    """Nobody is told, nobody fails, and closing does not wait."""

    def gone(_: bytes) -> None:
        raise BrokenPipeError

    writer = Writer(gone)
    logger = logging.Logger("x")
    logger.addHandler(writer)
    logger.info("one")
    writer.close()
    logger.info("two")
    assert output.data == b""


async def test_a_server_whose_log_nobody_reads() -> None:
    """With its stderr a full pipe it answers as before, counts what it drops, and ends in time."""
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wsstream", "--port", "0", "--metrics-port", "0", "--store", "memory:", "--log-level", "debug"),
        stdout=subprocess.PIPE,
        stderr=writing,
        cwd=ROOT,
        env=clean_environ(),
    )
    os.close(writing)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            port = int((await process.stdout.readline()).decode().rstrip("/\n").rpartition(":")[2])
            server = type("Here", (), {"port": port})
            for _ in range(400):  # each leaves lines, until the pipe is full and then some
                async with connected(server) as native:
                    await native.read(await native.ask("demo:rate=0,tokens=3"))
            async with connected(server) as native:
                answer = await native.read(await native.ask("demo:rate=0,tokens=100"))
        assert answer.last == 100
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        os.close(reading)
        if process.returncode is None:
            process.kill()


# -- all of it together


async def test_no_output_holds_a_prompt_or_a_secret(spawn: Spawn) -> None:
    """Whatever goes wrong, and at the most talkative level, neither prompt, key, token nor answer is in any output."""
    canaries = {name: f"canary-{name}-0123456789abcdef" for name in ("prompt", "key", "token", "header", "field")}
    server = await spawn(
        *("--provider", "tests.data.scripted:echo", "--log-level", "debug", "--log-format", "json"),
        environ={"OPENAI_API_KEY": canaries["key"]},
    )
    operators = await server.for_operators()
    async with connected(server, token=canaries["token"], user_id=canaries["field"]) as native:
        await native.read(await native.ask(message=canaries["prompt"]))
        await native.send("chat_request", request_id="x", message=canaries["prompt"], config={"provider": "no"})
        await native.until("error")
        await native.send("rename_session", title=canaries["prompt"])
        await native.until("session_changed")
        for _ in range(3):
            await native.send_text(f'{{"type": "{canaries["prompt"]}')
        await native.closed()
    await fetch(server, f"GET /?token={canaries['token']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await fetch(server, f"{canaries['header']} \x1b[31m\r\n\r\n".encode())
    probe = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    shown = [await fetch(operators, probe % path) for path in (b"/metrics", b"/healthz", b"/readyz")]
    assert await server.logged("stream ended")
    outputs = server.log + b"".join(shown).decode()
    assert "wsstream_chunks_total" in outputs
    for name, canary in canaries.items():
        assert canary not in outputs, name


async def test_hostile_bytes_leave_fewer_bytes_in_the_log(spawn: Spawn) -> None:
    """Malformed messages and broken handshakes by the hundred fill no disk."""
    server = await spawn()
    before, sent = len(server.log), 0
    for _ in range(100):
        async with connected(server, greet=False) as native:
            for _ in range(3):
                await native.send_text("{" * 300)
                sent += 300
            await native.closed()
        await fetch(server, b"\x00\x16\x03\x01" * 20)
        sent += 80
    assert len(server.log) - before < sent


async def test_the_server_says_what_became_of_its_lines(serve: Serve, logger: logging.Logger, output: Output) -> None:
    """Written, dropped and sampled lines are counted."""
    for _ in range(BURST + 7):
        logger.warning("again")
    tell(logger)
    assert logs.statistics().sampled == 7
    assert logs.statistics().written == len(output.lines) == BURST


def test_an_exception_that_nobody_caught_is_not_silenced() -> None:
    """Of uvicorn's own lines those on starts and stops are left out; those on exceptions of an application are not."""
    written: list[bytes] = []
    writer = logs.set_up("debug", "text", {}, written.append)
    try:
        logging.getLogger("uvicorn.error").info("Started server process")
        logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    finally:
        logs.tear_down(writer)
    assert b"Exception in ASGI application" in b"".join(written)
    assert b"Started" not in b"".join(written)
