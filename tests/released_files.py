"""Files with the names, shapes and counts of FLAME, DECA and the ROME release, but none of their values.

The mesh is an egg with a neck, a slit for the mouth and two spheres for eyes, refined to FLAME's 5,023
vertices, 9,976 triangles and rims of 30 and 32 edges. Where the release follows no rule, our files
choose at random: the texture coordinate of a seam vertex, the triangles of the mouth, the movable vertices.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flame_files import _sphere
from numpy.typing import NDArray
from torchvision import models

from rome_lightning.head.topology import boundary_loops, face_components
from rome_lightning.networks import OffsetMLP, TextureEncoder, UNet
from rome_lightning.types import HeadParams

NUM_VERTICES, NUM_FACES, NUM_CLOSING = 5023, 9976, 30
NUM_SHAPE, NUM_EXPRESSION = 100, 50
_EYES = ((0.032, 0.03, 0.062), (-0.032, 0.03, 0.062))
_SEGMENTS, _RINGS, _HOLE = 30, 24, 10

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def _egg() -> tuple[Floats, Ints]:
    """A head and neck of 30 segments, open at the bottom and between the lips (32 edges)."""
    rows = []
    for t in np.linspace(0, 1, _RINGS):
        y = -0.2 + 0.32 * t
        radius = 0.05 if y < -0.1 else 0.05 + 0.035 * np.sin(np.pi * (y + 0.1) / 0.25) ** 0.7
        radius *= np.sqrt(max(1 - max(t - 0.7, 0) ** 2 / 0.105, 0.02))
        # Irregular, so that no triangles of front and back cover the same pixels.
        angles = np.arange(_SEGMENTS) * 2 * np.pi / _SEGMENTS + 0.05 * np.sin(7 * t)
        rows.append(
            np.stack([radius * np.sin(angles), np.full(_SEGMENTS, y), 1.2 * radius * np.cos(angles)], 1)
        )
    vertices = np.concatenate([*rows, [[0, 0.125, 0]]])
    faces = []
    for r in range(_RINGS - 1):
        for i in range(_SEGMENTS):
            j = (i + 1) % _SEGMENTS
            if r in (_HOLE, _HOLE + 1) and (i + 7) % _SEGMENTS < 14:
                continue
            a, b = r * _SEGMENTS, (r + 1) * _SEGMENTS
            faces += [[a + i, a + j, b + j], [a + i, b + j, b + i]]
    top = (_RINGS - 1) * _SEGMENTS
    faces += [[top + i, top + (i + 1) % _SEGMENTS, len(vertices) - 1] for i in range(_SEGMENTS)]
    used, indices = np.unique(np.array(faces), return_inverse=True)
    vertices = vertices[used]
    # The lips nearly touch, as in FLAME.
    middle = (vertices[:, 1] < -0.03) & (vertices[:, 1] > -0.062) & (vertices[:, 2] > 0.02)
    vertices[middle, 1] = -0.046 + 0.15 * (vertices[middle, 1] + 0.046)
    return vertices, indices.reshape(-1, 3)


def _refined(vertices: Floats, faces: Ints, count: int) -> tuple[Floats, Ints]:
    """Split the longest inner edge until the mesh has ``count`` vertices; rims are unchanged."""
    points = [*vertices]
    triangles = [tuple(map(int, face)) for face in faces]
    while len(points) < count:
        length = {}
        owners: dict[tuple[int, int], list[int]] = {}
        for index, face in enumerate(triangles):
            for k in range(3):
                a, b = face[k], face[(k + 1) % 3]
                owners.setdefault((min(a, b), max(a, b)), []).append(index)
        for edge, faces_of in owners.items():
            if len(faces_of) == 2:
                length[edge] = float(np.sum((points[edge[0]] - points[edge[1]]) ** 2))
        busy: set[int] = set()
        for edge in sorted(length, key=lambda e: (-length[e], e)):
            pair = owners[edge]
            if busy & set(pair):
                continue
            busy |= set(pair)
            new = len(points)
            points.append((points[edge[0]] + points[edge[1]]) / 2)
            for index in pair:
                a, b, c = triangles[index]
                while (min(a, b), max(a, b)) != edge:
                    a, b, c = b, c, a
                triangles[index] = (a, new, c)
                triangles.append((new, b, c))
            if len(points) == count:
                break
    return np.array(points), np.array(triangles)


def make_mesh() -> tuple[Floats, Ints]:
    """The head with FLAME's counts, metres."""
    head, head_faces = _egg()
    eyes = [_sphere(centre, 0.012, rings=19, segments=30) for centre in _EYES]
    head, head_faces = _refined(head, head_faces, NUM_VERTICES - sum(len(points) for points, _ in eyes))
    vertices, faces = [head], [head_faces]
    for points, triangles in eyes:
        faces.append(triangles + sum(map(len, vertices)))
        vertices.append(points)
    return np.concatenate(vertices), np.concatenate(faces)


def _layout(vertices: Floats, faces: Ints) -> tuple[Floats, Ints]:
    """Each piece unrolled around its vertical axis and cut at the back; each eye has its own box."""
    labels = face_components(faces)
    uvs, uv_faces = [], np.zeros_like(faces)
    for piece in np.unique(labels):
        owned = labels == piece
        used, corners = np.unique(faces[owned], return_inverse=True)
        points = vertices[used]
        offset = points - (points.min(0) + points.max(0)) / 2
        around = np.arctan2(offset[:, 0], offset[:, 2]) / (2 * np.pi) + 0.5
        height = (points[:, 1] - points[:, 1].min()) / np.ptp(points[:, 1])
        corners = corners.reshape(-1, 3)
        crosses = np.ptp(around[corners], axis=1) > 0.5
        beyond = crosses[:, None] & (around[corners] < 0.5)
        doubles, places = np.unique(corners[beyond], return_inverse=True)
        corners[beyond] = len(used) + places
        around, height = np.append(around, around[doubles] + 1), np.append(height, height[doubles])
        uv_faces[owned] = corners + sum(map(len, uvs))
        left, width, bottom, tall = (0.02, 0.9, 0.2, 0.78) if piece == np.bincount(labels).argmax() else (
            (0.02, 0.3, 0.02, 0.15) if points[:, 0].mean() > 0 else (0.5, 0.3, 0.02, 0.15)
        )  # fmt: skip
        uvs.append(np.stack([left + width * around, bottom + tall * height], 1))
    return np.concatenate(uvs), uv_faces


def _lips(vertices: Floats, faces: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The 32 vertices of the mouth's rim, and which are on the lower lip."""
    slit = next(loop for loop in boundary_loops(faces) if len(loop) == NUM_CLOSING + 2)
    ring = np.roll(slit, -int(vertices[slit, 0].argmin()))
    corner = int(vertices[ring, 0].argmax())
    chains = ring[1:corner], ring[corner + 1 :]
    # Closed lips coincide: the surrounding skin tells which is which.
    heights = [vertices[faces[np.isin(faces, chain).any(1)]].mean((0, 1))[1] for chain in chains]
    lower = np.zeros(len(ring), dtype=bool)
    lower[slice(1, corner) if heights[0] < heights[1] else slice(corner + 1, None)] = True
    return ring, lower


def make_model(vertices: Floats, faces: Ints, seed: int = 0) -> dict[str, object]:
    """The content of FLAME's pickle for any head mesh in metres: smooth bases, a skeleton, weights."""
    rng = np.random.default_rng(seed)
    low, high = vertices.min(0), vertices.max(0)
    size = high - low
    labels = face_components(faces)
    pieces = np.zeros(len(vertices), dtype=np.int64)
    pieces[faces.reshape(-1)] = np.repeat(labels, 3)
    largest = np.bincount(labels).argmax()
    balls = [vertices[pieces == piece].mean(0) for piece in np.unique(pieces) if piece != largest]
    left, right = sorted(balls, key=lambda centre: -centre[0])
    middle = (left + right) / 2
    joints = np.array([
        middle - [0, 0.55 * size[1], 0.09], middle - [0, 0.37 * size[1], 0.08],
        middle - [0, 0.16 * size[1], 0.05], left, right,
    ])  # fmt: skip
    _, y, z = vertices.T
    neck = np.clip((y - joints[0, 1]) / (joints[1, 1] - joints[0, 1]), 0, 1)
    slit, lower = _lips(vertices, faces)
    jaw = np.clip((vertices[slit, 1].mean() - y) / 0.002, 0, 1) * np.clip((y - joints[1, 1]) / 0.02 + 1, 0, 1)
    jaw *= z > joints[2, 2]
    jaw[slit] = lower
    weights = np.stack([1 - neck, neck * (1 - jaw), neck * jaw, 0 * neck, 0 * neck], 1)
    for k, centre in enumerate((left, right)):
        eye = (pieces != largest) & (np.linalg.norm(vertices - centre, axis=1) < 0.03)
        weights[eye] = np.eye(5)[3 + k]
    distances = np.linalg.norm(vertices[None] - joints[:, None], axis=-1)
    regressor = (distances <= np.sort(distances, axis=1)[:, 49:50]).astype(float)

    def waves(count: int, amplitude: float) -> Floats:
        frequency, phase = rng.normal(0, 18, (count, 3)), rng.uniform(0, 2 * np.pi, (count, 1))
        wave = np.sin(frequency @ vertices.T + phase)
        moves = np.einsum("kv,kx->vxk", wave, rng.standard_normal((count, 3)))
        return (amplitude * moves).astype(np.float32)

    return {
        "f": faces.astype(np.uint32),
        "v_template": vertices,
        "shapedirs": waves(400, 3e-4),
        "posedirs": waves(36, 1e-3),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], dtype=np.int64),
    }


@dataclass(frozen=True)
class ReleasedFiles:
    """The files of ``write_released_files``."""

    model: Path
    """``generic_model.pkl``, with ``head_template.obj`` and ``landmark_embedding.npy`` beside it."""
    data: Path
    """The release's ``data`` folder."""


def write_released_files(folder: Path, seed: int = 0) -> ReleasedFiles:
    """Generate all files that a user of the release has, except the weights.

    Args:
        folder: receives ``DECA/data`` and ``data``, as in a checkout of the release.
        seed: of all random numbers.
    """
    rng = np.random.default_rng(seed)
    vertices, faces = make_mesh()
    deca, data = folder / "DECA" / "data", folder / "data"
    deca.mkdir(parents=True)
    data.mkdir()
    model = make_model(vertices, faces, seed)
    (deca / "generic_model.pkl").write_bytes(pickle.dumps(model, protocol=2))
    uvs, uv_faces = _layout(vertices, faces)
    write_obj(deca / "head_template.obj", vertices, uvs, faces, uv_faces)
    _write_landmarks(deca / "landmark_embedding.npy", rng)

    slit = boundary_loops(faces)[0]
    assert len(slit) == NUM_CLOSING + 2
    # A fan, where the project itself makes a strip.
    ring = slit[::-1]
    closing = np.array([[ring[0], ring[i], ring[i + 1]] for i in range(1, len(ring) - 1)])
    corner_of = np.zeros(len(vertices), dtype=np.int64)
    order = rng.permutation(3 * len(faces))
    corner_of[faces.reshape(-1)[order]] = uv_faces.reshape(-1)[order]
    all_faces, all_corners = np.concatenate([faces, closing]), np.concatenate([uv_faces, corner_of[closing]])
    torch.save(torch.from_numpy(all_faces)[None], data / "faces_v2.pth")
    torch.save(torch.from_numpy(all_corners)[None], data / "uvfaces_v2.pth")
    vertex_uvs = 2 * uvs[corner_of] - 1
    # In the release, seam vertices have none of their corners' coordinates.
    seam = rng.choice(len(vertices), 40, replace=False)
    vertex_uvs[seam] += rng.uniform(-0.05, 0.05, (40, 2))
    flipped = torch.from_numpy(vertex_uvs * [1, -1]).float()
    torch.save(flipped[None], data / "vertex_uvcoords.pth")
    write_moving(data, vertices, rng)
    return ReleasedFiles(deca / "generic_model.pkl", data)


def write_moving(data: Path, vertices: Floats, rng: np.random.Generator) -> None:
    """Lists of movable vertices, and the basis of the linear model."""
    y, index = vertices[:, 1], np.arange(len(vertices))
    # The release's code fixes some vertices by FLAME index, all in this range, regardless of its lists.
    free = (index < 3300) | (index > 3800)
    back = np.flatnonzero((y > 0.02) & (vertices[:, 2] < 0.02) & free)
    below = np.flatnonzero((y < -0.09) & free)
    hair, neck = rng.permutation(back)[:346], rng.permutation(below)[:299]
    for name, indices in (("hair", hair), ("neck", neck)):
        (data / f"{name}_list.pkl").write_bytes(pickle.dumps(indices.tolist(), protocol=4))
    basis = np.zeros((len(vertices), 3, 60))
    basis[hair, :, :50] = rng.standard_normal((len(hair), 3, 50))
    basis[neck, :, 50:] = rng.standard_normal((len(neck), 3, 10))
    columns, _ = np.linalg.qr(basis.reshape(-1, 60))
    columns[np.abs(basis.reshape(-1, 60)).sum(1) == 0] = 0
    torch.save(torch.from_numpy(columns).float(), data / "u_full.pt")
    mean = np.zeros((len(vertices), 3))
    mean[np.concatenate([hair, neck])] = 5e-4 * rng.standard_normal((346 + 299, 3))
    torch.save(torch.from_numpy(mean).float(), data / "mean_deform.pt")


def write_obj(path: Path, vertices: Floats, uvs: Floats, faces: Ints, corners: Ints) -> None:
    """Positions, texture coordinates with v up, and triangles."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uvs]
    for face, corner in zip(faces + 1, corners + 1, strict=True):
        lines.append("f " + " ".join(f"{a}/{b}" for a, b in zip(face, corner, strict=True)))
    path.write_text("\n".join(lines) + "\n")


def _write_landmarks(path: Path, rng: np.random.Generator) -> None:
    """Landmarks at random triangles; the image does not depend on them."""

    def embedding(*shape: int) -> tuple[Ints, Floats]:
        return rng.integers(0, NUM_FACES, shape), rng.dirichlet(np.ones(3), shape)

    (static, static_weights), (contour, contour_weights) = embedding(51), embedding(79, 17)
    full, full_weights = embedding(1, 68)
    content = {
        "static_lmk_faces_idx": static, "static_lmk_bary_coords": static_weights,
        "dynamic_lmk_faces_idx": torch.from_numpy(contour),
        "dynamic_lmk_bary_coords": torch.from_numpy(contour_weights),
        "full_lmk_faces_idx": full, "full_lmk_bary_coords": full_weights,
    }  # fmt: skip
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


@dataclass(frozen=True)
class Widths:
    """Widths of the networks: the release's options ``autoenc_num_channels`` and ``unet_num_channels``."""

    texture: int = 64
    unet: int = 64
    mlp: int = 256
    """Not configurable in the release."""


def released_weights(widths: Widths, seed: int = 0) -> dict[str, torch.Tensor]:
    """A ``rome.pth`` with random weights from NumPy, whose generator is stable across versions."""
    with torch.device("meta"):
        networks = {
            "autoencoder": TextureEncoder(base_width=4 * widths.texture),
            "mesh_deformer": UNet(47, 32, base_width=2 * widths.unet),
            "mlp_deformer": OffsetMLP(width=widths.mlp),
            "unet": UNet(47, 4, base_width=2 * widths.unet),
        }
    rng = np.random.default_rng(seed)
    state = {
        f"{name}.{key}": random_weight(key, value.shape, rng)
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    # Offsets of centimetres, and logits near 0.
    for last in ("mlp_deformer.block_2.8.weight", "unet.to_outputs.weight"):
        state[last] *= 0.05
    return state


def random_weight(key: str, shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """A random weight that keeps activations near 1."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = rng.standard_normal(tuple(shape), dtype=np.float32)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:], dtype=np.float32))
    elif key.endswith(("bias", "running_mean")):
        values *= 0.1
    else:
        values = 1 + 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def write_released_linear(data: Path, seed: int = 0) -> None:
    """``linear_hair.pth`` and ``disp_model.pth`` with random weights and outputs of plausible size."""
    with torch.device("meta"):
        networks = {
            "linear_hair": ("fc", models.resnet50(num_classes=60)),
            "disp_model": ("classifier.1", models.mobilenet_v2(num_classes=59)),
        }
    for name, (last, network) in networks.items():
        rng = np.random.default_rng(seed)
        state = {key: random_weight(key, value.shape, rng) for key, value in network.state_dict().items()}
        # Coefficients of centimetres: a crumpled mesh would have triangles whose depths tie.
        state[f"{last}.weight"] *= 0.02 if name == "linear_hair" else 0.1
        state[f"{last}.bias"] *= 0.1
        if name == "disp_model":
            state[f"{last}.bias"][-3:] = torch.tensor([5.37, 0.013, 0.033])
        torch.save(state, data / f"{name}.pth")


@dataclass(frozen=True)
class ReleasedInputs:
    """One source and two drivers with a different shape."""

    source_image: torch.Tensor
    source_mask: torch.Tensor
    driver_images: torch.Tensor
    source: HeadParams
    """The same parameters twice, once per driver, as the official code expects."""
    drivers: HeadParams


def released_inputs(size: int = 256, seed: int = 0) -> ReleasedInputs:
    """Smooth random images, and heads that fill most of them."""
    rng = np.random.default_rng(seed)

    # Interpolated by NumPy: torch rounds differently on each processor, which the networks amplify.
    places = np.clip((np.arange(size) + 0.5) * 12 / size - 0.5, 0, 11)
    first = np.minimum(places.astype(int), 10)
    share = places - first

    def picture(count: int, channels: int) -> torch.Tensor:
        coarse = rng.random((count, channels, 12, 12), dtype=np.float32).astype(np.float64)
        tall = coarse[:, :, first] * (1 - share[:, None]) + coarse[:, :, first + 1] * share[:, None]
        wide = tall[..., first] * (1 - share) + tall[..., first + 1] * share
        return torch.from_numpy(wide.astype(np.float32))

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.from_numpy(scale * rng.standard_normal(shape, dtype=np.float32))

    def heads(shape: torch.Tensor) -> HeadParams:
        return HeadParams(
            shape=shape,
            expression=normal(2, NUM_EXPRESSION, scale=0.5),
            global_pose=normal(2, 3, scale=0.25),
            neck_pose=torch.zeros(2, 3),
            jaw_pose=torch.tensor([[0.1, 0.0, 0.0], [0.2, 0.02, 0.0]]),
            eye_pose=torch.zeros(2, 6),
            camera=torch.tensor([[5.5, 0.01, 0.03], [5.1, -0.023, 0.041]]),
        )

    images, drivers = picture(1, 3), picture(2, 3)
    mask = picture(1, 1)
    return ReleasedInputs(
        images, mask, drivers,
        heads(normal(1, NUM_SHAPE, scale=0.7).expand(2, -1)), heads(normal(2, NUM_SHAPE, scale=0.7)),
    )  # fmt: skip
