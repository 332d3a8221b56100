"""The configurations of ``experiments/``, which travel with the package and are found by name.

In a checkout they are the top-level folder; the build of a wheel copies them into the package (``setup.py``).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from rome_lightning.media.atomic import write_atomic

SUFFIXES = (".yaml", ".sh")
"""Of what has a name: configurations, and job scripts."""
_PACKAGE = Path(__file__).parents[1]
_MARK = Path("full") / "base.yaml"
_RENAMED = {
    "full/paper": "rome/paper",
    "full/release": "rome/release, an overlay of rome/paper (--config rome/paper --config rome/release)",
}
"""Names of earlier versions, and what to give instead."""


def experiments_folder() -> Path:
    """The folder of the shipped configurations.

    Raises:
        FileNotFoundError: this installation has none.
    """
    for folder in (_PACKAGE / "experiments", _PACKAGE.parent / "experiments"):
        if (folder / _MARK).is_file():
            return folder
    raise FileNotFoundError(
        f"this installation lacks its configurations ({_PACKAGE / 'experiments'}); install the wheel again"
    )


def experiment_names() -> list[str]:
    """Every shipped configuration and script, as ``full/base`` or ``slurm/single_node.sh``, in order."""
    folder = experiments_folder()
    files = (path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return sorted(path.relative_to(folder).as_posix().removesuffix(".yaml") for path in files)


def find_experiment(name: str | Path, kind: str = "") -> Path:
    """The file that a path or a name means.

    Args:
        name: a path that exists, or the name of a shipped file: ``full/base``, with or without ``.yaml`` and
            a leading ``experiments/``.
        kind: folder in which a name without one is looked up, such as ``protocols``.

    Raises:
        FileNotFoundError: neither a file nor a name; tells the nearest names.
    """
    path = Path(name)
    return path if path.is_file() else _shipped(path, kind)


def _shipped(path: Path, kind: str = "") -> Path:
    folder, wanted = experiments_folder(), path.as_posix().removeprefix("experiments/")
    for stem in (wanted, f"{kind}/{wanted}") if kind else (wanted,):
        for candidate in (folder / stem, folder / f"{stem}.yaml"):
            if candidate.is_file() and not path.is_absolute() and ".." not in path.parts:
                return candidate
    renamed = _RENAMED.get(wanted.removesuffix(".yaml"))
    if renamed:
        raise FileNotFoundError(f"there is no file {path}; it is called {renamed} now")
    raise FileNotFoundError(f"there is no file {path}, and no shipped one of that name{_hint(wanted, kind)}")


def _hint(wanted: str, kind: str) -> str:
    """What may have been meant."""
    prefix = f"{kind}/" if kind else ""
    names = [name.removeprefix(prefix) for name in experiment_names() if name.startswith(prefix)]
    close = difflib.get_close_matches(wanted.removesuffix(".yaml"), names, n=3)
    # The right name in the wrong folder.
    stem = Path(wanted).stem
    close += [name for name in names if Path(name).stem == stem and name not in close]
    if close:
        return f" (did you mean {' or '.join(close)}?)"
    return f"; there are {', '.join(names)}" if kind else "; `rome experiments list` shows them"


def first_line(name: str) -> str:
    """The question that a shipped file answers, from its first comment; empty if it has none."""
    lines = _shipped(Path(name)).read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("#").strip() for line in lines if line.startswith("#") and line[:2] != "#!")
    return next(comments, "").removeprefix("Question: ")


def copy_experiments(names: list[str], target: Path) -> list[Path]:
    """Copy shipped files, to be changed, below a folder; all of them if none is named.

    Raises:
        FileNotFoundError: a name is unknown.
        FileExistsError: a file is there already; nothing has been copied then.
    """
    folder = experiments_folder()
    sources = [_shipped(Path(name)) for name in names or experiment_names()]
    copies = [target / source.relative_to(folder) for source in sources]
    there = [str(copy) for copy in copies if copy.exists()]
    if there:
        raise FileExistsError(f"{', '.join(there[:3])} exists already; name another folder with --output")
    for source, copy in zip(sources, copies, strict=True):
        write_atomic(copy, source.read_bytes())
        copy.chmod(source.stat().st_mode & 0o777)
    return copies
