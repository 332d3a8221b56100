"""The manifest: one immutable JSON file that names a dataset version by its hash."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.shards import SCHEMA, ShardInfo, check_schema, sha256_of
from rome_lightning.media.atomic import write_atomic

SPLITS = ("train", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class ManifestShard:
    """One shard of a dataset."""

    name: str
    split: str
    bytes: int
    sha256: str
    spec_hash: str
    clips: int
    frames: int
    identities: list[str]


@dataclass(frozen=True)
class ManifestIndex:
    """The file that locates all clips and frames of a split, see ``datamodules.split_index``."""

    name: str
    split: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a reader needs to know about a dataset before it opens a shard."""

    dataset: str
    image_size: int
    """Height and width of every stored frame."""
    head: dict[str, Any]
    """Head model that was fitted: ``name``, ``num_shape``, ``num_expression``."""
    shards: list[ManifestShard]
    configuration: dict[str, Any]
    licence: str = ""
    """Terms of the videos, as the user states them."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """Inputs that gave no clip, with the reason."""
    schema: str = SCHEMA
    indices: list[ManifestIndex] = field(default_factory=list)
    """One per split; none in datasets of earlier versions, whose shards have an index each."""

    @cached_property
    def hash(self) -> str:
        """Name of this version: hash of the content, so two datasets with one hash are the same."""
        return sha256_of(self._content())

    def _content(self) -> dict[str, Any]:
        content = asdict(self)
        if not self.indices:
            # As earlier versions wrote it: checkpoints contain their hashes.
            del content["indices"]
        return content

    def index(self, split: str) -> ManifestIndex | None:
        """The joined index of a split; None if its shards have only their own."""
        return next((index for index in self.indices if index.split == split), None)

    @property
    def people(self) -> set[str]:
        """Identities of all splits."""
        return {person for shard in self.shards for person in shard.identities}

    def split(self, name: str) -> list[ManifestShard]:
        """Shards of a split (``train``, ``val`` or ``test``)."""
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        return [shard for shard in self.shards if shard.split == name]

    def save(self, path: Path) -> None:
        """Write atomically, with the hash."""
        content = {**self._content(), "hash": self.hash}
        write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True).encode())

    @classmethod
    def load(cls, path: Path, check_files: bool = True) -> Manifest:
        """Read and check a manifest.

        Args:
            path: ``manifest.json`` or the folder that holds it.
            check_files: whether the shards must be beside it.

        Raises:
            FileNotFoundError: there is no manifest.
            ValueError: it is damaged, edited, of another schema, or names missing shards.
        """
        path = path / "manifest.json" if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(
                f"no dataset at {path}; make one with: rome prepare VIDEOS... --output DIR"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise TypeError(f"it holds a {type(content).__name__}")
            check_schema(content.get("schema", ""), path)
            stated = content.pop("hash", "")
            # A later minor version may have added fields: they count for the hash, not for us.
            actual = sha256_of(content)
            shards = [ManifestShard(**_known(ManifestShard, shard)) for shard in content["shards"]]
            indices = [ManifestIndex(**_known(ManifestIndex, index)) for index in content.get("indices", [])]
            manifest = cls(**{**_known(cls, content), "shards": shards, "indices": indices})
        except (
            json.JSONDecodeError,
            UnicodeDecodeError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(
                f"{path} is not a dataset manifest: {error}; prepare the dataset again"
            ) from error
        if stated != actual:
            raise ValueError(
                f"{path} was edited or damaged: its content does not match its hash {stated[:12]}"
            )
        for name in [shard.name for shard in manifest.shards] + [index.name for index in manifest.indices]:
            # Names become paths and parts of addresses.
            if not _NAME.fullmatch(name):
                raise ValueError(f"{path}: {name!r} cannot be the name of a shard")
        if check_files:
            manifest._check_files(path.parent)
        return manifest

    def _check_files(self, folder: Path) -> None:
        for shard in self.shards:
            tar = folder / f"{shard.name}.tar"
            size = tar.stat().st_size if tar.exists() else -1
            if size != shard.bytes:
                found = "it is missing" if size < 0 else f"it has {size}"
                raise ValueError(
                    f"shard {tar} must have {shard.bytes} bytes, {found}; copy or prepare it again"
                )


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in content if key in kind.__dataclass_fields__}  # type: ignore[attr-defined]


def build_manifest(
    dataset: str,
    image_size: int,
    head: Mapping[str, Any],
    shards: Sequence[tuple[str, ShardInfo]],
    configuration: Mapping[str, Any],
    licence: str = "",
) -> Manifest:
    """Manifest of finished shards.

    Args:
        dataset: name for people.
        image_size: of every stored frame.
        head: see ``Manifest.head``.
        shards: pairs of split and shard; shards without clips are omitted, but their failures are kept.
        configuration: how the shards were made.
        licence: terms of the videos.

    Raises:
        ValueError: an identity is in two splits.
    """
    split_of: dict[str, str] = {}
    entries, failed = [], []
    for split, info in shards:
        failed += info.failed
        for identity in info.identities:
            if split_of.setdefault(identity, split) != split:
                raise ValueError(
                    f"identity {identity!r} is in the splits {split_of[identity]!r} and {split!r}"
                )
        if info.clips:
            entries.append(
                ManifestShard(
                    info.name,
                    split,
                    info.bytes,
                    info.sha256,
                    info.spec_hash,
                    info.clips,
                    info.frames,
                    sorted(info.identities),
                )
            )
    return Manifest(dataset, image_size, dict(head), entries, dict(configuration), licence, failed)
