"""`Fleet`: who runs many jobs of one kind; and `Here`, which runs them in this process.

A fleet knows nothing of networks: it takes a function, what all its calls share, and one item a call. What a job is given
decides what comes of it, and neither the order in which jobs finish nor who runs them does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, TypeVar

from excise import errors

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Fleet(ABC):
    """Runs jobs.

    Attributes:
        here: whether jobs run in this very process, one after another, and so may share its objects: hooks, counts, files
            open. Elsewhere a job works on copies of what it was given, and tells only by its result.
    """

    here: ClassVar[bool]

    @abstractmethod
    def run(
        self, job: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Give the place of each item and what the job made of it, as jobs finish.

        Items are taken one by one, each when there is room for it, so that what makes them may see what came of earlier ones.
        An iterator that is closed, or left by an error, takes no further items; jobs under way are given up.

        Args:
            job: `(shared, item) -> result`. For a fleet elsewhere a function of a module that workers have too, or any that
                can be sent to them; it may be run more than once on an item, when a worker died.
            shared: what every call is given; sent once.
            items: what each call is given; sent with it.

        Raises:
            whatever the job raised, as it was raised: jobs under way are given up.
        """


def require_fleet(value: object) -> None:
    """Refuse what is no `Fleet`, before any work; None stands for this process.

    Raises:
        errors.BadRequest: it is something else.
    """
    if value is not None and not isinstance(value, Fleet):
        raise errors.BadRequest(
            f"fleet: expected an excise.cluster.OnRay, or None for this process, found {type(value).__name__}"
        )


class Here(Fleet):
    """Runs jobs in this process, each when its result is asked for."""

    here = True

    def run(
        self, job: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Run one job after another, lazily."""
        for place, item in enumerate(items):
            yield place, job(shared, item)

    def __repr__(self) -> str:
        return "Here()"
