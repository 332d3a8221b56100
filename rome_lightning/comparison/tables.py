"""Comparisons as tables for terminals, papers, spreadsheets and pages."""

from __future__ import annotations

import math
from typing import Any

from rome_lightning.comparison.comparing import Comparison
from rome_lightning.comparison.judging import Result
from rome_lightning.media.escaping import csv_cell, printable
from rome_lightning.report.page import Table

_MARKS = {"better": "+ better", "worse": "- worse", "baseline": "baseline"}
_LONGEST_VALUE = 40


def results_table(comparison: Comparison) -> Table:
    """Every metric of every configuration, with the difference to the baseline."""
    percent = f"{100 * comparison.options.confidence:g} %"
    columns = ["metric", "configuration", "seeds", "mean", "difference", f"{percent} interval", "verdict"]
    columns += ["people/clips/pairs", "failed", "penalised"]
    rows = []
    for name in comparison.names:
        results = comparison.metric(name)
        digits = digits_of(results)
        arrow = "up" if results[0].higher_is_better else "down"
        labels = [f"{name} ({arrow})", _bounds(comparison, name, digits), *[""] * len(results)]
        # There are more labels than results, so the rest of the column stays empty.
        rows += [[label, *_cells(result, digits)] for label, result in zip(labels, results, strict=False)]
    return Table(columns, rows, caption(comparison))


def bins_table(comparison: Comparison) -> Table:
    """Metric by bin of rotation for all configurations; empty where the protocol has no bins."""
    metrics = list(dict.fromkeys(r.metric for r in comparison.results if r.task in comparison.bins))
    rows = []
    for metric in metrics:
        of_bins = [comparison.metric(f"{task}/{metric}") for task in comparison.bins]
        for place, configuration in enumerate(comparison.configurations):
            results = [of_bin[place] for of_bin in of_bins if of_bin]
            digits = digits_of(results)
            means = [result.mean for result in results]
            cells = [_binned(result, digits) for result in results]
            mean = f"{sum(means) / len(means):.{digits}f}" if len(means) == len(of_bins) else ""
            counts = ", ".join(f"{r.num_identities}/{r.num_clips}/{r.num_pairs}" for r in results)
            label = f"{metric} ({'up' if results[0].higher_is_better else 'down'})" if place == 0 else ""
            blanks = [""] * (len(of_bins) - len(cells))
            rows.append([label, configuration.name, *cells, *blanks, mean, counts if place == 0 else ""])
    bins = [f"{low:g}-{high:g} deg" for low, high in comparison.bins.values()]
    columns = ["metric", "configuration", *bins, "mean of bins", "people/clips/pairs"]
    return Table(
        columns,
        rows,
        "Means over people by rotation between source and driver; in brackets the interval of the difference "
        f"to {comparison.baseline.name}.",
    )


def _binned(result: Result, digits: int) -> str:
    interval = result.interval
    if interval is None or math.isnan(interval.low) or result.verdict == "baseline":
        return f"{result.mean:.{digits}f}"
    return f"{result.mean:.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def _bounds(comparison: Comparison, name: str, digits: int) -> str:
    """Scores of doing nothing (floor) and of the ground truth itself (ceiling)."""
    ceiling, floor = comparison.ceilings[name]
    shown = [("floor", floor), ("ceiling", ceiling)]
    return ", ".join(f"{what} {value:.{digits}f}" for what, value in shown if value is not None)


def _cells(result: Result, digits: int) -> list[str]:
    interval = result.interval
    shown = interval is not None and not math.isnan(interval.low)
    harsh = result.penalised_interval
    penalised = "" if math.isnan(result.penalised) else f"{result.penalised:.{digits}f}"
    if harsh is not None and not math.isnan(harsh.low):
        penalised += f" ({harsh.difference:+.{digits}f} [{harsh.low:+.{digits}f}, {harsh.high:+.{digits}f}])"
    return [
        result.configuration,
        str(result.num_seeds),
        f"{result.mean:.{digits}f}",
        f"{interval.difference:+.{digits}f}" if interval else "",
        f"[{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]" if interval and shown else "",
        _MARKS.get(result.verdict, result.verdict),
        f"{result.num_identities}/{result.num_clips}/{result.num_pairs}",
        str(result.num_failed),
        penalised,
    ]


def digits_of(results: list[Result]) -> int:
    """Decimals that show a difference of a thousandth of the scores, 2 to 5."""
    largest = max((abs(r.mean) for r in results if math.isfinite(r.mean)), default=1.0)
    return min(5, max(2, 3 - math.floor(math.log10(largest)))) if largest else 3


def caption(comparison: Comparison) -> str:
    """The caption, which states what the table shows and what it does not."""
    options = comparison.options
    parts = [f"Protocol {comparison.protocol}, differences to {comparison.baseline.name}."]
    if options.scope == "checkpoints":
        parts.append("Verdicts apply to these checkpoints on other people, not to retraining.")
    elif any(r.verdict == "one seed" for r in comparison.results):
        parts.append(
            "'one seed': these checkpoints differ on other people, but no configuration has a second seed, "
            "so the effect of the seed is unknown; train one configuration with 3 or more seeds."
        )
    elif (repeats := sum(len(c.runs) - 1 for c in comparison.configurations)) in (1, 2):
        parts.append(
            f"The spread of seeds is estimated from only {repeats} repetition{'s' * (repeats - 1)}, which "
            "makes intervals wide: more seeds, of any configuration, narrow them."
        )
    judged = sum(r.interval is not None for r in comparison.results)
    if judged > 1 and (chance := judged * (1 - options.confidence)) >= 0.1:
        parts.append(f"Of {judged} differences, {chance:.1g} would look significant by chance.")
    if any(r.num_identities == 1 for r in comparison.results):
        parts.append("One person says nothing about others: no interval.")
    if comparison.num_dropped:
        parts.append(f"{comparison.num_dropped} pairs that some run lacks are omitted.")
    missing = [f"{name} {number}" for name, number in comparison.num_missing.items() if number]
    if missing:
        parts.append(f"Predictions that were absent or unreadable: {', '.join(missing)}.")
    if any(r.num_failed for r in comparison.results):
        parts.append(
            "Failed pairs are excluded from the mean; 'penalised' counts them with the metric's worst value."
        )
    return " ".join(parts)


def differences_table(comparison: Comparison) -> Table:
    """Settings in which the configurations differ."""
    names = [configuration.name for configuration in comparison.configurations]
    rows = [[key, *(_short(value) for value in values)] for key, values in comparison.differences.items()]
    about = "Settings that differ, except seeds and folders."
    return Table(["setting", *names], rows, about if rows else "The configurations' settings are the same.")


def _short(value: Any) -> str:
    text = "" if value is None else printable(value)
    return text if len(text) <= _LONGEST_VALUE else f"...{text[-_LONGEST_VALUE + 3 :]}"


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    }
)


def results_latex(comparison: Comparison) -> str:
    """A ``tabular`` for papers: a row per configuration, a column per metric, differences that hold in bold.

    Needs the package ``booktabs``.
    """
    names = comparison.names
    head = " & ".join(["", *(_latex_head(comparison, name) for name in names)])
    lines = [r"\begin{tabular}{l" + "r" * len(names) + "}", r"\toprule", head + r" \\", r"\midrule"]
    for index, configuration in enumerate(comparison.configurations):
        cells = [_latex_cell(comparison.metric(name), index) for name in names]
        lines.append(" & ".join([printable(configuration.name).translate(_LATEX), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    text = f"% {printable(caption(comparison))} Subscripts: half the width of the interval of the difference."
    return "\n".join([text, *lines])


def _latex_head(comparison: Comparison, name: str) -> str:
    arrow = r"\uparrow" if comparison.metric(name)[0].higher_is_better else r"\downarrow"
    return f"{name.translate(_LATEX)} ${arrow}$"


def _latex_cell(results: list[Result], index: int) -> str:
    result, digits = results[index], digits_of(results)
    number = f"{result.mean:.{digits}f}"
    if result.verdict == "better":
        number = rf"\mathbf{{{number}}}"
    if result.interval and not math.isnan(result.interval.low):
        number += rf"_{{\pm {(result.interval.high - result.interval.low) / 2:.{digits}f}}}"
    return f"${number}$" if math.isfinite(result.mean) else "--"


def render(comparison: Comparison, style: str) -> str:
    """The comparison as text.

    Args:
        comparison: of runs.
        style: ``table`` for terminals, ``md``, ``latex`` or ``csv``.
    """
    if style == "csv":
        text: str = comparison.as_frame().map(csv_cell).rename(columns=csv_cell).to_csv(index=False)
        return text
    if style == "latex":
        return results_latex(comparison) + "\n"
    tables = [results_table(comparison), differences_table(comparison)]
    if comparison.bins:
        tables.insert(1, bins_table(comparison))
    if style == "md":
        return "\n\n".join(table.as_markdown() for table in tables) + "\n"
    return "\n\n".join("\n".join([*([t.as_text()] if t.rows else []), t.caption]) for t in tables) + "\n"
