"""A model provider for tests: a server on loopback that says what a script says, and fails as it says.

::

    async with playing([Step.REQUEST, CHUNKED, *said(Chat(), "Hel", "lo"), LAST]) as upstream:
        provider = OpenAIProvider("key", upstream.url)

A script is a list of steps. Bytes are written, with backpressure, so that `Seen.written` stays small where the client
does not read; a number is seconds to wait; an `asyncio.Event` is waited for; a function is called with what was `Seen`
and gives further steps; `Step` names the rest. Each connection has a script of its own, from its beginning; what
follows the last step is a plain close.

`shapes` has what OpenAI's and Anthropic's APIs say, `faults` the ways in which they fail. Without a line of code::

    python -m wsstream.testing.upstream --rate 50 --tokens 200 --port 9000
"""

from __future__ import annotations

from wsstream.testing.upstream.faults import FAULTS, Load, serving
from wsstream.testing.upstream.server import (
    CHUNKED,
    LAST,
    Script,
    Seen,
    Step,
    Upstream,
    chunked,
    head,
    playing,
    whole,
)
from wsstream.testing.upstream.shapes import (
    SHAPES,
    Chat,
    Messages,
    Responses,
    Shape,
    chunk,
    done,
    event,
    failure,
    said,
    usage,
)

__all__ = [
    "CHUNKED",
    "FAULTS",
    "LAST",
    "SHAPES",
    "Chat",
    "Load",
    "Messages",
    "Responses",
    "Script",
    "Seen",
    "Shape",
    "Step",
    "Upstream",
    "chunk",
    "chunked",
    "done",
    "event",
    "failure",
    "head",
    "playing",
    "said",
    "serving",
    "usage",
    "whole",
]
