"""Reuse of existing clips: tracking depends on the video and the settings, not on split or person."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.codec import MEMBERS, PackedClip, decode_meta, encode_meta
from datamodules.prepare.clips import VideoReport
from datamodules.prepare.parts import FOLDER, Part, failure_of, read_reports, write_reports
from datamodules.shards import ShardInfo, ShardWriter

TRANSIENT = ("error", "crash", "timeout")
"""Kinds of failure that a retry may avoid."""
_OF_THE_DATASET = ("split", "inputs", "input")
"""Entries of a spec that do not affect tracking."""


class TrackedVideos:
    """Videos in the finished shards of a folder, for reuse in shards of other splits or people.

    Args:
        output: folder of the dataset.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._homes: dict[tuple[str, str], list[ShardInfo]] = {}
        for path in sorted(output.glob("*.json")):
            info = _finished(path)
            for item in info.spec.get("inputs", []) if info is not None else []:
                assert info is not None
                self._homes.setdefault((item.get("key"), item.get("sha256")), []).append(info)

    def take(self, part: Part) -> VideoReport | None:
        """Write a part from a shard that has its video; None if no shard has the same settings.

        Raises:
            OSError: the part cannot be written.
        """
        wanted = _settings(part.spec)
        for info in self._homes.get((part.video.key, part.video.sha256), []):
            report = self._report(info, part)
            if _settings(info.spec) == wanted and report is not None:
                self._write(info, part, report)
                return report
        return None

    def _report(self, info: ShardInfo, part: Part) -> VideoReport | None:
        """The recorded reason for the video; None if it failed in a way that may not recur."""
        for report in read_reports(self.output, info.name):
            if report.input == part.video.name and report.kind not in TRANSIENT:
                return replace(report, identity=part.video.identity)
        return None

    def _write(self, info: ShardInfo, part: Part, report: VideoReport) -> None:
        folder = self.output / FOLDER
        with ShardWriter(folder, part.name, part.spec) as writer:
            if report.clips:
                for key, packed in _clips_of(self.output / f"{info.name}.tar", part):
                    writer.add_packed(key, part.video.identity, packed)
            write_reports(folder, part.name, [report])
            writer.finish(failure_of(report))


def _finished(path: Path) -> ShardInfo | None:
    """The shard of a JSON file, if it is one and complete."""
    try:
        info = ShardInfo.load(path)
        tar = path.with_suffix(".tar")
        return info if (tar.stat().st_size if tar.exists() else 0) == info.bytes else None
    except (ValueError, TypeError, KeyError, AttributeError):
        # Another kind of JSON, such as the manifest or a shard of another schema.
        return None


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in _OF_THE_DATASET}


def _clips_of(tar: Path, part: Part) -> Iterator[tuple[str, PackedClip]]:
    """The clips of a part's video, under the name of its person."""
    with tarfile.open(tar) as archive:
        members: dict[str, bytes] = {}
        for entry in archive:
            key, _, suffix = entry.name.partition(".")
            if key.rpartition("-")[0] != part.video.key:
                continue
            file = archive.extractfile(entry)
            assert file is not None
            members[suffix] = file.read()
            if suffix == MEMBERS[-1]:
                meta, header = decode_meta(members[suffix])
                members[suffix] = encode_meta(meta, {**header, "identity": part.video.identity})
                yield key, PackedClip(members, meta)
                members = {}
