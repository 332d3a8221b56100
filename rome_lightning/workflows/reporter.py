"""How a workflow reports what it does."""

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
        """Iterate over the steps while showing how many are done.

        Args:
            steps: each counts as done when the next one is requested.
            description: of the work.
            total: number of steps (default: ``len(steps)``).
        """
        yield from steps

    def exhaust(self, steps: Iterable[tuple[int, int]], description: str) -> None:
        """Run steps that say, after each, how many of how many are done."""
        for _ in steps:
            pass
