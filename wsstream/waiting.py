"""The waiting room: requests for which there is no place yet. Users take turns; each user's most urgent goes first."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Waiting(NamedTuple):
    urgency: int
    number: int
    item: object


class WaitingRoom(Generic[T]):
    """A bounded queue. Priorities count among the requests of one user: nobody overtakes others by asking to."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: OrderedDict[str, list[_Waiting]] = OrderedDict()
        self._whose: dict[T, str] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._whose)

    def __contains__(self, item: T) -> bool:
        return item in self._whose

    @property
    def full(self) -> bool:
        """Whether nobody more may wait."""
        return len(self._whose) >= self._limit

    def add(self, user: str, priority: int, item: T) -> None:
        """``item`` waits. A higher ``priority`` goes first; of equal ones, whoever came first."""
        self._number += 1
        insort(self._users.setdefault(user, []), _Waiting(-priority, self._number, item))
        self._whose[item] = user

    def remove(self, item: T) -> bool:
        """It waits no longer; False where it did not."""
        user = self._whose.pop(item, None)
        if user is None:
            return False
        left = [waiting for waiting in self._users[user] if waiting.item is not item]
        if left:
            self._users[user] = left
        else:
            del self._users[user]
        return True

    def take(self, may: Callable[[str], bool]) -> T | None:
        """Whose turn it is, of the users that ``may`` have one more place; None where nobody's is."""
        for user, waiting in self._users.items():
            if may(user):
                item: T = waiting[0].item  # type: ignore[assignment]
                self.remove(item)
                if user in self._users:
                    self._users.move_to_end(user)
                return item
        return None

    def order(self) -> list[T]:
        """All that wait, in the order in which their turns come."""
        rounds = max(map(len, self._users.values()), default=0)
        return [
            waiting[turn].item  # type: ignore[misc]
            for turn in range(rounds)
            for waiting in self._users.values()
            if turn < len(waiting)
        ]
