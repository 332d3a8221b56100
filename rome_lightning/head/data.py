"""The data of every head asset, regardless of its file format."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
"""Joints of every head asset, in order; "left" is the subject's left."""

REGIONS = ("face", "ears", "eyes", "mouth", "scalp", "neck", "shoulders")
"""Vertex regions of every head asset. They do not overlap and cover the mesh; ``mouth`` is the
interior (teeth, tongue, cavity), ``eyes`` the eyeballs."""

COMPUTED_LAYOUT = "-computed-uv"
"""End of the name of a FLAME head whose texture layout is not the official one."""


def have_same_parameters(name: str, other: str) -> bool:
    """Whether parameters of one head mean the same for another, by their names; their layouts may differ."""
    return name.removesuffix(COMPUTED_LAYOUT) == other.removesuffix(COMPUTED_LAYOUT)


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Landmarks as fixed points of the surface: barycentric coordinates in faces."""

    faces: Int[Tensor, " l"]
    """Index of the face that carries each landmark."""
    barycentrics: Float[Tensor, "l 3"]
    """Weights of that face's corners; each row sums to 1."""
    indices: Int[Tensor, " l"] | None = None
    """Which points of the full set these are, for an embedding of a part of it; ``None`` for all."""


@dataclass(frozen=True)
class HeadData:
    """Template, bases, skeleton and layout of a parametric head, in float32.

    The first ``c`` vertices carry the bases and skinning weights; the others, if any, are midpoints
    of pairs of them, so a dense scalp costs no larger basis.
    """

    name: str
    """For files and messages, e.g. ``open-head-1`` or ``flame-2020``."""
    template: Float[Tensor, "c 3"]
    """Mean head at rest with the mouth closed, metres, head space."""
    shape_basis: Float[Tensor, "c 3 s"]
    """Displacement per standard deviation of each identity component, metres."""
    expression_basis: Float[Tensor, "c 3 e"]
    """Displacement per unit of each expression coefficient, metres."""
    expression_names: tuple[str, ...]
    """Name of each expression coefficient; ARKit names on the open head."""
    joints: Float[Tensor, "5 3"]
    """Rest positions of ``JOINTS`` on the mean head, metres."""
    joint_basis: Float[Tensor, "5 3 k"]
    """Displacement of the joints per shape, then expression coefficient (k = s + e), metres."""
    skinning_weights: Float[Tensor, "c 5"]
    """Linear blend skinning weights; each row sums to 1. The parent of neck is root, that of the
    others neck."""
    faces: Int[Tensor, "f 3"]
    """Triangles over all vertices, midpoints included, counter-clockwise from outside."""
    uvs: Float[Tensor, "u 2"]
    """Texture coordinates in [0, 1], v down (see ``rome_lightning.geometry``); single or double precision."""
    uv_faces: Int[Tensor, "f 3"]
    """Corner indices into ``uvs`` of each face."""
    regions: dict[str, Bool[Tensor, " v"]]
    """Mask over all vertices for each name in ``REGIONS``."""
    landmarks: dict[str, LandmarkEmbedding] = field(default_factory=dict)
    """Embeddings by name: ``mediapipe`` (478 points), ``ibug68`` (68 points), ``mediapipe105`` (the part of
    MediaPipe's points that FLAME's official embedding has, with ``indices``)."""
    vertex_uvs: Float[Tensor, "v 2"] | None = None
    """Texture coordinates of the vertices themselves; ``None`` for those of each one's first corner."""
    midpoints: Int[Tensor, "m 2"] | None = None
    """Pairs of carrying vertices; vertex ``c + i`` is at rest, and in its skinning weights, the mean of pair
    ``i``."""
    pose_basis: Float[Tensor, "p x"] | None = None
    """Pose correctives: flattened (R - I) of all joints but the root (p = 36) to displacements (x = 3 c)."""
    num_open_faces: int | None = None
    """Triangles before those that close the mouth; ``None`` where none does."""
    licence: str = ""
    """Terms under which the asset may be used; written into every summary."""
