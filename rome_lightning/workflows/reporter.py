"""How a workflow says what it does."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


class Reporter:
    """Shows no progress, and warns as Python does; subclasses write to a terminal."""

    def warn(self, message: str) -> None:
        """Something the user should look at, in one line."""
        warnings.warn(message, stacklevel=3)

    def track(
        self, steps: Iterable[Item], description: str, total: int | None = None
    ) -> Generator[Item, None, None]:
        """The steps themselves, while a bar or the like shows how many are done.

        Args:
            steps: each is done when the next one is asked for.
            description: of the work.
            total: number of steps; ``len(steps)`` where there is one.
        """
        yield from steps

    def exhaust(self, steps: Iterable[tuple[int, int]], description: str) -> None:
        """Run steps that say, after each, how many of how many are done."""
        for _ in steps:
            pass
