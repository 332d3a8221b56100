"""Options of ``rome prepare``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PrepareConfig:
    """How videos become a dataset."""

    dataset: str = "talking-heads"
    """Name of the dataset, for people."""
    image_size: int = 256
    """Height and width of the stored frames in pixels; training can use less, never more."""
    head: str = "open"
    """Head model to fit: ``open`` (ships with this package) or the path of a FLAME pickle."""
    fps: float | None = 6.0
    """Frames taken per second of video; null takes all. Neighbouring frames add little to pairs."""
    start_s: float = 0.0
    """Seconds to leave out at the beginning of each video."""
    max_frames: int = 256
    """At most so many frames of each video are tracked."""
    frames_per_clip: int = 64
    """Longer videos are cut into clips of at most so many frames; their identity is one."""
    min_frames: int = 8
    """Videos with fewer usable frames are rejected."""
    min_sharpness_ratio: float = 0.35
    """Frames are rejected as blurred below this share of the median sharpness of their video."""
    max_upscale: float = 3.0
    """Videos whose face would have to be enlarged more than this are rejected."""
    max_side: int = 1280
    """Larger videos are averaged down to this longer side while they are decoded, pixels."""
    videos_per_shard: int = 16
    """Videos per shard; a shard is also the unit that an interrupted run repeats."""
    val_ratio: float = 0.0
    """Share of the identities for validation, chosen by a hash of their name: adding videos never
    moves an identity, but with few identities the share is rough."""
    test_ratio: float = 0.0
    """The same for testing."""
    val_identities: list[str] = field(default_factory=list)
    """Identities that belong to validation, whatever ``val_ratio`` says."""
    test_identities: list[str] = field(default_factory=list)
    """Identities that belong to testing, whatever ``test_ratio`` says."""
    licence: str = ""
    """Terms under which the videos may be used; kept in the manifest."""

    def __post_init__(self) -> None:
        for name in ("image_size", "max_frames", "frames_per_clip", "max_side", "videos_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % 16:
            # JPEG's chroma blocks of 16 pixels: other sizes would store padding.
            raise ValueError(f"image_size must be a multiple of 16, got {self.image_size}")
        if self.min_frames < 2:
            raise ValueError(f"min_frames must be at least 2 (a pair has two frames), got {self.min_frames}")
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be positive or null, got {self.fps}")
        if min(self.val_ratio, self.test_ratio) < 0 or self.val_ratio + self.test_ratio >= 1:
            raise ValueError(
                "val_ratio and test_ratio must leave identities to train on, got "
                f"{self.val_ratio} and {self.test_ratio}"
            )
        both = set(self.val_identities) & set(self.test_identities)
        if both:
            raise ValueError(f"identities cannot be in two splits: {', '.join(sorted(both))}")

    def clip_settings(self) -> dict[str, Any]:
        """The options that change the content of a clip, and so belong to a shard's spec."""
        names = (
            "dataset", "image_size", "fps", "start_s", "max_frames", "frames_per_clip", "min_frames",
            "min_sharpness_ratio", "max_upscale", "max_side",
        )  # fmt: skip
        content = asdict(self)
        return {name: content[name] for name in names}
