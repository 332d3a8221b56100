"""Scores by group of people: each age, gender or beard on its own, so that no mean hides one of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rome_lightning.evaluation.evaluator import Evaluation
from rome_lightning.evaluation.results import Rows, metric_table
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.escaping import csv_cell
from rome_lightning.report.page import Table

Number = Callable[[str, float | None], str]
MIN_PEOPLE = 5
"""Groups of fewer people are shown, but marked: their mean says little about others."""
NOT_STATED = "not stated"
"""Group of the people whom the table omits or gives no value."""
FILES = ("groups.csv", "groups.md")
"""Results by group for spreadsheets and documents, in the folder of an evaluation."""
_PERSON = "identity"
_CSV_COLUMNS = (
    "column", "group", "people", "too_few", "task", "metric", "mean", "low", "high", "penalised", "floor",
    "people_with_value", "pairs_with_value",
)  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """Which people belong together."""

    columns: dict[str, dict[str, str]]
    """By name of the column: group of each person."""

    @property
    def people(self) -> list[str]:
        """Everybody in the table."""
        return list(next(iter(self.columns.values())))

    def group_of(self, column: str, person: str) -> str:
        """The person's group, ``NOT_STATED`` where there is none."""
        return self.columns[column].get(person) or NOT_STATED


def read_groups(path: Path) -> Groups:
    """Read a table of groups.

    Args:
        path: a CSV file with a heading: the column ``identity``, a row per person, then a column per
            grouping, such as ``gender``. Empty cells are allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, or lists a person twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table of groups at {path}")
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV table in UTF-8: {' '.join(str(error).split())}") from error
    rows = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1) if any(line)]
    heading = rows[0][1] if rows else []
    names = [name for name in heading if name != _PERSON]
    if len(heading) != len(names) + 1 or not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"{path}: the first line must name one column {_PERSON!r} and at least one column of groups, "
            f"each once, got {','.join(heading)!r}"
        )
    columns: dict[str, dict[str, str]] = {name: {} for name in names}
    for number, cells in rows[1:]:
        if len(cells) != len(heading):
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, the heading has {len(heading)}")
        row = dict(zip(heading, cells, strict=True))
        person = row.pop(_PERSON)
        if not person:
            raise ValueError(f"{path}, line {number}: the {_PERSON} is empty")
        if person in columns[names[0]]:
            raise ValueError(f"{path}, line {number}: {person!r} is listed twice; leave one row per person")
        for name, value in row.items():
            columns[name][person] = value
    if len(rows) < 2:
        raise ValueError(f"{path} lists nobody")
    return Groups(columns)


def check_people(groups: Groups, path: Path, scored: Collection[str], known: Collection[str]) -> None:
    """Refuse a table that does not fit the data.

    Args:
        groups: the table.
        path: of the table, for the message.
        scored: people who are scored.
        known: people whom the table may list: those of other splits and those without a usable picture too.

    Raises:
        ValueError: the table lists unknown people, or nobody who is scored.
    """
    unknown = sorted(set(groups.people) - set(known))
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{path} lists {len(unknown)} of {len(groups.people)} people who are in no split of the data: "
            f"{shown}; correct or delete these rows (the data have people such as {min(known)})"
        )
    if not set(groups.people) & set(scored):
        raise ValueError(
            f"{path} lists none of the {len(scored)} people who are scored, such as {min(scored)}; choose "
            "their split with --split"
        )


def group_scores(
    evaluation: Evaluation, rows: dict[str, Rows], groups: Groups
) -> dict[str, dict[str, dict[str, Any]]]:
    """Aggregates by column and group, as ``summary.json`` holds them; in cross-reenactment of the sources.

    Args:
        evaluation: finished.
        rows: its values.
        groups: of the people.
    """
    people = sorted({pair.identity for of_task in rows.values() for pair in of_task.pairs})
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for column in groups.columns:
        members: dict[str, list[str]] = {}
        for person in people:
            members.setdefault(groups.group_of(column, person), []).append(person)
        names = sorted(members, key=lambda name: (name == NOT_STATED, name))
        scores[column] = {
            name: {
                "num_people": len(members[name]),
                "too_few": len(members[name]) < MIN_PEOPLE,
                "metrics": metric_table(
                    evaluation, {task: r.of_people(set(members[name])) for task, r in rows.items()}
                ),
            }
            for name in names
        }
    return scores


def groups_tables(summary: dict[str, Any], number: Number) -> dict[str, Table]:
    """By column: metric by group, with 95 % intervals over people; everybody stands last.

    Args:
        summary: as ``write_summary`` returns it.
        number: writes a value of a named metric.
    """
    return {
        column: _table(column, of_column, summary, number) for column, of_column in summary["groups"].items()
    }


def _table(column: str, groups: dict[str, dict[str, Any]], summary: dict[str, Any], number: Number) -> Table:
    everybody = sum(group["num_people"] for group in groups.values())
    shown = [*groups.values(), {"num_people": everybody, "metrics": summary["metrics"]}]
    rows = []
    for task, metrics in summary["metrics"].items():
        for metric in metrics:
            cells = [group["metrics"].get(task, {}).get(metric) for group in shown]
            if all(cell is None or cell["mean"] is None for cell in cells):
                continue
            rows.append([f"{task}: {metric}", *map(aggregate_cell(metric, "mean", number), shown, cells)])
            if any(cell is not None and cell["penalised"] != cell["mean"] for cell in cells):
                rows.append(
                    [
                        f"{task}: {metric}, penalised",
                        *map(aggregate_cell(metric, "penalised", number), shown, cells),
                    ]
                )
    heads = [_head(name, group) for name, group in groups.items()]
    caption = (
        f"Groups by {column}. Means over people with 95 % intervals; n: people with a value, if not all have "
        f"one. Groups of fewer than {MIN_PEOPLE} people are too few to judge by."
    )
    return Table([column, *heads, f"everybody: {everybody}"], rows, caption)


def _head(name: str, group: dict[str, Any]) -> str:
    return f"{name}: {group['num_people']}" + (" (too few)" if group["too_few"] else "")


def aggregate_cell(
    metric: str, value: str, number: Number
) -> Callable[[dict[str, Any], dict[str, Any] | None], str]:
    """A function that writes one aggregate of a group, given the group and its aggregates of the metric.

    Args:
        metric: its name.
        value: ``mean``, which comes with its interval, or ``penalised``.
        number: writes a value of a named metric.
    """

    def written(group: dict[str, Any], cell: dict[str, Any] | None) -> str:
        if cell is None or cell[value] is None:
            return "-"
        text = number(metric, cell[value])
        if value != "mean":
            return text
        interval, people = cell.get("interval"), cell.get("num_people", group["num_people"])
        if interval and people >= MIN_PEOPLE:
            text += f" [{number(metric, interval[0])}, {number(metric, interval[1])}]"
        return text if people == group["num_people"] else f"{text}, n={people}"

    return written


def write_groups(folder: Path, summary: dict[str, Any], number: Number) -> None:
    """Write ``groups.csv`` and ``groups.md``, or delete those of an earlier call where there are no groups.

    Args:
        folder: of the evaluation.
        summary: as ``write_summary`` returns it.
        number: writes a value of a named metric.
    """
    if not summary["groups"]:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return
    write_atomic(folder / FILES[0], _as_csv(summary["groups"]).encode())
    tables = groups_tables(summary, number).values()
    write_atomic(folder / FILES[1], ("\n\n".join(table.as_markdown() for table in tables) + "\n").encode())


def _as_csv(groups: dict[str, dict[str, dict[str, Any]]]) -> str:
    """A row per group and metric; empty cells where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for column, of_column in groups.items():
        for name, group in of_column.items():
            for task, metrics in group["metrics"].items():
                for metric, cell in metrics.items():
                    low, high = cell.get("interval") or (None, None)
                    facts = [column, name, group["num_people"], group["too_few"], task, metric]
                    values = [cell["mean"], low, high, cell["penalised"], cell["floor"]]
                    counts = [cell.get("num_people"), cell["num"]]
                    writer.writerow([csv_cell(value) for value in (*facts, *values, *counts)])
    return text.getvalue()
