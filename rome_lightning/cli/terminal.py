"""Progress and warnings of workflows on standard error, so that standard output has only results."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sized

from rome_lightning.cli.progress import shown
from rome_lightning.media.escaping import printable
from rome_lightning.workflows.reporter import Item, Reporter


class TerminalReporter(Reporter):
    """Bars and warnings on standard error."""

    def warn(self, message: str) -> None:
        """Print a warning."""
        print(printable(f"rome: warning: {message}"), file=sys.stderr)

    def track(
        self, steps: Iterable[Item], description: str, total: int | None = None
    ) -> Generator[Item, None, None]:
        """The steps under a bar with their number and the time left."""
        if total is None and isinstance(steps, Sized):
            total = len(steps)
        with shown(description, total) as update:
            for done, step in enumerate(steps, start=1):
                yield step
                update(done)

    def exhaust(self, steps: Iterable[tuple[int, int]], description: str) -> None:
        """Run the steps under the same bar."""
        counted = iter(steps)
        # The first one says how many there are.
        done, total = next(counted, (0, 0))
        with shown(description, total) as update:
            update(done)
            for done, _ in counted:
                update(done)
