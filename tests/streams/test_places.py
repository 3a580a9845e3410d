"""So many answers run, and no more."""

from __future__ import annotations

import pytest

from tests.house import house
from tests.virtual import in_virtual_time
from wsstream.errors import (
    Capacity,
)


@in_virtual_time
async def test_too_many_answers_are_refused() -> None:
    """No more run at once than allowed; whoever is refused may come again, and a known request is no new one."""
    async with house(max_running_streams=2) as h:
        first = await h.start("a")
        await h.start("b")
        with pytest.raises(Capacity) as refused:
            await h.start("c")
        assert (refused.value.retry_after, refused.value.recoverable) == (1.0, True)
        assert await h.start("a") is first
        await h.provider.end(0)
        await h.start("c")
