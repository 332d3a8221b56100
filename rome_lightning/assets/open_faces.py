"""The photographs of people that may train a model for everybody: where they are, and getting them.

The list comes with this package (``open_faces.csv``), but the photographs do not. Each is checked against its
sha256, so that everybody trains on the same ones.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rome_lightning.assets.archives import SourceError
from rome_lightning.assets.transport import Transport
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.digest import file_sha256

_LIST = Path(__file__).with_name("open_faces.csv")
CONNECTIONS = 4
"""Concurrent downloads; few, out of courtesy to the servers."""
_TRIES = 3
_WAIT_S = 2.0
_NOTES = {
    "congress": "Portraits by the United States Government Publishing Office. Nobody of them may be shown as "
    "a demonstration: rights of personality remain.",
    "london": "Lisa DeBruine and Benedict Jones, Face Research Lab London Set, 2017, "
    "https://doi.org/10.6084/m9.figshare.5047666. The sitters agreed to research and illustration: train, do "
    "not show as demonstration faces.",
    "canada": "Canadian face set, https://doi.org/10.6084/m9.figshare.4220517, distributed with "
    "webmorphR.stim. The same holds as for the London set.",
    "interfaces": "inter-faces by C. Downer; the photographer's page of each picture is in the CREDITS.md of "
    "its repository.",
}


@dataclass(frozen=True)
class Photograph:
    """A photograph in a public repository."""

    group: str
    """Set that it belongs to: one licence, one kind of picture."""
    identity: str
    repository: str
    """``owner/name`` on GitHub."""
    commit: str
    path: str
    sha256: str
    num_bytes: int
    licence: str

    @property
    def address(self) -> str:
        """Where it is on the web."""
        path = urllib.parse.quote(self.path)
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{path}"

    @property
    def file(self) -> str:
        """Where it is kept: set, person and name."""
        return f"{self.group}/{self.identity}/{self.path.rsplit('/', 1)[-1]}"


def open_faces() -> list[Photograph]:
    """The photographs of ``open-faces/1``."""
    with _LIST.open(encoding="utf-8", newline="") as file:
        return [
            Photograph(
                row["set"],
                row["identity"],
                row["repository"],
                row["commit"],
                row["path"],
                row["sha256"],
                int(row["bytes"]),
                row["licence"],
            )
            for row in csv.DictReader(file)
        ]


def fetch_photographs(
    photographs: Sequence[Photograph],
    folder: Path,
    clones: Path | None = None,
    log: Callable[[str], None] = print,
    transport: Transport | None = None,
) -> list[str]:
    """Bring photographs into a folder, with ``CREDITS.md``, ``identities.csv`` and one ``SET.csv`` per set.

    Existing ones are kept, so that an interrupted call can be resumed.

    Args:
        photographs: of ``open_faces``.
        folder: created if needed.
        clones: folder with clones of the repositories, called ``owner+name`` or ``name``; by default they
            come from the web.
        log: receives progress.
        transport: of files from the web.

    Returns:
        What could not be fetched, one line each. The tables name only existing files.
    """
    get = partial(_from_clone, clones) if clones is not None else partial(_from_web, transport or Transport())
    folder.mkdir(parents=True, exist_ok=True)
    failed, here = [], []
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        problems = pool.map(partial(_bring, folder=folder, get=get), photographs)
        for number, (photograph, problem) in enumerate(zip(photographs, problems, strict=True), 1):
            if problem:
                failed.append(f"{photograph.file}: {problem}")
            else:
                here.append(photograph)
            if number % 100 == 0 or number == len(photographs):
                log(f"{number} of {len(photographs)} photographs, {len(failed)} could not be had")
    _write_tables(here, folder)
    write_atomic(folder / "CREDITS.md", _credits(here))
    return failed


def _bring(photograph: Photograph, folder: Path, get: Callable[[Photograph, Path], None]) -> str:
    """Fetch one photograph; returns why that failed, or nothing."""
    target = folder / photograph.file
    if target.is_file() and file_sha256(target) == photograph.sha256:
        return ""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        get(photograph, temporary)
        if file_sha256(temporary) != photograph.sha256:
            return "another file than the one that was listed (its sha256 differs)"
        temporary.replace(target)
    except (SourceError, OSError) as error:
        return str(error)
    finally:
        temporary.unlink(missing_ok=True)
    return ""


def _from_web(transport: Transport, photograph: Photograph, target: Path) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            transport.fetch_address(photograph.address, target, photograph.num_bytes, quiet=True)
            return
        except SourceError:
            if attempt == _TRIES or not transport.is_open:
                raise
            time.sleep(_WAIT_S * attempt)


def _from_clone(clones: Path, photograph: Photograph, target: Path) -> None:
    # Clones may belong to another user; nothing of theirs runs when an object is read.
    command = ["git", "-c", "safe.directory=*", "--git-dir", str(_clone(clones, photograph.repository))]
    done = subprocess.run(
        [*command, "cat-file", "blob", f"{photograph.commit}:{photograph.path}"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SourceError(" ".join(done.stderr.decode(errors="replace").split()) or "git cannot read it")
    write_atomic(target, done.stdout)


def _clone(clones: Path, repository: str) -> Path:
    """The git directory of a repository's clone.

    Raises:
        SourceError: there is none.
    """
    names = (repository.replace("/", "+"), repository.rsplit("/", 1)[-1])
    for name in names:
        for inside in ("", ".git", "repo", "repo/.git"):
            found = clones / name / inside
            if (found / "HEAD").is_file() and (found / "objects").is_dir():
                return found
    raise SourceError(f"no clone of {repository} in {clones}; it must be called {' or '.join(names)}")


def _write_tables(photographs: Sequence[Photograph], folder: Path) -> None:
    groups = {photograph.group for photograph in photographs}
    tables = {"identities.csv": list(photographs)}
    tables |= {f"{name}.csv": [p for p in photographs if p.group == name] for name in sorted(groups)}
    for name, rows in tables.items():
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(["path", "identity"])
        writer.writerows([row.file, row.identity] for row in rows)
        write_atomic(folder / name, file.getvalue())


def _credits(photographs: Sequence[Photograph]) -> str:
    lines = ["# Photographs of open-faces/1", "", "Each set keeps its own terms.", ""]
    for name in sorted({photograph.group for photograph in photographs}):
        rows = [photograph for photograph in photographs if photograph.group == name]
        people = len({row.identity for row in rows})
        lines += [f"## {name}: {len(rows)} photographs of {people} people", ""]
        lines += [f"- Licence: {licence}" for licence in sorted({row.licence for row in rows})]
        sources = sorted({f"https://github.com/{row.repository}/tree/{row.commit}" for row in rows})
        lines += [*(f"- From {source}" for source in sources), f"- {_NOTES[name]}", ""]
    return "\n".join(lines)
