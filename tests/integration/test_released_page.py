"""The commands of docs/rome.md in order, on generated files: a human FLAME, companions, narrow weights."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from deca_files import constant_weights, moved_camera, write_deca
from human_flame import write_human_flame
from PIL import Image
from released_files import Widths, released_weights, write_moving, write_released_linear
from tiny_run import need

from rome_lightning.avatar import Avatar
from rome_lightning.cli.main import main
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.video import read_video, write_video
from rome_lightning.tracking import Tracker
from rome_lightning.tracking.foreign.deca import crop_transforms
from rome_lightning.types import Region

PAGE = Path(__file__).parents[2] / "docs" / "rome.md"
SHORT = {
    # Widths of the generated weights, where the page has the release's.
    "model.init_args.avatar.texture.width": 32, "model.init_args.avatar.offsets.width": 16,
    "model.init_args.avatar.decoder.width": 16,
    "model.init_args.losses.landmarks": 0, "trainer.accelerator": "cpu", "trainer.max_epochs": 1,
    "trainer.limit_val_batches": 1, "data.init_args.pairs_per_epoch": 2, "data.init_args.batch_size": 1,
}  # fmt: skip
QUICK = {
    "create": ["--refine-steps", "0"],
    "animate": ["--max-frames", "2"],
    "track": ["--max-frames", "2"],
    "prepare": ["--max-frames", "10", "--min_frames", "4"],
    "evaluate": ["--refine-steps", "0"],
    "distill": ["--hair", "2", "--neck", "2", "--sources_per_clip", "3", "--refine_steps", "0"],
    "fit": [word for name, value in SHORT.items() for word in (f"--{name}", str(value))],
}
"""Options that speed a command up without changing anything tested."""


def commands() -> list[list[str]]:
    """Words of every ``rome`` line of the page, with options that speed it up."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line)[1:] for line in lines if line.startswith("rome ")]
    return [[*line, *QUICK.get(line[line[0] == "avatar"], [])] for line in words]


def write_companions(folder: Path) -> None:
    """The release's files for the human FLAME: its layout and triangles, random movable vertices."""
    data, deca = folder / "rome" / "data", folder / "rome" / "DECA" / "data"
    for place in (data, deca):
        place.mkdir(parents=True)
    write_human_flame(folder / "generic_model.pkl")
    head = load_head(folder / "generic_model.pkl")
    shutil.copy(folder / "head_template.obj", deca)
    torch.save(head.faces[None], data / "faces_v2.pth")
    torch.save(head.uv_faces[None], data / "uvfaces_v2.pth")
    torch.save(2 * head.vertex_uvs[None] - 1, data / "vertex_uvcoords.pth")
    write_moving(data, head.template.view(-1, 3).double().numpy(), np.random.default_rng(0))
    write_released_linear(data)


def write_parameters(folder: Path, photo: np.ndarray, head: HeadModel) -> None:
    """DECA's output for a photograph, from our own fit, and an encoder that always has this output."""
    clip = Tracker(head, image_size=256).track(photo[None])
    params, scale = clip.params, 224 / clip.crop.side
    corner = [(0.5 - clip.crop.left) * scale, (0.5 - clip.crop.top) * scale]
    tform = np.array([[scale, 0, corner[0]], [0, scale, corner[1]], [0, 0, 1]])
    # DECA has no neck: the whole rotation is global, about another joint.
    pose = torch.cat([params.global_pose + params.neck_pose, params.jaw_pose], 1)
    np.savez(
        folder / "photo_deca.npz",
        shape=params.shape, exp=params.expression, cam=params.camera, pose=pose, tform=tform,
    )  # fmt: skip
    seen = crop_transforms(clip.crop.to_frame(clip.landmarks, 256))[0].numpy()
    code = {
        "shape": params.shape, "expression": params.expression, "pose": pose,
        "camera": moved_camera(params.camera[0].numpy(), tform, seen),
    }  # fmt: skip
    write_deca(folder / "deca_model.tar", constant_weights(code))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:the dataset has no validation split")
def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet", "sface", "yunet", "lpips_alexnet", "lpips_vgg16")
    need("vgg19_normalized")
    monkeypatch.chdir(tmp_path)
    write_companions(tmp_path)
    torch.save(released_weights(Widths(8, 8)), "rome.pth")
    photo = skimage.data.astronaut()
    Image.fromarray(photo).save("photo.jpg", quality=95)
    write_video(Path("driver.mp4"), [photo, np.roll(photo, 6, axis=1)], 25.0)
    write_parameters(tmp_path, photo, load_head("generic_model.pkl", "rome/data"))
    Path("clips").mkdir()
    frames = [np.roll(photo, step, axis=1) for step in range(48)]
    write_video(Path("clips/someone.mp4"), frames, 25.0)
    lines = commands()
    assert len(lines) == 16
    for words in lines:
        assert main(words) == 0, words
    avatar = Avatar.load(Path("avatars/someone/avatar.safetensors"))
    assert Path("runs/official/evaluation/demo/report.html").is_file()
    assert list(Path("runs/tuned/checkpoints").glob("*.ckpt"))
    assert Path("basis_components.png").is_file()
    # Recorded motion drives as the video that it was recorded from.
    driven, again = (read_video(Path(name)).frames.astype(int) for name in ("driven.mp4", "again.mp4"))
    assert driven.shape == again.shape
    assert np.abs(driven - again).mean() < 1
    # The head lies on the person, not on the background.
    regions = avatar.source.regions[0]
    assert float((regions == int(Region.FACE_SKIN)).float().mean()) > 0.05
    weights, back = released_weights(Widths(8, 8)), torch.load("rome.pth", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
    assert sum(line.startswith("v ") for line in Path("someone.obj").read_text().splitlines()) > 5000
