"""The official ROME code compared with ours, on generated files: all quantities from vertices to logits.

    python -m benchmarks.official --release CHECKOUT [--record FILE]

CHECKOUT is a clone of https://github.com/SamsungLabs/rome with its DECA submodule (non-commercial research;
nothing of it is part of this project), whose requirements are installed: PyTorch3D's C++ rasterizer, yacs,
scikit-image. FLAME is generated on the mesh of DECA's head_template.obj, the networks have random weights,
and everything else is the release's own: ``--generated`` uses our files instead, and ``--record`` writes what
the official code computes from those for ``tests/parity``.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import types
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from released_files import (  # noqa: E402
    ReleasedFiles,
    Widths,
    make_model,
    released_inputs,
    released_weights,
    write_released_files,
    write_released_linear,
)
from released_values import TOLERANCES, InDouble, import_released, released_values, thinned  # noqa: E402

from rome_lightning.cli.main import main as rome_main  # noqa: E402
from rome_lightning.models.checkpoint import load_avatar, read_checkpoint  # noqa: E402
from rome_lightning.models.framing import ffhq_squares  # noqa: E402
from rome_lightning.models.official import write_checkpoint  # noqa: E402
from rome_lightning.types.landmarks import IBUG68  # noqa: E402


@dataclass(frozen=True)
class Reference:
    """Results of the official code for two poses of one person."""

    values: dict[str, Tensor]


def generated_flame(checkout: Path, folder: Path) -> ReleasedFiles:
    """The release's own files beside a FLAME of ours on DECA's mesh."""
    deca = folder / "DECA" / "data"
    deca.mkdir(parents=True)
    for name in ("head_template.obj", "landmark_embedding.npy"):
        (deca / name).symlink_to((checkout / "DECA" / "data" / name).resolve())
    vertices, faces = [], []
    for line in (deca / "head_template.obj").read_text().splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["f"]:
            faces.append([int(word.split("/")[0]) - 1 for word in words[1:]])
    # The template is at its height on a body; FLAME's own is near the origin.
    points = np.array(vertices) - [0, 1.48, 0.02]
    (deca / "generic_model.pkl").write_bytes(pickle.dumps(make_model(points, np.array(faces)), protocol=2))
    data = folder / "data"
    data.mkdir()
    for file in (checkout / "data").iterdir():
        (data / file.name).symlink_to(file.resolve())
    return ReleasedFiles(deca / "generic_model.pkl", data)


@contextmanager
def official_code(checkout: Path) -> Any:
    """The release's packages, without those used only by its datasets and its detector."""
    import torchvision

    for name in ("face_alignment", "tensorboardX"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, str(checkout))
    originals = {name: getattr(torchvision.models, name) for name in ("resnet50", "mobilenet_v2")}
    for name, build in originals.items():
        # The release downloads ImageNet's weights before it loads its own.
        setattr(torchvision.models, name, partial(_without_download, build))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name, build in originals.items():
            setattr(torchvision.models, name, build)


def _without_download(build: Any, pretrained: bool = False, **options: Any) -> Any:
    return build(weights=None) if pretrained else build(**options)


def run_official(checkout: Path, files: ReleasedFiles, widths: Widths, weights: dict[str, Tensor]) -> Any:
    """The official model with given weights."""
    from DECA.decalib.utils import util
    from src import rome

    deca, data = files.model.parent, files.data
    for name in ("uv_face_mask.png", "uv_face_eye_mask.png"):
        if not (deca / name).exists():
            Image.fromarray(np.full((256, 256, 3), 255, np.uint8)).save(deca / name)
    for name in ("hair_edge_list.pkl", "neck_edge_list.pkl"):
        if not (data / name).exists():
            (data / name).write_bytes(pickle.dumps([0]))
    for name in ("hair_faces.pth", "neck_faces.pth"):
        if not (data / name).exists():
            torch.save(torch.zeros(1, 1, 3, dtype=torch.long), data / name)
    # A later opening of the mask, which OpenCV 5 refuses.
    rome.mask_errosion = lambda mask: torch.from_numpy(mask)
    parser = rome.ROME.add_argparse_args(argparse.ArgumentParser())
    options = {
        "deca_path": deca.parent, "path_to_deca": deca.parent, "rome_data_dir": data,
        "autoenc_num_channels": widths.texture, "autoenc_max_channels": 8 * widths.texture,
        "unet_num_channels": widths.unet, "unet_max_channels": 8 * widths.unet,
        "use_separate_seg_unet": False,
        "path_to_linear_hair_model": data / "linear_hair.pth",
        "path_to_mobile_model": data / "disp_model.pth",
        "use_distill": True, "use_mobile_version": True,
    }  # fmt: skip
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    # A grid of the details that the release leaves out, made in a loop of Python.
    util.generate_triangles = lambda *_: np.zeros((1, 3))
    model = rome.ROME(parser.parse_args([*argv, "--unet_pred_mask"])).eval()
    model.parametric_avatar.render.render_shape = _no_shaded_picture
    # Its checkpoints hold the networks only; what else may be missing is checked below.
    missing = model.load_state_dict(weights, strict=False)
    wrong = [key for key in missing.missing_keys if not key.startswith("parametric_avatar.")]
    if wrong or missing.unexpected_keys:
        raise ValueError(
            f"the weights do not fit the official code: {[*wrong, *missing.unexpected_keys][:3]}"
        )
    model.autoencoder = InDouble(model.autoencoder)
    return model


def _no_shaded_picture(vertices: Tensor, transformed_vertices: Tensor) -> Tensor:
    """Replaces five visualizations per frame by their side effect on the vertices."""
    transformed_vertices[:, :, 2] += 10
    return torch.zeros(len(vertices), 3, 1, 1)


def reference(model: Any, linear: bool) -> Reference:
    """Run the official model on the inputs; ``linear`` takes the distilled networks."""
    from DECA.decalib.models.lbs import batch_rodrigues

    inputs = released_inputs()
    part = model.parametric_avatar
    part.external_params["use_distill"] = part.external_params["use_mobile_version"] = linear
    kept: dict[str, Tensor] = {}
    codes = iter([inputs.source, inputs.drivers])

    def encode(images: Tensor, crop_bbox: Any) -> dict[str, Any]:
        code = next(codes)
        pose = torch.stack([code.global_pose, code.jaw_pose], 1)
        angle = torch.norm(pose + 1e-8, dim=2, keepdim=True)
        turned = torch.cat([angle, pose / angle], 2).view(-1, 4)
        return {
            "shape": code.shape, "exp": code.expression, "cam": code.camera,
            "pose_rot_mats": batch_rodrigues(turned).view(len(pose), 2, 3, 3),
        }  # fmt: skip

    def decode(*args: Any, **kwargs: Any) -> Any:
        drawn, shown = original(*args, **kwargs)
        kept["offsets"] = drawn["vertices_deforms"]
        return drawn, shown

    original, part.encode, part.decode = part.decode, encode, decode
    hooks = [
        part.render.register_forward_hook(lambda _, __, out: kept.update(out)),
        model.unet.register_forward_hook(lambda _, __, out: kept.update(logits=out)),
    ]
    if linear:
        hooks.append(part.online_regressor.register_forward_hook(lambda _, __, out: kept.update(driver=out)))
    try:
        keypoints = torch.linspace(-0.5, 0.5, 136).view(1, 68, 2).expand(2, -1, -1)
        images = inputs.source_image.expand(2, -1, -1, -1)
        out = model({
            "source_img": images, "source_mask": inputs.source_mask.expand(2, -1, -1, -1),
            "source_keypoints": keypoints, "target_img": inputs.driver_images, "target_keypoints": keypoints,
        })  # fmt: skip
    finally:
        part.encode, part.decode = type(part).encode.__get__(part), original
        for hook in hooks:
            hook.remove()
    mask = kept["alpha_images"]
    values = {
        "vertices_ndc": out["vertices_target"][..., :2], "offsets": kept["offsets"],
        "uv": kept["uvcoords_images"][:, :2], "normals": kept["normal_images"], "mask": mask,
        "soft_alpha": kept["soft_alpha_images"], "logits": kept["logits"],
    }  # fmt: skip
    if linear:
        values["driver"] = kept["driver"]
    return Reference({name: value.detach().clone() for name, value in values.items()})


def change_weights(path: Path, share: float = 0.1) -> Path:
    """A checkpoint of the full model with other weights, as training changes them.

    Args:
        path: of the checkpoint to change, which is kept.
        share: of each tensor's spread, standard deviation of what is added.
    """
    checkpoint = read_checkpoint(path)
    generator = torch.Generator().manual_seed(1)
    checkpoint["state_dict"] = {
        key: value + share * value.std() * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and value.numel() > 1
        else value
        for key, value in checkpoint["state_dict"].items()
    }
    changed = path.with_name("changed.ckpt")
    write_checkpoint(checkpoint, changed)
    return changed


def compare_framing() -> str:
    """How far apart the corners of the networks' view are, pixels of a picture of 256, for tilted faces."""
    import data_utils

    generator = torch.Generator().manual_seed(0)
    most = 0.0
    for angle in (-40.0, -15.0, 0.0, 15.0, 40.0):
        landmarks = turned_face(torch.tensor(angle).deg2rad(), generator)
        points = torch.stack([landmarks[:, list(rows)].mean(1) for rows in IBUG68], dim=1)[0]
        # The release fits the similarity by gradient descent.
        with torch.enable_grad():
            theta = torch.from_numpy(data_utils.calc_ffhq_alignment(points.numpy(), size=256)["theta"])
        corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
        enlarged = corners * torch.tensor([1.25, 1.25, 1])
        wanted = (enlarged @ theta.T + 1) * 128
        most = max(most, float((corners @ ffhq_squares(landmarks)[0].T - wanted).abs().max()))
    return f"framing: corners of the view at most {most:.1e} px apart"


def turned_face(angle: Tensor, generator: torch.Generator) -> Tensor:
    """Landmarks (1, 478, 2) of a face of about a hundred pixels: eyes and mouth apart, and noise."""
    points = torch.zeros(478, 2)
    parts = {(-22.0, -15.0): IBUG68[36:42], (22.0, -15.0): IBUG68[42:48], (0.0, 32.0): IBUG68[48:60]}
    for (x, y), rows in parts.items():
        points[[row for each in rows for row in each]] = torch.tensor([x, y])
    points += 2 * torch.randn(points.shape, generator=generator)
    cosine, sine = angle.cos(), angle.sin()
    return (points @ torch.stack([cosine, sine, -sine, cosine]).view(2, 2) + 128)[None]


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """One line for each quantity: largest difference, 99.9th percentile, and the limit."""
    lines = []
    for name, value in wanted.items():
        difference = (found[name].float() - value.float()).abs().flatten().sort().values
        most, usual = float(difference[-1]), float(difference[int(0.999 * (len(difference) - 1))])
        limits = TOLERANCES.get(name)
        lines.append(f"{name:14} {most:9.1e} {usual:9.1e}   allowed {limits}")
    return lines


def main() -> None:
    """Compare, and record on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--release", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--generated", action="store_true", help="Use our files instead of the release's.")
    parser.add_argument("--width", type=int, default=64, help="Width of the networks; the release has 64.")
    parser.add_argument("--record", type=Path, help="Write the official values of the generated files.")
    arguments = parser.parse_args()
    widths = Widths(arguments.width, arguments.width)
    with tempfile.TemporaryDirectory() as name, official_code(arguments.release), torch.no_grad():
        folder = Path(name)
        if arguments.generated or arguments.record:
            files = write_released_files(folder)
        else:
            files = generated_flame(arguments.release, folder)
        write_released_linear(files.data)
        weights = released_weights(widths)
        model = run_official(arguments.release, files, widths, weights)
        print(compare_framing(), flush=True)
        recorded = {}
        # The full model comes last, for its checkpoint.
        for linear in (True, False):
            wanted = reference(model, linear).values
            kind = "linear" if linear else "full"
            recorded |= {f"{kind}/{key}": value for key, value in wanted.items()}
            avatar = import_released(files, weights, folder, linear)
            print(f"{kind} model        largest    99.9 %")
            print("\n".join(compare(released_values(avatar, released_inputs()), wanted)), flush=True)
        changed = change_weights(folder / "official.ckpt")
        avatar = load_avatar(changed)
        rome_main(["export-checkpoint", str(changed), "-o", str(folder / "back.pth")])
        exported = torch.load(folder / "back.pth", weights_only=True)
        wanted = reference(run_official(arguments.release, files, widths, exported), False).values
        print("our training, exported   largest    99.9 %")
        print("\n".join(compare(released_values(avatar, released_inputs()), wanted)), flush=True)
    if arguments.record:
        save_file(thinned(recorded), arguments.record)


if __name__ == "__main__":
    main()
