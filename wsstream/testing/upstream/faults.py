"""Named ways to answer: well, oddly, and badly. A test plays them as scripts, and anybody can ask for them by name."""

from __future__ import annotations

import email.utils
import gzip
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Annotated, Any

import msgspec

from wsstream.testing.upstream.server import CHUNKED, LAST, Script, Seen, Step, chunked, head, whole
from wsstream.testing.upstream.shapes import SHAPES, Shape, failure


class Load(msgspec.Struct, frozen=True):
    """What an answer is like. The fault comes behind ``at`` tokens, where it comes in the middle."""

    rate: Annotated[float, msgspec.Meta(ge=0)] = 50.0
    tokens: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 200
    fault: str = "none"
    at: Annotated[int, msgspec.Meta(ge=0)] = 3
    number: int = 0
    """Which request this is, from 0."""


Fault = Callable[[Shape, Load], Script]


def words(load: Load) -> Iterator[str]:
    """The answer's words."""
    return (f"w{number} " for number in range(load.tokens))


def _paced(shape: Shape, load: Load, first: int, last: int) -> Script:
    for number, word in enumerate(words(load)):
        if first <= number < last:
            yield chunked(shape.text(word))
            if load.rate:
                yield 1 / load.rate


def none(shape: Shape, load: Load) -> Script:
    """nothing: all tokens at their rate, and a good end"""
    yield from _begun(shape, load, load.tokens)
    yield from _ended(shape)


def _begun(shape: Shape, load: Load, last: int | None = None) -> Script:
    yield CHUNKED
    yield chunked(shape.begin())
    yield from _paced(shape, load, 0, load.at if last is None else last)


def _ended(shape: Shape, reason: str = "stop") -> Script:
    yield chunked(shape.end(reason))
    yield LAST


def _refusing(status: str, code: str, **headers: str) -> Fault:
    def refuse(shape: Shape, load: Load) -> Script:
        yield shape.refusal(status, code, **headers)

    refuse.__doc__ = f"an answer with the status {status} and the code {code}"
    return refuse


def rate_limit_date(shape: Shape, load: Load) -> Script:
    """429 with a Retry-After that is a date, ten seconds from now"""
    now = time.time()
    dates = {"Date": email.utils.formatdate(now, usegmt=True)}
    yield shape.refusal(
        "429 Too Many Requests", "rate_limit_error", Retry_After=email.utils.formatdate(now + 10, usegmt=True), **dates
    )


def huge_error(shape: Shape, load: Load) -> Script:
    """an error whose body never ends"""
    yield head("500 Internal Server Error", Content_Type="application/json", Transfer_Encoding="chunked")
    for _ in count():
        yield chunked(b" " * 65536)


def redirect(shape: Shape, load: Load) -> Script:
    """a redirect to somewhere else"""
    yield whole(b"", "307 Temporary Redirect", Location="http://127.0.0.1:9/v1/elsewhere")


def html(shape: Shape, load: Load) -> Script:
    """a page with the status 200"""
    yield whole(b"<html><body>Please log in</body></html>", Content_Type="text/html; charset=utf-8")


def json_error(shape: Shape, load: Load) -> Script:
    """an error as JSON with the status 200"""
    yield failure("200 OK", {"error": {"message": "no", "type": "rate_limit_error", "code": "rate_limit_exceeded"}})


def compressed(shape: Shape, load: Load) -> Script:
    """an answer that is compressed, though nobody asked for that"""
    body = b"".join([shape.begin(), *map(shape.text, words(load)), shape.end()])
    yield whole(gzip.compress(body), Content_Type="text/event-stream", Content_Encoding="gzip")


def garbage(shape: Shape, load: Load) -> Script:
    """bytes that are no HTTP"""
    yield b"\x16\x03\x01 what?\r\n\r\n"


def silent(shape: Shape, load: Load) -> Script:
    """no byte at all"""
    yield Step.HOLD


def hang_up(shape: Shape, load: Load) -> Script:
    """a close instead of an answer"""
    yield Step.RESET


def stall(shape: Shape, load: Load) -> Script:
    """silence in the middle"""
    yield from _begun(shape, load)
    yield Step.HOLD


def pings(shape: Shape, load: Load) -> Script:
    """signs of life, ten a second, and no word any more"""
    yield from _begun(shape, load)
    while True:
        yield chunked(shape.ping())
        yield 0.1


def truncated(shape: Shape, load: Load) -> Script:
    """an end of the body without the end of the answer"""
    yield from _begun(shape, load)
    yield LAST


def closed(shape: Shape, load: Load) -> Script:
    """a close in the middle"""
    yield from _begun(shape, load)
    yield Step.CLOSE


def reset(shape: Shape, load: Load) -> Script:
    """a reset in the middle"""
    yield from _begun(shape, load)
    yield Step.RESET


def half_closed(shape: Shape, load: Load) -> Script:
    """a half-close in the middle"""
    yield from _begun(shape, load)
    yield Step.HALF_CLOSE
    yield Step.HOLD


def half_event(shape: Shape, load: Load) -> Script:
    """an end that is cut off in its middle"""
    yield from _begun(shape, load)
    yield chunked(shape.end().partition(b"\n\n")[0][:-5])
    yield LAST


def _erring(code: str) -> Fault:
    def err(shape: Shape, load: Load) -> Script:
        yield from _begun(shape, load)
        yield chunked(shape.error(code))
        yield from _ended(shape)

    err.__doc__ = f"the error {code} as an event in the middle"
    return err


def unreadable(shape: Shape, load: Load) -> Script:
    """an event in the middle that is no JSON"""
    yield from _begun(shape, load)
    yield chunked(b'data: {"broken\n\n')
    yield from _ended(shape)


def endless_event(shape: Shape, load: Load) -> Script:
    """an event that never ends"""
    yield from _begun(shape, load)
    for _ in count():
        yield chunked(b"data: " + b"x" * 65536 + b"\n")


def crlf(shape: Shape, load: Load) -> Script:
    """lines that end in CRLF, a byte order mark, and comments"""
    yield CHUNKED
    yield chunked(b"\xef\xbb\xbf: hello\r\n\r\n")
    for each in (shape.begin(), *map(shape.text, words(load)), shape.end()):
        yield chunked(each.replace(b"\n", b"\r\n"))
    yield LAST


def single_bytes(shape: Shape, load: Load) -> Script:
    """every byte in a chunk of its own, so that no character comes whole"""
    yield CHUNKED
    for each in (shape.begin(), shape.text("日本👋"), shape.end()):
        yield chunked(*(each[n : n + 1] for n in range(len(each))))
    yield LAST


def giant(shape: Shape, load: Load) -> Script:
    """one token of a million characters"""
    yield CHUNKED
    yield chunked(shape.begin(), shape.text("x" * 1_000_000), shape.end())
    yield LAST


def empty(shape: Shape, load: Load) -> Script:
    """a hundred thousand empty pieces among the words"""
    yield CHUNKED
    yield chunked(shape.begin(), shape.text("a"))
    for _ in range(100):
        yield chunked(b"".join(shape.text("") for _ in range(1000)))
    yield chunked(shape.text("b"))
    yield from _ended(shape)


def burst(shape: Shape, load: Load) -> Script:
    """all tokens at once, then two seconds of silence before the end"""
    yield CHUNKED
    yield chunked(b"".join([shape.begin(), *map(shape.text, words(load))]))
    yield 2.0
    yield from _ended(shape)


def endless(shape: Shape, load: Load) -> Script:
    """tokens for ever"""
    yield CHUNKED
    yield chunked(shape.begin())
    for _ in count():
        yield chunked(shape.text("on and "))
        if load.rate:
            yield 1 / load.rate


def more(shape: Shape, load: Load) -> Script:
    """words behind the end"""
    yield from _begun(shape, load, load.tokens)
    yield chunked(shape.end(), shape.text("never"), b'data: {"broken\n\n')
    yield LAST


def never_closed(shape: Shape, load: Load) -> Script:
    """a good end, and a body that never ends"""
    yield from _begun(shape, load, load.tokens)
    yield chunked(shape.end())
    yield Step.HOLD


def _finishing(reason: str) -> Fault:
    def finish(shape: Shape, load: Load) -> Script:
        yield from _begun(shape, load, load.tokens)
        yield from _ended(shape, reason)

    finish.__doc__ = f"an end for the reason {reason}"
    return finish


def tools(shape: Shape, load: Load) -> Script:
    """two calls of tools"""
    yield CHUNKED
    yield chunked(shape.begin())
    for number, city in enumerate(("Ulm", "東京")):
        yield chunked(shape.call(f"call_{number + 1}", "get_weather"))
        for piece in ('{"ci', 'ty": ', f'"{city}"}}'):
            yield chunked(shape.arguments(piece))
    yield from _ended(shape, "tool_calls")


def thoughts(shape: Shape, load: Load) -> Script:
    """thinking before the words"""
    yield CHUNKED
    yield chunked(shape.begin(), shape.thought("hm, "), shape.thought("so"))
    yield from _paced(shape, load, 0, load.tokens)
    yield from _ended(shape)


def flaky(shape: Shape, load: Load) -> Script:
    """503 for every first of two requests"""
    if load.number % 2 == 0:
        yield shape.refusal("503 Service Unavailable", "overloaded_error", Retry_After="1")
    else:
        yield from none(shape, load)


FAULTS: dict[str, Fault] = {
    "none": none,
    "400": _refusing("400 Bad Request", "invalid_request_error"),
    "401": _refusing("401 Unauthorized", "authentication_error"),
    "403": _refusing("403 Forbidden", "permission_error"),
    "404": _refusing("404 Not Found", "not_found_error"),
    "413": _refusing("413 Content Too Large", "request_too_large"),
    "429": _refusing("429 Too Many Requests", "rate_limit_error", Retry_After="7"),
    "429-date": rate_limit_date,
    "429-quota": _refusing("429 Too Many Requests", "insufficient_quota"),
    "500": _refusing("500 Internal Server Error", "api_error"),
    "502": _refusing("502 Bad Gateway", "api_error"),
    "503": _refusing("503 Service Unavailable", "overloaded_error"),
    "504": _refusing("504 Gateway Timeout", "timeout_error"),
    "529": _refusing("529 Overloaded", "overloaded_error"),
    "filtered": _refusing("400 Bad Request", "content_filter"),
    "huge-error": huge_error,
    "redirect": redirect,
    "html": html,
    "json-error": json_error,
    "compressed": compressed,
    "garbage": garbage,
    "silent": silent,
    "hang-up": hang_up,
    "stall": stall,
    "pings": pings,
    "truncated": truncated,
    "closed": closed,
    "reset": reset,
    "half-closed": half_closed,
    "half-event": half_event,
    "error": _erring("server_error"),
    "overloaded": _erring("overloaded_error"),
    "rate-limited": _erring("rate_limit_exceeded"),
    "withheld": _erring("content_filter"),
    "unreadable": unreadable,
    "endless-event": endless_event,
    "crlf": crlf,
    "single-bytes": single_bytes,
    "giant": giant,
    "empty": empty,
    "burst": burst,
    "endless": endless,
    "more": more,
    "never-closed": never_closed,
    "length": _finishing("length"),
    "filter": _finishing("content_filter"),
    "tools": tools,
    "thoughts": thoughts,
    "flaky": flaky,
}
"""By name. The first line of each one's docstring says what it does."""


def parse_load(model: str, default: Load) -> Load:
    """Read a model's name: ``fake``, or ``fake:rate=R,tokens=N,fault=NAME,at=N``.

    Raises:
        ValueError: it says something else.
    """
    spec = model.partition(":")[2]
    known: dict[str, Any] = msgspec.structs.asdict(default)
    given = dict(part.partition("=")[::2] for part in spec.split(",") if part)
    if not given.keys() <= known.keys() - {"number"}:
        raise ValueError("write fake:rate=R,tokens=N,fault=NAME,at=N")
    load = msgspec.convert({**known, **given}, Load, strict=False)
    if load.fault not in FAULTS:
        raise ValueError(f"there is no fault {load.fault!r}")
    return load


def serving(default: Load) -> Callable[[int], Script]:
    """The script of a server that answers every request by its path and the model that it names."""
    numbers = count()

    def respond(seen: Seen) -> Script:
        shape = SHAPES.get(seen.path.partition("?")[0])
        if shape is None:
            yield _elsewhere(seen)
            return
        try:
            load = parse_load(str(seen.body.get("model")), default)
        except ValueError as error:
            yield shape().refusal("404 Not Found", "model_not_found", X_Reason=str(error).replace("\n", " "))
            return
        load = msgspec.structs.replace(load, number=next(numbers))
        yield from FAULTS[load.fault](shape(), load)

    def script(connection: int) -> Script:
        while True:
            yield Step.REQUEST
            yield respond

    return script


def _elsewhere(seen: Seen) -> bytes:
    if seen.path == "/v1/models":
        return failure("200 OK", {"object": "list", "data": [{"id": "fake", "object": "model"}]})
    return failure("404 Not Found", {"error": {"message": "there is nothing here", "code": "not_found"}})
