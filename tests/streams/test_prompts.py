"""What a provider is asked."""

from __future__ import annotations

from tests.house import house
from tests.virtual import in_virtual_time
from wsstream.chunks import ChatMessage
from wsstream.messages import ChatConfig


@in_virtual_time
async def test_what_the_provider_is_asked() -> None:
    """A request reaches the provider with its messages and settings, and the server's model where it names none."""
    async with house(model="default") as h:
        await h.start("a")
        await h.start("b", model="mine", messages=[ChatMessage("system", "be brief"), ChatMessage("user", "hi")])
        await h.start("c", model="mine", config=ChatConfig(model="other", temperature=0.5, max_tokens=7))
        first, second, third = h.provider.requests
        assert (first.model, first.messages) == ("default", [ChatMessage("user", "hi")])
        assert (second.model, [message.role for message in second.messages]) == ("mine", ["system", "user"])
        assert (third.model, third.temperature, third.max_tokens) == ("other", 0.5, 7)


@in_virtual_time
async def test_a_conversation_is_continued() -> None:
    """A request with one new message brings the provider what was said before, and history shows all of it."""
    async with house() as h:
        h.provider.text = "one"
        await h.ended("a")
        h.provider.text = "two"
        await h.start("b", message="and then?")
        said = [("user", "hi"), ("assistant", "one"), ("user", "and then?")]
        assert [(message.role, message.content) for message in h.provider.requests[-1].messages] == said
        history, _ = await h.streams.history("ses")
        assert [(message.role, message.content) for message in history] == [*said, ("assistant", "two")]
        assert [message.is_complete for message in history] == [True, True, True, False]
