"""The parametric head: identity, expression and pose to posed vertices."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from rome_lightning.geometry import axis_angle_to_matrix, full_precision, rotate_about, unique_edges
from rome_lightning.head.data import REGIONS, HeadData, LandmarkEmbedding
from rome_lightning.types import HeadParams


class HeadModel(nn.Module):
    """Linear shape and expression bases, pose correctives and linear blend skinning.

    One class for every asset: what differs between FLAME and the open head is in ``HeadData`` only.
    All tensors are buffers; the model has nothing to train and adds nothing to a state dict, because
    an asset is identified by its name and hash, not stored in checkpoints.

    Source: Li et al., Learning a model of facial shape and expression from 4D scans, 2017, eq. 1-4.
    """

    joint_template: Float[Tensor, " 15"]
    joint_basis: Float[Tensor, "k 15"]
    skinning_weights: Float[Tensor, "c 5"]
    midpoints: Int[Tensor, "m 2"] | None
    faces: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "u 2"]
    exact_uvs: Float64[Tensor, "u 2"] | None
    uv_faces: Int[Tensor, "f 3"]
    vertex_uvs: Float[Tensor, "v 2"]
    _planar_template: Float[Tensor, " x"]
    _planar_basis: Float[Tensor, "n x"]
    _planar_weights: Float[Tensor, "5 v"]

    def __init__(self, data: HeadData) -> None:
        super().__init__()
        self.name = data.name
        self.licence = data.licence
        self.expression_names = data.expression_names
        self.num_open_faces = data.num_open_faces
        self.num_shape = data.shape_basis.shape[-1]
        self.num_expression = data.expression_basis.shape[-1]
        self.num_carriers = data.template.shape[0]
        self.num_vertices = self.num_carriers + (0 if data.midpoints is None else len(data.midpoints))

        # All x, then all y, then all z: skinning then runs on contiguous planes, and one product with one
        # matrix gives identity, expression and pose correctives.
        planes = [basis.permute(2, 1, 0).flatten(1) for basis in (data.shape_basis, data.expression_basis)]
        if data.pose_basis is not None:
            planes.append(data.pose_basis.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1))
        self.has_pose_basis = data.pose_basis is not None
        self._register("_planar_template", data.template.T.flatten())
        self._register("_planar_basis", torch.cat(planes))
        self._register("joint_template", data.joints.reshape(-1))
        self._register("joint_basis", data.joint_basis.reshape(-1, data.joint_basis.shape[-1]).T)
        self._register("skinning_weights", data.skinning_weights)
        self._register("midpoints", data.midpoints)
        weights = data.skinning_weights
        if data.midpoints is not None:
            weights = torch.cat([weights, weights[data.midpoints].mean(1)])
        self._register("_planar_weights", weights.T)
        self._register("faces", data.faces.long())
        # Ties in texture space are decided by the last bits of the file's own numbers.
        self._register("exact_uvs", data.uvs if data.uvs.dtype == torch.float64 else None)
        self._register("uvs", data.uvs.float())
        self._register("uv_faces", data.uv_faces.long())
        # A vertex on a seam has several corners: the first in the list, the same in every process.
        corner = torch.full((self.num_vertices,), len(data.uvs) - 1)
        corner.scatter_reduce_(0, data.faces.reshape(-1).long(), data.uv_faces.reshape(-1).long(), "amin")
        self._register("vertex_uvs", self.uvs[corner] if data.vertex_uvs is None else data.vertex_uvs)
        for name in REGIONS:
            self._register(f"region_{name}", data.regions[name])
        self.landmark_names: tuple[str, ...] = ()
        for name, embedding in data.landmarks.items():
            self.add_landmarks(name, embedding)

    def add_landmarks(self, name: str, embedding: LandmarkEmbedding) -> None:
        """Add or replace the embedding with this name."""
        self.landmark_names = (*(known for known in self.landmark_names if known != name), name)
        self._register(f"landmark_corners_{name}", self.faces.cpu()[embedding.faces].to(self.faces.device))
        self._register(f"landmark_weights_{name}", embedding.barycentrics.to(self.faces.device))
        self._register(f"landmark_indices_{name}", embedding.indices)

    def _register(self, name: str, tensor: Tensor | None) -> None:
        tensor = None if tensor is None else tensor.contiguous()
        self.register_buffer(name, tensor, persistent=False)

    @property
    def has_arkit(self) -> bool:
        """Whether expressions are ARKit's blendshapes, with weights in [0, 1]; FLAME's have both signs."""
        return "jawOpen" in self.expression_names

    @property
    def expression_range(self) -> tuple[float, float]:
        """Coefficients of an expression between which sliders move; FLAME's are standard deviations."""
        return (0.0, 1.0) if self.has_arkit else (-3.0, 3.0)

    @property
    def edges(self) -> Int[Tensor, "e 2"]:
        """Undirected edges of the mesh, see ``unique_edges``; not to be changed."""
        return _edges(self, self.faces.device)

    @property
    def template(self) -> Float[Tensor, " x"]:
        """Mean head, (x, y, z) of each carrying vertex in turn, metres; a copy."""
        return self._planar_template.unflatten(0, (3, -1)).T.flatten()

    @property
    def basis(self) -> Float[Tensor, "k x"]:
        """Shape, then expression components in the layout of ``template``, metres; a copy."""
        return self._interleaved(self._planar_basis[: self.num_shape + self.num_expression])

    @property
    def pose_basis(self) -> Float[Tensor, "p x"] | None:
        """Pose correctives in the layout of ``template``, metres; a copy, ``None`` where there are none."""
        if not self.has_pose_basis:
            return None
        return self._interleaved(self._planar_basis[self.num_shape + self.num_expression :])

    @staticmethod
    def _interleaved(planes: Float[Tensor, "n x"]) -> Float[Tensor, "n x"]:
        return planes.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)

    @full_precision
    def forward(self, params: HeadParams, in_world: bool = False) -> Float[Tensor, "b v 3"]:
        """Posed vertices, metres.

        Args:
            params: of each head.
            in_world: rotate globally too, which costs nothing here; otherwise the vertices are in head space
                and the global rotation is left to ``to_world``, as where offsets are to be added first.

        Source: FLAME eq. 1-4; ROME sec. 3.1 rotates globally in the camera step.
        """
        coefficients = torch.cat([params.shape, params.expression], dim=-1)
        joints = torch.addmm(self.joint_template, coefficients, self.joint_basis).unflatten(-1, (5, 3))
        rotations = self._local_rotations(params)
        if self.has_pose_basis:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            coefficients = torch.cat([coefficients, (rotations - identity).flatten(1)], dim=-1)
        rest = torch.addmm(self._planar_template, coefficients, self._planar_basis).unflatten(-1, (3, -1))
        if self.midpoints is not None:
            # Midpoints are skinned on their own, with the mean of the weights: what tools that open an
            # exported mesh do, and cannot be made to do otherwise.
            first, second = self.midpoints.unbind(-1)
            rest = torch.cat([rest, (rest.index_select(2, first) + rest.index_select(2, second)) / 2], dim=2)
        transforms = self._joint_transforms(joints, rotations, params.torso_shift)
        if in_world:
            turn, root = axis_angle_to_matrix(params.global_pose)[:, None], joints[:, :1, :, None]
            shift = turn @ (transforms[..., 3:] - root) + root
            transforms = torch.cat([turn @ transforms[..., :3], shift], dim=-1)
        return self._skin(rest, transforms)

    def to_vertices(self, carried: Float[Tensor, "c ..."]) -> Float[Tensor, "v ..."]:
        """Values of carrying vertices extended to midpoints, as their means."""
        if self.midpoints is None:
            return carried
        return torch.cat([carried, carried[self.midpoints].mean(1)])

    @full_precision
    def turn(
        self,
        vectors: Float[Tensor, "b v 3"],
        params: HeadParams,
        matrices: Float[Tensor, "b v 3 3"] | None = None,
    ) -> Float[Tensor, "b v 3"]:
        """Rotate vectors attached to the vertices at rest with the posed skin.

        Directions only: what linear blend skinning does to the difference of two points with the weights
        of one vertex. The global rotation is left to ``to_world``.

        Args:
            vectors: one per vertex, any length, head space at rest.
            params: only the poses of neck, jaw and eyes are used.
            matrices: ``turning(params)``, if the caller has it.
        """
        matrices = self.turning(params) if matrices is None else matrices
        return (matrices @ vectors[..., None]).squeeze(-1)

    @full_precision
    def turning(self, params: HeadParams) -> Float[Tensor, "b v 3 3"]:
        """The matrices by which ``turn`` multiplies the vector of each vertex."""
        rotations = self._local_rotations(params)
        neck = rotations[:, :1]
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device).expand_as(neck)
        linear = torch.cat([identity, neck, neck @ rotations[:, 1:]], dim=1)
        blended = linear.flatten(2).transpose(1, 2) @ self._planar_weights
        return blended.transpose(1, 2).unflatten(2, (3, 3))

    @staticmethod
    def _local_rotations(params: HeadParams) -> Float[Tensor, "b 4 3 3"]:
        """Matrices of neck, jaw and both eyes."""
        local = torch.stack([params.neck_pose, params.jaw_pose, *params.eye_pose.split(3, dim=-1)], dim=1)
        return axis_angle_to_matrix(local)

    @staticmethod
    def _joint_transforms(
        joints: Float[Tensor, "b 5 3"], rotations: Float[Tensor, "b 4 3 3"], torso_shift: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b 5 3 4"]:
        """Rotation and translation of each joint; jaw and eyes hang on the neck, which the shift leaves."""
        neck = rotations[:, :1]
        children = neck @ rotations[:, 1:]
        neck_joint = joints[:, 1:2]
        neck_shift = neck_joint - (neck @ neck_joint[..., None]).squeeze(-1)
        # A child turns about its own joint, which the neck has carried along.
        carried = (neck @ joints[:, 2:, :, None]).squeeze(-1) + neck_shift
        child_shift = carried - (children @ joints[:, 2:, :, None]).squeeze(-1)
        identity = torch.eye(3, dtype=joints.dtype, device=joints.device).expand_as(neck)
        linear = torch.cat([identity, neck, children], dim=1)
        shift = torch.cat([torso_shift[:, None], neck_shift, child_shift], dim=1)
        return torch.cat([linear, shift[..., None]], dim=-1)

    def _skin(
        self, rest: Float[Tensor, "b 3 v"], transforms: Float[Tensor, "b 5 3 4"]
    ) -> Float[Tensor, "b v 3"]:
        """Linear blend skinning: each vertex moves by the weighted mean of the joints' transforms."""
        blended = transforms.flatten(2).transpose(1, 2) @ self._planar_weights
        columns = blended.unflatten(1, (3, 4)).unbind(2)
        x, y, z = rest[:, None].unbind(2)
        posed = columns[3].addcmul(columns[0], x).addcmul(columns[1], y).addcmul(columns[2], z)
        return posed.transpose(1, 2).contiguous()

    def root(self, params: HeadParams) -> Float[Tensor, "b 3"]:
        """Rest position of the root joint, the centre of the global rotation, metres."""
        coefficients = torch.cat([params.shape, params.expression], dim=-1)
        return self.joint_template[:3] + coefficients @ self.joint_basis[:, :3]

    @full_precision
    def to_world(self, points: Float[Tensor, "b n 3"], params: HeadParams) -> Float[Tensor, "b n 3"]:
        """Apply the global rotation to points of head space."""
        return rotate_about(points, params.global_pose, self.root(params))

    def region(self, *names: str) -> Bool[Tensor, " v"]:
        """Vertices that belong to one of the named regions (see ``REGIONS``)."""
        unknown = set(names) - set(REGIONS)
        if unknown:
            raise ValueError(f"unknown head region {sorted(unknown)}; known: {', '.join(REGIONS)}")
        mask = torch.zeros(self.num_vertices, dtype=torch.bool, device=self.faces.device)
        for name in names:
            mask = mask | getattr(self, f"region_{name}")
        return mask

    def landmark_indices(self, name: str) -> Int[Tensor, " l"] | None:
        """The points of the full set that an embedding contains; ``None`` for all."""
        indices: Tensor | None = getattr(self, f"landmark_indices_{self._known_landmarks(name)}")
        return indices

    def landmarks(self, vertices: Float[Tensor, "b v 3"], name: str = "mediapipe") -> Float[Tensor, "b l 3"]:
        """Landmark positions on given vertices, in the space of the vertices.

        Args:
            vertices: any space.
            name: one of ``landmark_names``, see ``HeadData.landmarks``.
        """
        self._known_landmarks(name)
        corners: Tensor = getattr(self, f"landmark_corners_{name}")
        weights: Tensor = getattr(self, f"landmark_weights_{name}")
        return (vertices[:, corners] * weights[:, :, None]).sum(2)

    def _known_landmarks(self, name: str) -> str:
        if name not in self.landmark_names:
            raise ValueError(
                f"{self.name} has no landmarks {name!r}, it has "
                f"{', '.join(self.landmark_names) or 'none'}; the open head has 'mediapipe' and 'ibug68', "
                "FLAME those with official files beside it"
            )
        return name


@lru_cache(maxsize=4)
def _edges(head: HeadModel, device: torch.device) -> Int[Tensor, "e 2"]:
    """Cached: sorting takes a tenth of a second, and losses and fits of one head all need them."""
    return unique_edges(head.faces)
