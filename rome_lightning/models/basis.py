"""A linear basis of offsets for hair, neck and shoulders."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head import HeadModel
from rome_lightning.media.digest import check_archive
from rome_lightning.media.tensors import read_tensors, write_tensors

FORMAT = "rome-basis/1"
"""Written into every basis file; others are refused."""
OFFICIAL_HAIR, OFFICIAL_NECK = 50, 10
"""Columns of the release's ``u_full.pt``: hair first."""
OFFICIAL_STD_M = 0.005
"""The release has no standard deviations: one is assumed to move hair by 5 mm (root mean square)."""
_ORTHONORMAL_TOLERANCE = 1e-3
"""Tolerance for a basis stored in single precision."""


def mesh_fingerprint(head: HeadModel) -> str:
    """SHA-256 of the mesh that offsets belong to: mean head but the mouth, triangles, movable vertices."""
    digest = hashlib.sha256()
    outside = head.template.unflatten(0, (-1, 3))[~head.region("mouth")[: head.num_carriers]]
    for tensor in (outside, head.faces.int(), head.region("scalp"), head.region("neck", "shoulders")):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class LinearBasis:
    """Offsets as ``mean + sum_i coefficient_i * component_i``.

    The first ``num_hair`` components move the scalp only, the others neck and shoulders only.

    Source: ROME sec. 3.5.
    """

    components: Float[Tensor, "k v 3"]
    """Orthonormal displacements of the head at rest."""
    mean: Float[Tensor, "v 3"]
    """Mean offsets, metres."""
    std: Float[Tensor, " k"]
    """Standard deviation of each coefficient over the people of the data, metres."""
    num_hair: int
    head: str
    """Name of the head model."""
    fingerprint: str
    """See ``mesh_fingerprint``."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Origin: checkpoint, data, number of samples, explained variance, versions."""

    def __post_init__(self) -> None:
        flat = self.components.flatten(1).double()
        error = float(
            (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).abs().max()
        )
        if not error < _ORTHONORMAL_TOLERANCE:
            raise ValueError(f"the components of a basis must be orthonormal, these are off by {error:.2g}")

    @property
    def num_neck(self) -> int:
        """Number of components of neck and shoulders."""
        return len(self.components) - self.num_hair

    @property
    def names(self) -> list[str]:
        """Names of the components, in order: ``hair 1``, ..., ``neck 1``, ..."""
        hair = [f"hair {i + 1}" for i in range(self.num_hair)]
        return hair + [f"neck {i + 1}" for i in range(self.num_neck)]

    @property
    def digest(self) -> str:
        """Identifies the components."""
        return hashlib.sha256(self.components.cpu().contiguous().numpy().tobytes()).hexdigest()

    def coefficients(self, offsets: Float[Tensor, "b v 3"]) -> Float[Tensor, "b k"]:
        """Least-squares coefficients of given offsets, metres.

        ``pinv(F) (o - mean)``; the pseudo-inverse of orthonormal columns is their transpose.
        """
        return (offsets - self.mean).flatten(1) @ self.components.flatten(1).T

    def offsets(self, coefficients: Float[Tensor, "b k"]) -> Float[Tensor, "b v 3"]:
        """Offsets of the head at rest for given coefficients, metres."""
        return self.mean + (coefficients @ self.components.flatten(1)).unflatten(1, (-1, 3))

    def to(self, device: torch.device | str) -> LinearBasis:
        """The same basis on another device."""
        return dataclasses.replace(
            self,
            components=self.components.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )

    def check(self, head: HeadModel) -> LinearBasis:
        """Return the basis if it belongs to the head.

        Raises:
            ValueError: it was made with another head model.
        """
        if self.fingerprint != mesh_fingerprint(head):
            raise ValueError(
                f"the basis was made with head {self.head} ({self.fingerprint[:12]}, "
                f"{self.components.shape[1]} vertices), the model has {head.name} "
                f"({mesh_fingerprint(head)[:12]}, {head.num_vertices} vertices); make one with "
                "`rome distill basis` and a checkpoint of this head"
            )
        return self

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        header = {
            "format": FORMAT,
            "num_hair": self.num_hair,
            "head": self.head,
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
        }
        write_tensors(path, {"components": self.components, "mean": self.mean, "std": self.std}, header)

    @classmethod
    def load(cls, path: Path) -> LinearBasis:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or is not a basis.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no basis at {path}; make one with `rome distill basis --checkpoint FILE --data MANIFEST "
                f"-o {path}`"
            )
        tensors, header = read_tensors(path, FORMAT)
        names = ("num_hair", "head", "fingerprint", "provenance")
        try:
            parts = (tensors["components"], tensors["mean"], tensors["std"])
            return cls(*parts, **{name: header[name] for name in names})
        except KeyError as error:
            raise ValueError(f"{path} is not a complete basis file: it lacks {error}") from error

    @classmethod
    def from_official(cls, u_full: Path, mean_deform: Path, head: HeadModel) -> LinearBasis:
        """The release's basis for FLAME.

        Args:
            u_full: ``u_full.pt``, (3 v, 60), vertex by vertex; tensors saved from a GPU are fine.
            mean_deform: ``mean_deform.pt``, (v, 3), metres.
            head: FLAME as the release uses it.

        Raises:
            ValueError: the files are something else or do not fit the head.
        """
        num = OFFICIAL_HAIR + OFFICIAL_NECK
        columns = _read_tensor(u_full, (3 * head.num_vertices, num))
        mean = _read_tensor(mean_deform, (head.num_vertices, 3))
        num_moving = int(head.region("scalp").sum())
        return cls(
            components=columns.T.unflatten(1, (-1, 3)).contiguous(),
            mean=mean,
            std=torch.full((num,), OFFICIAL_STD_M * num_moving**0.5),
            num_hair=OFFICIAL_HAIR,
            head=head.name,
            fingerprint=mesh_fingerprint(head),
            provenance={"source": "official ROME release", "std": "nominal: the release has none"},
        )


def read_official(path: Path) -> Any:
    """Content of a torch file, on the CPU, as plain data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or contains more than plain data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the release's files come from its authors' page")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as plain tensors: {reason}") from error


def _read_tensor(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One tensor of a known shape, in single precision."""
    content = read_official(path)
    if isinstance(content, Mapping) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, Tensor) or tuple(content.shape) != shape:
        found = tuple(content.shape) if isinstance(content, Tensor) else type(content).__name__
        raise ValueError(
            f"{path} should hold one tensor {shape}, it holds {found}; is it for this head model?"
        )
    if not bool(torch.isfinite(content).all()):
        raise ValueError(f"{path} holds numbers that are not finite")
    return content.detach().float()
