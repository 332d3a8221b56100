"""What is known of a file that the project uses and does not contain."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass


@dataclass(frozen=True)
class WebAddress:
    """The official address of the file itself."""

    address: str

    def __str__(self) -> str:
        return f"official address at {urllib.parse.urlsplit(self.address).hostname}"


@dataclass(frozen=True)
class PyPiArchive:
    """A package on the Python index whose archive has the byte-identical file as one member."""

    package: str
    version: str
    member: str
    kind: str = "wheel"
    """``wheel``, or ``sdist`` where only the source archive has the file."""

    def __str__(self) -> str:
        return f"PyPI {self.kind} {self.package}=={self.version}"


@dataclass(frozen=True)
class NpmArchive:
    """A package on npm whose tarball has the byte-identical file as one member."""

    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"npm package {self.package}@{self.version}"


Archive = PyPiArchive | NpmArchive
Source = WebAddress | Archive


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file that is fetched once, checked against its hash and kept in the cache."""

    name: str
    file: str
    """The file's name in the cache and in the user's ``$ROME_ASSETS`` folder."""
    licence: str
    page: str
    """Where a person finds the file, its model card and its terms."""
    needed_for: str
    """What does not work without it, as the end of a sentence."""
    sha256: str | None = None
    """Lower-case hexadecimal; None for user-supplied files that exist in several editions."""
    num_bytes: int | None = None
    note: str = ""
    sources: tuple[Source, ...] = ()
    """In the order in which they are tried; empty for files that only the user can get."""
    commercial_use: bool = True
    demo: bool = False
    """Whether the demo uses it."""

    @property
    def variable(self) -> str:
        """The environment variable that names a file of the user's."""
        return f"ROME_ASSET_{self.name.upper()}"
