"""Estimate the remaining time of an operation."""

from __future__ import annotations

_MOST_SECONDS = 100
_MOST_MINUTES = 100


def time_left(elapsed_s: float, done: int, total: int) -> str:
    """``about 5 min left``, if the rest takes as long per piece; empty before the first and after the last.

    Args:
        elapsed_s: since the start, seconds.
        done: pieces so far.
        total: pieces in all.
    """
    if not 0 < done < total:
        return ""
    seconds = elapsed_s * (total - done) / done
    if seconds < _MOST_SECONDS:
        return f"about {seconds:.0f} s left"
    minutes = seconds / 60
    return f"about {minutes:.0f} min left" if minutes < _MOST_MINUTES else f"about {minutes / 60:.1f} h left"
