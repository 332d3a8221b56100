"""Parameters of DECA and VHAP, and their projections of a head, written out point by point."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.types import HeadParams

SIZE = 128
"""Side of the tracked crops, pixels."""


CROP = Crop(left=40, top=-20, side=420, frame_size=(480, 640))


def write_codes(path: Path, content: dict[str, np.ndarray]) -> None:
    """Save arrays in the format of the file's suffix, as trackers do, compressed if possible."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **content)
    elif path.suffix == ".npy":
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in content.items()}, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        savemat(path, content, do_compression=True)


def clip_of(head: HeadModel, pixels: np.ndarray, crop: Crop = CROP) -> TrackedClip:
    """A tracked clip with landmarks on given vertices, pixels of the whole image."""
    vertices = torch.from_numpy(pixels).float()
    landmarks = crop.to_crop(head.landmarks(vertices), SIZE)
    count = len(vertices)
    return TrackedClip(
        images=torch.zeros(count, SIZE, SIZE, 3, dtype=torch.uint8),
        params=HeadParams.neutral(count, head.num_shape, head.num_expression),
        landmarks=landmarks[..., :2],
        regions=torch.zeros(count, SIZE, SIZE, dtype=torch.uint8),
        matte=torch.ones(count, SIZE, SIZE),
        residual=torch.zeros(count),
        covered=torch.zeros(count),
        problems=torch.zeros(count, dtype=torch.int16),
        crop=crop,
    )


def posed(head: HeadModel, codes: dict[str, np.ndarray], neck: Any = None, eyes: Any = None) -> np.ndarray:
    """FLAME's vertices with its global rotation; other tests compare the head model with the official one."""
    count = len(codes["exp"])
    zeros = np.zeros((count, 6), np.float32)
    shape = np.zeros((count, head.num_shape), np.float32)
    shape[:, : codes["shape"].shape[1]] = codes["shape"][:, : head.num_shape]
    params = HeadParams(
        *(
            torch.from_numpy(np.asarray(array, np.float32))
            for array in (
                shape, codes["exp"], codes["pose"][:, :3], zeros[:, :3] if neck is None else neck,
                codes["pose"][:, 3:], zeros if eyes is None else eyes, zeros[:, :3],
            )
        )
    )  # fmt: skip
    return head.to_world(head(params), params).double().numpy()


def deca_pixels(points: np.ndarray, cam: np.ndarray, tform: np.ndarray | None) -> np.ndarray:
    """DECA's projection of the points of a frame: in its crop of 224 pixels, then in the image."""
    result = []
    for x, y, _ in points:
        column, row = cam[0] * (x + cam[1]), -cam[0] * (y + cam[2])
        pixel = np.array([column * 112 + 112, row * 112 + 112, 1.0])
        result.append((np.linalg.inv(tform) @ pixel)[:2] if tform is not None else pixel[:2])
    return np.array(result)


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y], [0, 0, 1.0]])


def in_picture(head: HeadModel, clip: TrackedClip) -> np.ndarray:
    """Our projection of the vertices, pixels of the whole image."""
    params = clip.params
    pixels = project(head.to_world(head(params), params), params.camera, (SIZE, SIZE))
    return clip.crop.to_frame(pixels[..., :2], SIZE).numpy()


def vhap_file(path: Path, codes: dict[str, np.ndarray], focal: float, distance: float) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    content: dict[str, Any] = {
        "shape": np.concatenate([codes["shape"][0], np.zeros(200, np.float32)]),
        "expr": np.concatenate([codes["exp"], np.zeros((3, 50), np.float32)], axis=1),
        "rotation": codes["pose"][:, :3],
        "translation": np.array([[0.05, 0.06, 1], [0.0, 0.02, 1], [-0.06, 0, 1]]) - [0, 0, distance],
        "neck_pose": rng.normal(0, 0.1, (3, 3)).astype(np.float32),
        "jaw_pose": codes["pose"][:, 3:],
        "eyes_pose": rng.normal(0, 0.1, (3, 6)).astype(np.float32),
        "timestep_id": np.array(["000", "001", "002"]),
        "n_processed_frames": 3,
        "focal_length": np.array([focal]),
        "image_size": np.array([480, 640]),
    }
    np.savez(path, **content)
    return content


def vhap_pixels(points: np.ndarray, translation: np.ndarray, focal: float) -> np.ndarray:
    """VHAP's projection of the points of a frame: camera at (0, 0, 1), looking along -z."""
    result = []
    for point in points:
        x, y, z = point + translation - [0, 0, 1]
        result.append([focal * 640 * x / -z + 320 - 0.5, 240 - focal * 640 * y / -z - 0.5])
    return np.array(result)


def vhap_export(folder: Path, codes: dict[str, np.ndarray]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``transforms.json`` and a file per frame, with the content of ``vhap_file`` and the JSON's frames."""
    content = vhap_file(folder / "all.npz", codes, 1.6, 1.0)
    turn = Rotation.from_euler("y", 0.5).as_matrix()
    frames = []
    (folder / "flame_param").mkdir()
    for k in range(3):
        own = {
            name: content[name][[k]]
            for name in ("translation", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "expr")
        }
        np.savez(folder / "flame_param" / f"{k:05d}.npz", shape=content["shape"], **own)
        world_from_cam = np.eye(4)
        world_from_cam[:3, :3], world_from_cam[:3, 3] = turn, turn @ [0.0, 0.0, 1.0]
        frames.append({
            "transform_matrix": world_from_cam.tolist(), "w": 640, "h": 480, "fl_x": 1000.0, "fl_y": 990.0,
            "cx": 330.0, "cy": 250.0, "file_path": f"images/{k:05d}_00.png",
            "flame_param_path": f"flame_param/{k:05d}.npz",
        })  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return content, frames
