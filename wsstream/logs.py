"""The log: one line per record on stderr, as text or JSON, from a thread of its own.

1. Nobody waits for whoever reads the log. Lines wait in a bounded queue; what does not fit is counted and dropped.
2. What a client or a provider may have written is harmless: control characters are escaped, fields are cut, and what
   looks like a secret, or is one of the environment's, is left out.
3. What repeats itself is sampled: after `BURST` like records within `PERIOD` seconds only each `EVERY`-th is written.
4. Of an exception its type and place are written. Its words may be a prompt's, so they are only at level debug.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import PurePath
from traceback import extract_tb
from typing import NamedTuple

import msgspec

MAX_FIELD = 256
MAX_FRAMES = 12
MAX_LINES = 10_000
MAX_BYTES = 8 * 1024 * 1024
"""What may wait for the thread; beyond it, lines are dropped."""

BURST = 10
EVERY = 100
PERIOD = 60.0
MAX_KINDS = 1000

REDACTED = "[redacted]"
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE)S?$")
MIN_SECRET = 8
"""Characters: a shorter value of the environment would be found in innocent words."""

_SECRETS = re.compile(
    r"""\bsk-[\w-]{8,}                                             # keys of model providers
      | \beyJ[\w-]{4,}\.[\w-]{4,}\.[\w-]*                           # JSON Web Tokens
      | (?<=\bbearer\s)\S+ | (?<=\bbasic\s)\S+                      # credentials of an HTTP header
      | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                             # and of a URL
      | (?:(?<=key=)|(?<=token=)|(?<=secret=)|(?<=password=))[^\s&"',;]+
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Also what only looks like the end of a line, or turns the direction of writing around.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogStatistics(NamedTuple):
    """What became of log lines since the start."""

    written: int
    dropped: int
    """For want of room in the queue."""
    sampled: int
    """Left out because they repeated themselves."""


class Cleaner:
    """Makes anything fit to be written."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """The values of variables that are named like secrets are secrets."""
        values = [value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= MIN_SECRET]
        found = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, found))) if found else None

    def text(self, value: object) -> str:
        """``value`` without secrets and control characters, and not long."""
        text = str(value)[: 4 * MAX_FIELD]  # a secret that begins beyond what is kept is not kept
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        text = _SECRETS.sub(REDACTED, text)
        text = _CONTROL.sub(_escaped, text)
        return text if len(text) <= MAX_FIELD else text[: MAX_FIELD - 1] + "…"

    def field(self, value: object) -> object:
        """The same; numbers and truths stay what they are."""
        return value if value is None or isinstance(value, bool | int | float) else self.text(value)


def _escaped(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}"


class _Formatter(logging.Formatter):
    def __init__(self, cleaner: Cleaner, *, words: bool) -> None:
        super().__init__()
        self._cleaner = cleaner
        self._words = words

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields = {name: self._cleaner.field(value) for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= self._exception(record.exc_info[1])
        return fields

    def _exception(self, error: BaseException) -> dict[str, object]:
        frames = extract_tb(error.__traceback__)[-MAX_FRAMES:]
        places = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        fields: dict[str, object] = {"error": type(error).__name__, "at": self._cleaner.text(" < ".join(places[::-1]))}
        if self._words:
            fields["error_message"] = self._cleaner.text(error)
        return fields


class JsonFormatter(_Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._cleaner.text(record.getMessage()),
            **self._fields(record),
        }
        return msgspec.json.encode(line).decode()


class TextFormatter(_Formatter):
    """For people: time, level, name and message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = self._cleaner.text(record.getMessage())
        fields = "".join(f" {name}={_quoted(value)}" for name, value in self._fields(record).items())
        return f"{_timestamp(record.created)} {record.levelname} {record.name}: {message}{fields}"


def _quoted(value: object) -> str:
    text = str(value)
    return msgspec.json.encode(text).decode() if not text or re.search(r'[\s"=]', text) else text


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


class Sampler(logging.Filter):
    """Lets through the first `BURST` like records of a period, then each `EVERY`-th. Like: of one place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[str, int, str], tuple[float, int]] = OrderedDict()
        self.left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write ``record``; one that stands for others says for how many."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, record.levelno, str(record.msg))
        since, count = self._seen.pop(key, (record.created, 0))
        if record.created - since > PERIOD:
            since, count = record.created, 0
        self._seen[key] = since, count + 1
        if len(self._seen) > MAX_KINDS:
            self._seen.popitem(last=False)
        if count < BURST:
            return True
        if (count - BURST) % EVERY == EVERY - 1:
            record.repeated = EVERY
            return True
        self.left_out += 1
        return False


class Writer(logging.Handler):
    """Hands lines to a thread that writes them. Never waits; see `close`."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """``write`` may block for as long as it likes."""
        super().__init__()
        self._write = write
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._more = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="wsstream-log", daemon=True)
        self.written = 0
        self.dropped = 0
        self._told = 0
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line, or drop it."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001 - a record that cannot be written must not end what it is about
            line = b"a log record could not be written\n"
        with self._more:
            if len(self._lines) >= MAX_LINES or self._size + len(line) > MAX_BYTES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._more.notify()

    def _work(self) -> None:
        while (lines := self._take()) is not None:
            try:
                self._write(lines)
            except OSError:  # whoever read the log has gone; there is nobody to tell
                return

    def _take(self) -> bytes | None:
        """What waits; None at the end."""
        with self._more:
            while not self._lines:
                if self._closing:
                    return None
                self._more.wait()
            lines = list(self._lines)
            self._lines.clear()
            self._size = 0
            self.written += len(lines)
            dropped, self._told = self.dropped - self._told, self.dropped
        if dropped:
            lines.append(b"wsstream.logs: %d lines were dropped, as nobody read the log\n" % dropped)
        return b"".join(lines)

    def close(self, patience: float = 1.0) -> None:
        """Write what waits, for at most ``patience`` seconds."""
        with self._more:
            self._closing = True
            self._more.notify()
        self._thread.join(patience)
        super().close()


class _Current:
    """The log of this process, where one was set up."""

    writer: Writer | None = None
    sampler: Sampler | None = None
    level_before = logging.WARNING


def set_up(
    level: str, style: str, environ: Mapping[str, str], write: Callable[[bytes], object] | None = None
) -> Writer:
    """Write the log of this process to stderr, or to ``write``; ``style`` is text or json. Close what is returned."""
    writer = Writer(write or _write_to_stderr)
    formatter = JsonFormatter if style == "json" else TextFormatter
    writer.setFormatter(formatter(Cleaner(environ), words=level == "debug"))
    sampler = Sampler()
    writer.addFilter(sampler)
    root = logging.getLogger()
    root.addHandler(writer)
    _Current.level_before = root.level
    root.setLevel(level.upper())
    # uvicorn tells of every start and stop what wsstream says itself, and of requests that are none; but it alone knows
    # of an exception that nobody has caught.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    _Current.writer, _Current.sampler = writer, sampler
    return writer


def tear_down(writer: Writer) -> None:
    """Write what waits, and log nothing any more."""
    root = logging.getLogger()
    root.removeHandler(writer)
    root.setLevel(_Current.level_before)
    writer.close()
    _Current.writer = _Current.sampler = None


def _write_to_stderr(data: bytes) -> None:
    while data:
        data = data[os.write(2, data) :]


def statistics() -> LogStatistics:
    """What became of this process's log lines."""
    writer, sampler = _Current.writer, _Current.sampler
    if writer is None or sampler is None:
        return LogStatistics(0, 0, 0)
    return LogStatistics(writer.written, writer.dropped, sampler.left_out)
