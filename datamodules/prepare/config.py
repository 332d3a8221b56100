"""Options of ``rome prepare``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rome_lightning.media.digest import file_sha256


@dataclass(frozen=True)
class PrepareConfig:
    """How videos become a dataset."""

    dataset: str = "talking-heads"
    """Name of the dataset, for people."""
    image_size: int = 256
    """Height and width of the stored frames in pixels; training can use less, never more."""
    head: str = "open"
    """Head model to fit: ``open`` (ships with this package) or the path of a FLAME pickle."""
    deca: str | None = None
    """Path of DECA's ``deca_model.tar``: its encoder's parameters replace the fit; for FLAME."""
    fps: float | None = 6.0
    """Frames taken per second of video; null takes all. Neighbouring frames add little to pairs."""
    start_s: float = 0.0
    """Seconds to skip at the beginning of each video."""
    max_frames: int = 256
    """Largest number of frames tracked per video."""
    frames_per_clip: int = 64
    """Longer shots are cut into clips of at most this many frames, which share one identity."""
    min_frames: int = 8
    """Shots with fewer usable frames are rejected, and so are videos without any other shot; one photograph
    is enough."""
    min_sharpness_ratio: float = 0.35
    """Frames below this share of their shot's median sharpness are rejected as blurred."""
    min_face_px: float = 48.0
    """Frames whose face is smaller than this in the video, hairline to chin, are rejected, pixels."""
    max_yaw: float = 60.0
    """Frames with the head turned further to the side than this are rejected, degrees."""
    max_pitch: float = 45.0
    """The same for looking up or down, degrees."""
    max_roll: float = 45.0
    """The same for tilting towards a shoulder, degrees."""
    min_confidence: float = 0.3
    """Frames with a lower confidence are rejected: the uncovered share of the face, halved by a fit error of
    5 % of the distance between the irises. [0, 1]."""
    max_covered: float = 0.05
    """Frames with a larger share of the face hidden by hands or objects are rejected, [0, 1]; eyewear does
    not count, and 1 keeps all frames."""
    min_identity_similarity: float | None = 0.363
    """Frames whose face is less similar to the most frequent face of the video are rejected as another
    person: cosine similarity of SFace, whose authors count faces above 0.363 as one person. null does not
    check."""
    max_upscale: float = 3.0
    """Shots whose face would be upscaled by more than this factor are rejected."""
    max_side: int = 1280
    """Larger videos are downscaled to this longer side while decoding, pixels."""
    carry_masks: bool = False
    """Every second frame of a video takes regions and matte from the frames before and after it, moved along
    the optical flow, where those two agree: a tenth less time at 6 frames per second, and up to a quarter
    for calm heads or at higher rates."""
    videos_per_shard: int = 16
    """Videos per shard; a shard is also the unit that an interrupted run repeats."""
    val_ratio: float | None = None
    """Share of the identities for validation, chosen by a hash of their name: adding videos never
    moves an identity, but with few identities the share is approximate. null takes a tenth, and at least two,
    of six or more identities unless some are listed; with fewer than six it takes none."""
    test_ratio: float = 0.0
    """The same for testing; 1 prepares a dataset for evaluation alone."""
    val_identities: list[str] = field(default_factory=list)
    """Identities for validation, regardless of ``val_ratio``."""
    test_identities: list[str] = field(default_factory=list)
    """Identities for testing, regardless of ``test_ratio``."""
    licence: str = ""
    """Terms under which the videos may be used; kept in the manifest."""
    fit_outline: bool = False
    """Fit offsets of hair, neck and shoulders to the person's outline in up to four frames of each clip and
    store them, for models with ``avatar.offsets.kind: fitted``."""

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
        val_ratio = self.val_ratio or 0.0
        ratios = val_ratio + self.test_ratio
        if min(val_ratio, self.test_ratio) < 0 or (ratios >= 1 and not (self.test_ratio == ratios == 1)):
            raise ValueError(
                "val_ratio and test_ratio must leave identities to train on, got "
                f"{val_ratio} and {self.test_ratio}; for evaluation alone, set test_ratio to 1"
            )
        for name in ("min_confidence", "max_covered", "min_sharpness_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("max_yaw", "max_pitch", "max_roll"):
            if not 0 < getattr(self, name) <= 180:
                raise ValueError(f"{name} must be in (0, 180] degrees, got {getattr(self, name)}")
        both = set(self.val_identities) & set(self.test_identities)
        if both:
            raise ValueError(f"identities cannot be in two splits: {', '.join(sorted(both))}")

    def clip_settings(self) -> dict[str, Any]:
        """The options that change the content of a clip, and so belong to a shard's spec."""
        others = {
            "head", "deca", "videos_per_shard", "licence",
            "val_ratio", "test_ratio", "val_identities", "test_identities",
        }  # fmt: skip
        # Clips without offsets or carried masks keep the hash of versions that had none.
        others |= {name for name in ("fit_outline", "carry_masks") if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in others} | self._deca()

    def recorded(self, head: str) -> dict[str, Any]:
        """The options as a manifest keeps them: paths belong to the user's machine.

        Args:
            head: name of the head model.
        """
        options = {name: value for name, value in asdict(self).items() if name != "deca"}
        return {**options, "head": head} | self._deca()

    def _deca(self) -> dict[str, str]:
        """The encoder's file by its content; datasets without one keep the hash of versions that had none."""
        return {} if self.deca is None else {"deca": file_sha256(Path(self.deca))}


@dataclass(frozen=True)
class BuildOptions:
    """How the work is done; nothing here changes a byte of the dataset."""

    workers: int | None = None
    """Processes that track videos, each on one core and with up to 2 GB of memory; on a cluster, per job.
    null takes as many as cores and free memory allow. 0 tracks in this process, where a decoder crash ends
    the run."""
    video_limit_s: float = 1800.0
    """A video that takes longer is retried once, then listed as failed, seconds."""
    retry_failed: bool = False
    """Rebuild shards of an earlier run in which a video crashed, timed out or failed with an unexpected
    error."""
    engine: Literal["local", "submitit", "ray"] = "local"
    """Where shards are built: on this machine, as an array of SLURM jobs (``pip install submitit``), or as
    tasks of a Ray cluster (``pip install ray``). All machines must share the output folder."""
    jobs: int = 8
    """Number of jobs or tasks among which submitit and Ray divide the shards."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit's executor, such as ``slurm_partition: cpu``, ``timeout_min: 600``,
    ``mem_gb: 16``; ``cluster: local`` or ``debug`` runs the jobs here."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        for name in ("video_limit_s", "jobs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
