"""The head model with normals, compared with smplx's FLAME layer and with the unavoidable matrix products.

    python benchmarks/head.py [--batch 32] [--threads 1]

Both have FLAME's sizes, 100 identity and 50 expression components, and random numbers in place of its
licensed data; both pose the mesh with its global rotation. smplx has no normals: its vertices get them in the
usual way, by adding the cross product of every face to its corners.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from figures import Figure, arguments, figure, finish, installed
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadData, HeadModel
from rome_lightning.head.data import REGIONS
from rome_lightning.types import HeadParams

NUM_VERTICES, NUM_FACES, NUM_SHAPE, NUM_EXPRESSION = 5023, 9976, 100, 50


def random_head() -> HeadModel:
    """Random numbers with FLAME's shapes."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    data = HeadData(
        name="random",
        template=randn(NUM_VERTICES, 3),
        shape_basis=randn(NUM_VERTICES, 3, NUM_SHAPE),
        expression_basis=randn(NUM_VERTICES, 3, NUM_EXPRESSION),
        expression_names=tuple(map(str, range(NUM_EXPRESSION))),
        joints=randn(5, 3),
        joint_basis=randn(5, 3, NUM_SHAPE + NUM_EXPRESSION),
        skinning_weights=torch.softmax(randn(NUM_VERTICES, 5), dim=-1),
        faces=torch.randint(NUM_VERTICES, (NUM_FACES, 3), generator=rng),
        uvs=torch.rand(NUM_VERTICES, 2, generator=rng),
        uv_faces=torch.randint(NUM_VERTICES, (NUM_FACES, 3), generator=rng),
        regions={name: torch.zeros(NUM_VERTICES, dtype=torch.bool) for name in REGIONS},
        pose_basis=randn(36, 3 * NUM_VERTICES),
    )
    return HeadModel(data)


def smplx_layer(head: HeadModel, batch: int) -> torch.nn.Module:
    """The FLAME layer of smplx at the same sizes, read from a file of random numbers."""
    import smplx

    rng = np.random.default_rng(0)
    model = {
        "v_template": rng.normal(size=(NUM_VERTICES, 3)),
        "shapedirs": rng.normal(size=(NUM_VERTICES, 3, 400)),
        "posedirs": rng.normal(size=(NUM_VERTICES, 3, 36)),
        "J_regressor": rng.random(size=(5, NUM_VERTICES)) / NUM_VERTICES,
        "weights": rng.dirichlet(np.ones(5), NUM_VERTICES),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": head.faces.cpu().numpy().astype(np.uint32),
    }
    landmarks = {"lmk_face_idx": np.arange(51), "lmk_b_coords": np.full((51, 3), 1 / 3)}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("FLAME_NEUTRAL", model), ("flame_static_embedding", landmarks)):
            Path(folder, f"{name}.pkl").write_bytes(pickle.dumps(content))
        return smplx.FLAME(
            folder,
            num_betas=NUM_SHAPE,
            num_expression_coeffs=NUM_EXPRESSION,
            batch_size=batch,
            use_face_contour=False,
        )


def added_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted normals with one addition per corner."""
    a, b, c = vertices[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    sums = torch.zeros_like(vertices)
    for corner in range(3):
        sums.index_add_(1, faces[:, corner], cross)
    return F.normalize(sums, dim=-1)


@torch.no_grad()
def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = random_head().to(options.device)
    rng = torch.Generator().manual_seed(0)

    def random(size: int) -> Tensor:
        return 0.1 * torch.randn(options.batch, size, generator=rng).to(options.device)

    shape, expression, pose = random(NUM_SHAPE), random(NUM_EXPRESSION), random(15)
    params = HeadParams.from_packed(shape, expression, pose, torch.ones_like(pose[:, :3]))
    faces = head.faces.int()
    basis = torch.cat([head.basis, head.pose_basis])  # type: ignore[list-item]
    coefficients, transforms = random(len(basis)), random(60).view(-1, 12, 5)
    weights = head.skinning_weights.T.contiguous()

    def ours() -> Tensor:
        return vertex_normals(head(params, in_world=True), faces)

    def products() -> None:
        torch.addmm(head.template, coefficients, basis)
        torch.matmul(transforms, weights)

    missing = installed("smplx", "not installed: pip install smplx", options)
    functions = {"ours": ours, "bound: matrix products": products}
    if missing is None:
        layer = smplx_layer(head, options.batch).to(options.device)
        parts = dict(zip(("global_orient", "neck_pose", "jaw_pose"), pose[:, :9].split(3, 1), strict=True))
        parts |= {"leye_pose": pose[:, 9:12], "reye_pose": pose[:, 12:]}

        def smplx() -> Tensor:
            vertices = layer(betas=shape, expression=expression, **parts).vertices
            return added_normals(vertices, layer.faces_tensor)

        functions["smplx"] = smplx
    where = "GPU" if options.device == "cuda" else f"{options.threads} thread(s)"
    figures: list[Figure] = [
        figure(
            "head model and normals",
            f"batch {options.batch}, FLAME's sizes, {where}",
            functions,
            {"smplx": 3},
            {} if missing is None else {"smplx": missing},
            device=options.device,
        )
    ]
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())
