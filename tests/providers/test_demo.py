"""The demo provider: exact counts, a steady pace, stamps, and models it cannot read."""

from __future__ import annotations

import asyncio
import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import START, in_virtual_time
from wsstream.chunks import ChatMessage, ChatRequest, Finish, Usage
from wsstream.errors import ProviderError
from wsstream.providers.demo import BURST, HUMAN_RATE, DemoModel, DemoProvider, parse_model
from wsstream.testing.sinks import ListSink, ask


async def answered(model: str | None, question: str = "hi", sink: ListSink | None = None) -> ListSink:
    """What the provider says to that."""
    sink = sink or ListSink()
    provider = DemoProvider()
    finish = await provider.answer(ask(question, model), sink)
    assert finish == Finish("stop", Usage(1 + len(question) // 4, len(sink.deltas)))
    await provider.close()
    return sink


# -- the model's name


def test_a_full_model() -> None:
    """Every setting of a model is read from its name, and each may be left out."""
    assert parse_model("rate=12.5,tokens=7,stamp=1,seed=3") == DemoModel(12.5, 7, 1, 3)
    assert parse_model("tokens=7") == DemoModel(HUMAN_RATE, 7)


@pytest.mark.parametrize(
    "spec",
    [
        *("rate", "rate=", "=5", ",", "rate=5,", "rate=fast", "rate=-1", "rate=nan", "rate=inf", "rate=1000001"),
        *("tokens=1.5", "tokens=-1", "tokens=10000001", "stamp=2", "stamp=yes", "seed=x", "speed=5", "rate=5;tokens=1"),
    ],
)
@in_virtual_time
async def test_a_model_that_cannot_be_read(spec: str) -> None:
    """A wrong model ends the answer as provider_error that says how to write it, before anything was put."""
    sink = ListSink()
    with pytest.raises(ProviderError, match="write rate=R,tokens=N") as raised:
        await DemoProvider().answer(ask(model=f"demo:{spec}"), sink)
    assert not raised.value.recoverable
    assert sink.deltas == []


@given(st.text(max_size=30))
def test_no_model_breaks_the_provider(spec: str) -> None:
    """Whatever a client writes as a model, it is read or refused."""
    try:
        said = str(parse_model(spec))
    except ProviderError as refusal:
        said = str(refusal)
    assert len(said) < 500


@pytest.mark.parametrize("model", ["gpt-5", "Demo", "demo2", " demo", "demos:rate=5"])
@in_virtual_time
async def test_other_models_are_refused(model: str) -> None:
    """A model of somebody else is not answered by an imitation."""
    with pytest.raises(ProviderError, match="knows the models demo and"):
        await DemoProvider().answer(ask(model=model), ListSink())


# -- how many


@pytest.mark.parametrize("rate", [0, 7, 100_000])
@pytest.mark.parametrize("tokens", [0, 1, BURST - 1, BURST, BURST + 1, 1000])
@in_virtual_time
async def test_the_number_of_tokens_is_exact(rate: int, tokens: int) -> None:
    """As many tokens come as were asked for, and the usage says so."""
    assert len((await answered(f"demo:rate={rate},tokens={tokens}")).deltas) == tokens


@pytest.mark.parametrize(("most", "count", "reason"), [(3, 3, "length"), (10, 10, "stop"), (11, 10, "stop")])
@pytest.mark.parametrize("rate", [0, 100])
@in_virtual_time
async def test_no_more_tokens_than_asked_for(rate: int, most: int, count: int, reason: str) -> None:
    """`max_tokens` cuts the answer, which then ends with `length` and counts what there was."""
    sink = ListSink()
    request = msgspec.structs.replace(ask("hi"), model=f"demo:rate={rate},tokens=10", max_tokens=most)
    finish = await DemoProvider().answer(request, sink)
    assert (len(sink.deltas), finish.reason, finish.usage) == (count, reason, Usage(1, count))


# -- how fast


@pytest.mark.parametrize("rate", [0.1, 1, 7, 50, 400])
@in_virtual_time
async def test_the_pace_is_steady(rate: float) -> None:
    """Token n comes n / rate seconds after the first, never early and at most five milliseconds late."""
    sink = await answered(f"demo:rate={rate},tokens=200")
    for n, at in enumerate(sink.times):
        assert -1e-3 <= at - START - n / rate <= 5e-3


@in_virtual_time
async def test_a_fast_pace_comes_in_handfuls() -> None:
    """Beyond 250 a second, what is due together is put together, and the pace holds in all."""
    sink = await answered("demo:rate=50000,tokens=5000")
    assert max(sink.puts) > 10
    assert sink.times[-1] - START == pytest.approx(0.1, abs=5e-3)


@in_virtual_time
async def test_waiting_for_room_is_no_debt() -> None:
    """After a wait for room the pace goes on as before; what was not put meanwhile does not come in a burst."""
    sink = ListSink(room=10)
    asyncio.get_running_loop().call_later(60, sink.give)
    await answered("demo:rate=10,tokens=30", sink=sink)
    assert sink.times[9] - START == pytest.approx(0.9, abs=0.01)
    assert sink.times[10] - START >= 60
    gaps = [b - a for a, b in zip(sink.times[10:], sink.times[11:], strict=False)]
    assert all(gap == pytest.approx(0.1, abs=0.01) for gap in gaps)
    assert len(gaps) == 19


@in_virtual_time
async def test_unpaced_tokens_leave_others_their_turn() -> None:
    """Without a pace the provider still gives way after every handful, and takes no time."""
    sink = await answered("demo:rate=0,tokens=1000")
    assert sink.ways == len(sink.puts) == -(-1000 // BURST)
    assert sink.times[-1] == START


@in_virtual_time
async def test_many_paced_answers_keep_their_pace() -> None:
    """Answers of different pace that share the provider's clock do not disturb each other."""
    provider = DemoProvider()
    rates = [1, 3, 10, 33, 100]
    sinks = [ListSink() for _ in rates]
    answers = [provider.answer(ask(model=f"demo:rate={r},tokens=50"), s) for r, s in zip(rates, sinks, strict=True)]
    await asyncio.gather(*answers)
    for rate, sink in zip(rates, sinks, strict=True):
        assert sink.times[-1] - START == pytest.approx(49 / rate, abs=5e-3)
    await provider.close()


# -- what


@in_virtual_time
async def test_stamps_tell_the_age_of_a_token() -> None:
    """A stamped token is an at sign, sixteen digits of the clock in microseconds, and a space."""
    sink = await answered("demo:rate=10,tokens=20,stamp=1")
    for delta, at in zip(sink.deltas, sink.times, strict=True):
        assert re.fullmatch(r"@\d{16} ", delta.content)
        assert int(delta.content[1:]) == int(round(at * 1e9) // 1000)


def test_stamps_are_of_the_shared_clock() -> None:
    """Another process of this machine can compare a stamp with its own clock."""
    sink = ListSink.__new__(ListSink)

    async def scenario() -> None:
        sink.__init__()  # type: ignore[misc]
        await DemoProvider().answer(ask(model="demo:rate=0,tokens=1,stamp=1"), sink)

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    asyncio.run(scenario())
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(sink.text[1:]) <= after


@in_virtual_time
async def test_a_seed_is_a_text() -> None:
    """The same seed gives the same text at any pace, and another seed another one."""
    texts = [
        (await answered(f"demo:rate={rate},tokens=100,seed={seed}")).text for seed in (0, 1) for rate in (0, 9, 5000)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert texts[3] == texts[4] == texts[5]
    assert texts[0] != texts[3]


@pytest.mark.parametrize("model", [None, "demo", "demo:"])
@in_virtual_time
async def test_plain_demo_answers_the_question(model: str | None) -> None:
    """Without settings the answer is a prepared one, whole, in small pieces, at the pace of a reader."""
    sink = await answered(model, "Show me some code")
    assert "```python" in sink.text
    assert sink.text.endswith("\n")
    assert max(len(delta.content.strip()) for delta in sink.deltas) <= 7
    assert sink.times[-1] - START == pytest.approx((len(sink.deltas) - 1) / HUMAN_RATE, abs=3e-3)


@pytest.mark.parametrize(
    "messages",
    [[], [ChatMessage("user", [{"type": "text", "text": "emoji"}])], [ChatMessage("user", "")]],
)
@in_virtual_time
async def test_any_question_is_answered(messages: list[ChatMessage]) -> None:
    """No question at all, an empty one, and one in parts have an answer too."""
    sink = ListSink()
    await DemoProvider().answer(ChatRequest(messages), sink)
    assert len(sink.text) > 100
