"""FLAME parameters in the layouts of DECA, EMOCA, SMIRK and VHAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.tracking.foreign.cameras import CropCamera, PinholeCamera
from rome_lightning.tracking.foreign.files import Arrays, read_arrays, read_json, read_names
from rome_lightning.types.struct import TensorStruct

_CROP = ("cam", "tform")
_NAMES: dict[str, tuple[str, ...]] = {
    "deca": ("shape", "exp", "pose", "cam"),
    "emoca": ("shapecode", "expcode", "posecode"),
    "smirk": ("shape_params", "expression_params", "pose_params", "jaw_params", "cam"),
    "vhap": ("shape", "expr", "rotation", "translation", "neck_pose", "jaw_pose", "eyes_pose"),
}
"""Arrays that each layout must have."""
KINDS = tuple(_NAMES)
_OTHERS = (
    *_CROP, "neck_pose_params", "eye_pose_params", "eyelid_params",
    "focal_length", "image_size", "static_offset",
)  # fmt: skip
_ALL = {*_OTHERS, *(name for names in _NAMES.values() for name in names)}
_SEEN_EYELID = 0.05
"""Eyelid weights of SMIRK above this are reported."""


@dataclass(frozen=True)
class FlameTrack(TensorStruct):
    """Parameters of another tracker, one row per picture; rotations are axis-angle, radians."""

    shape: Float[Tensor, "n s"]
    expression: Float[Tensor, "n e"]
    global_pose: Float[Tensor, "n 3"]
    neck_pose: Float[Tensor, "n 3"]
    jaw_pose: Float[Tensor, "n 3"]
    eye_pose: Float[Tensor, "n 6"]
    camera: CropCamera | PinholeCamera | None
    """None where the file has none, as with EMOCA."""
    kind: str
    """One of ``KINDS``."""
    names: tuple[str, ...] = ()
    """Names of the pictures if the file states them; VHAP's time steps."""
    left_out: tuple[str, ...] = ()
    """Content of the file beyond FLAME's parameters."""

    def __len__(self) -> int:
        return self.expression.shape[0]


def read_track(path: Path, kind: str | None = None) -> FlameTrack:
    """Read a parameter file.

    Args:
        path: ``.npz``, ``.npy``, ``.pt``, ``.pkl`` or ``.mat`` with arrays under the tracker's own names, a
            folder of ``.npy`` files (EMOCA), or ``transforms.json`` (VHAP's export).
        kind: one of ``KINDS``; by default inferred from the names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or has no parameters of this kind.
    """
    if path.suffix.lower() == ".json":
        if kind not in (None, "vhap"):
            raise ValueError(f"{path} is not a parameter file of {kind}: only VHAP's export is JSON")
        track = _from_transforms(path)
    else:
        track = _from_arrays(path, kind)
    _check(path, track)
    return track


def _from_arrays(path: Path, kind: str | None) -> FlameTrack:
    arrays = read_arrays(path, _ALL)
    if "exp" in arrays and (kind == "emoca" or (kind is None and (path.is_dir() or "cam" not in arrays))):
        # EMOCA's scripts write their codes under DECA's names, without the camera.
        arrays |= {f"{name}code": arrays.pop(name) for name in ("shape", "exp", "pose") if name in arrays}
    return _READERS[_kind_of(path, arrays, kind)](path, arrays)


def _check(path: Path, track: FlameTrack) -> None:
    """Raise ValueError for problems that the readers do not check."""
    for name, value in vars(track).items():
        parts = vars(value).values() if isinstance(value, TensorStruct) else (value,)
        if not all(bool(part.isfinite().all()) for part in parts if isinstance(part, Tensor)):
            raise ValueError(f"{path} has numbers that are not finite in its {name.replace('_', ' ')}")
    if track.names and len(track.names) != len(track):
        raise ValueError(f"{path} has {len(track.names)} time steps, but parameters of {len(track)} frames")


def join_tracks(path: Path, tracks: Sequence[FlameTrack]) -> FlameTrack:
    """Tracks of single pictures as one.

    Args:
        path: where they are from, for messages.
        tracks: of one row each.

    Raises:
        ValueError: they have different numbers of coefficients, or some have a camera that others lack.
    """
    for name in ("shape", "expression"):
        widths = sorted({getattr(track, name).shape[1] for track in tracks})
        if len(widths) > 1:
            raise ValueError(
                f"in {path}, pictures have from {widths[0]} to {widths[-1]} coefficients of {name}; track "
                "all of a clip with the same settings"
            )
    cameras = [track.camera for track in tracks]
    kinds = {(type(camera), getattr(camera, "crop_from_picture", None) is None) for camera in cameras}
    if len(kinds) > 1:
        raise ValueError(f"in {path}, some pictures have cam or tform and others do not")
    left_out = tuple(dict.fromkeys(text for track in tracks for text in track.left_out))
    return replace(FlameTrack.cat(tracks), left_out=left_out)


def _kind_of(path: Path, arrays: Arrays, kind: str | None) -> str:
    fitting = [name for name in (kind,) if name] or [k for k in KINDS if set(_NAMES[k]) <= set(arrays)]
    if not fitting:
        wanted = "; ".join(f"{k}: {', '.join(names)}" for k, names in _NAMES.items())
        found = ", ".join(sorted(arrays)) or "none of them"
        raise ValueError(f"{path} has no known FLAME parameters ({wanted}); it has {found}")
    missing = [name for name in _NAMES[fitting[0]] if name not in arrays]
    if missing:
        raise ValueError(f"{path} is not a parameter file of {fitting[0]}: it lacks {', '.join(missing)}")
    return fitting[0]


def _rows(path: Path, arrays: Arrays, name: str, width: int | None, count: int | None = None) -> Tensor:
    """An array as (rows, width), with a row per frame."""
    array = np.atleast_1d(arrays[name])
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.size == 0 or (width is not None and array.shape[1] != width):
        raise ValueError(f"{path}: {name} has shape {arrays[name].shape}, wanted (frames, {width or 'any'})")
    rows = torch.from_numpy(array).float()
    if count is not None and len(rows) != count:
        raise ValueError(f"{path}: {name} has {len(rows)} frames, other arrays {count}")
    return rows


def _identity(path: Path, arrays: Arrays, name: str, count: int) -> Tensor:
    """Coefficients of the identity; one row is that of all frames."""
    rows = _rows(path, arrays, name, None)
    return rows.expand(count, -1) if len(rows) == 1 else _rows(path, arrays, name, None, count)


def _crop_camera(path: Path, arrays: Arrays, count: int) -> CropCamera | None:
    if "cam" not in arrays:
        return None
    transform = None
    if "tform" in arrays:
        matrix = arrays["tform"]
        matrix = matrix.reshape(-1, 3, 3) if matrix.shape[-2:] == (3, 3) else np.zeros((1, 3, 3))
        a, b = matrix[:, 0, 0], matrix[:, 1, 0]
        similar = np.allclose(matrix[:, 2], [0, 0, 1]) and np.allclose(
            matrix[:, :2, :2], np.stack([a, -b, b, a], 1).reshape(-1, 2, 2), atol=1e-4
        )
        if not similar or len(matrix) not in (1, count) or not (a**2 + b**2 > 0).all():
            raise ValueError(
                f"{path}: tform must be the similarity from the picture to the crop, (frames, 3, 3), as "
                "skimage.transform.estimate_transform gives it (.params), without inverse or transpose"
            )
        transform = torch.from_numpy(matrix).float().expand(count, -1, -1)
    return CropCamera(_rows(path, arrays, "cam", 3, count), transform)


def _from_deca(path: Path, arrays: Arrays, names: tuple[str, ...] = _NAMES["deca"]) -> FlameTrack:
    expression = _rows(path, arrays, names[1], None)
    count = len(expression)
    pose = _rows(path, arrays, names[2], 6, count)
    return FlameTrack(
        shape=_identity(path, arrays, names[0], count),
        expression=expression,
        global_pose=pose[:, :3],
        neck_pose=torch.zeros(count, 3),
        jaw_pose=pose[:, 3:],
        eye_pose=torch.zeros(count, 6),
        camera=_crop_camera(path, arrays, count),
        kind="deca",
    )


def _from_emoca(path: Path, arrays: Arrays) -> FlameTrack:
    return replace(_from_deca(path, arrays, _NAMES["emoca"]), kind="emoca")


def _from_smirk(path: Path, arrays: Arrays) -> FlameTrack:
    expression = _rows(path, arrays, "expression_params", None)
    count = len(expression)

    def optional(name: str, width: int) -> Tensor:
        return _rows(path, arrays, name, width, count) if name in arrays else torch.zeros(count, width)

    lids = float(optional("eyelid_params", 2).abs().max())
    closed = (f"eyelids, blendshapes of SMIRK's own, up to {lids:.2f}",) if lids > _SEEN_EYELID else ()
    return FlameTrack(
        shape=_identity(path, arrays, "shape_params", count),
        expression=expression,
        global_pose=_rows(path, arrays, "pose_params", 3, count),
        neck_pose=optional("neck_pose_params", 3),
        jaw_pose=_rows(path, arrays, "jaw_params", 3, count),
        eye_pose=optional("eye_pose_params", 6),
        camera=_crop_camera(path, arrays, count),
        kind="smirk",
        left_out=closed,
    )


def _vhap_track(path: Path, arrays: Arrays, camera: PinholeCamera, names: tuple[str, ...]) -> FlameTrack:
    expression = _rows(path, arrays, "expr", None)
    count = len(expression)
    static = np.atleast_1d(arrays.get("static_offset", np.zeros(3)))
    offsets = float(np.linalg.norm(static, axis=-1).max(initial=0.0))
    return FlameTrack(
        shape=_identity(path, arrays, "shape", count),
        expression=expression,
        global_pose=_rows(path, arrays, "rotation", 3, count),
        neck_pose=_rows(path, arrays, "neck_pose", 3, count),
        jaw_pose=_rows(path, arrays, "jaw_pose", 3, count),
        eye_pose=_rows(path, arrays, "eyes_pose", 6, count),
        camera=camera,
        kind="vhap",
        names=names,
        left_out=(f"offsets of vertices, up to {1e3 * offsets:.1f} mm",) if offsets > 0 else (),
    )


def _from_vhap(path: Path, arrays: Arrays) -> FlameTrack:
    lacking = [name for name in ("focal_length", "image_size") if name not in arrays]
    if lacking:
        raise ValueError(
            f"{path} has no {lacking[0]}, so its cameras were calibrated and are not in the file; pass the "
            "transforms.json of vhap/export_as_nerf_dataset.py"
        )
    count = len(_rows(path, arrays, "expr", None))
    translation = _rows(path, arrays, "translation", 3, count)
    height, width = _rows(path, arrays, "image_size", 2)[0]
    focal = _rows(path, arrays, "focal_length", 1)[0, 0] * max(height, width)
    # The camera stands at (0, 0, 1) and looks along -z.
    shift = translation - torch.tensor([0.0, 0.0, 1.0])
    camera = PinholeCamera(
        torch.stack([focal / width, focal / height]).expand(count, -1),
        torch.full((count, 2), 0.5),
        torch.cat([torch.eye(3).expand(count, -1, -1), shift[..., None]], dim=2),
    )
    return _vhap_track(path, arrays, camera, read_names(path, "timestep_id"))


def _from_transforms(path: Path) -> FlameTrack:
    """VHAP's export for neural scenes, which GaussianAvatars reads: cameras in JSON, a file per time step."""
    if not path.is_file():
        raise FileNotFoundError(f"no FLAME parameters at {path}")
    frames = read_json(path).get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path} has no list of frames")
    tracks = [_frame_of_transforms(path, frame) for frame in frames]
    names = tuple(name for track in tracks for name in track.names)
    return replace(join_tracks(path, tracks), names=names)


def _frame_of_transforms(path: Path, frame: dict[str, Any]) -> FlameTrack:
    try:
        world_from_cam = np.array(frame["transform_matrix"], dtype=np.float64)
        sides = torch.tensor([float(frame["w"]), float(frame["h"])])
        focal = torch.tensor([float(frame["fl_x"]), float(frame["fl_y"])])
        centre = torch.tensor([float(frame["cx"]), float(frame["cy"])])
        file = (path.parent / frame["flame_param_path"]).resolve()
        name = Path(frame["file_path"]).stem
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"{path}: a frame lacks its camera or flame_param_path ({error}); export with FLAME parameters"
        ) from error
    # The file's author must not choose which other files of this computer are read.
    if not file.is_relative_to(path.parent.resolve()):
        raise ValueError(
            f"{path}: flame_param_path of {name} is outside its folder; pass the transforms.json of the "
            "sequence that the file belongs to"
        )
    turn = world_from_cam[:3, :3] if world_from_cam.shape == (4, 4) else np.zeros((3, 3))
    rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    if not rigid or not np.allclose(world_from_cam[3], [0, 0, 0, 1]):
        raise ValueError(
            f"{path}: transform_matrix of {name} is not a 4 x 4 matrix of a rotation and a translation"
        )
    arrays = read_arrays(file, _ALL)
    _kind_of(file, arrays, "vhap")
    moved = np.eye(4)
    moved[:3, 3] = _rows(file, arrays, "translation", 3, 1)[0]
    cam_from_head = torch.from_numpy(np.linalg.inv(world_from_cam) @ moved)[None, :3].float()
    camera = PinholeCamera((focal / sides)[None], (centre / sides)[None], cam_from_head)
    track = _vhap_track(file, arrays, camera, (name,))
    _check(file, track)
    return track


_READERS: dict[str, Callable[[Path, Arrays], FlameTrack]] = {
    "deca": _from_deca,
    "emoca": _from_emoca,
    "smirk": _from_smirk,
    "vhap": _from_vhap,
}
