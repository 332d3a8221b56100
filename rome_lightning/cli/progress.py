"""Progress lines on the terminal, with the time left if the steps are counted.

They never reach a file: a log of the command contains only results and warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def shown(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress line until the block ends.

    Args:
        description: text of the line.
        total: number of steps if they are counted; the line then has a bar and the time left.

    Yields:
        A function of the number of finished steps.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if total is not None:
        columns += [MofNCompleteColumn(), TextColumn("left:"), TimeRemainingColumn()]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)


def counted(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate over items and show a bar of how many are done.

    Args:
        items: any.
        description: what is done to them.
        total: how many there are.
    """
    with shown(description, total) as update:
        for done, item in enumerate(items, start=1):
            yield item
            update(done)
