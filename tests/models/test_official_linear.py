"""The release's linear model, from generated files of the same shapes, against explicit formulas."""

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import random_frames, small_config
from torchvision import models

from rome_lightning.head import HeadModel
from rome_lightning.head.data import REGIONS, HeadData
from rome_lightning.models import AvatarModel, LinearBasis
from rome_lightning.models.checkpoint import CONFIG_KEY, config_from_dict
from rome_lightning.models.official_linear import import_linear, import_official_linear
from rome_lightning.models.offsets import BasisOffsets

NUM_VERTICES = 5023


@pytest.fixture(scope="module")
def head() -> HeadModel:
    """A strip of triangles of FLAME's size."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(NUM_VERTICES)
    template = torch.stack([0.001 * (index % 71), 0.001 * (index // 71), 0.01 * (index % 7)], dim=1) - 0.03
    faces = torch.stack([index[:-2], index[1:-1], index[2:]], dim=1)
    return HeadModel(
        HeadData(
            name="flame-like",
            template=template,
            shape_basis=0.001 * torch.randn(NUM_VERTICES, 3, 4, generator=generator),
            expression_basis=0.001 * torch.randn(NUM_VERTICES, 3, 50, generator=generator),
            expression_names=tuple(map(str, range(50))),
            joints=torch.zeros(5, 3),
            joint_basis=torch.zeros(5, 3, 54),
            skinning_weights=torch.eye(5)[index % 5],
            faces=faces,
            uvs=torch.rand(NUM_VERTICES, 2, generator=generator),
            uv_faces=faces,
            regions={name: index * len(REGIONS) // NUM_VERTICES == i for i, name in enumerate(REGIONS)},
        )
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("release")
    generator = torch.Generator().manual_seed(1)
    columns = torch.linalg.qr(torch.randn(3 * NUM_VERTICES, 60, generator=generator)).Q
    torch.manual_seed(2)
    contents = {
        "u_full": columns,
        "mean_deform": 0.01 * torch.randn(NUM_VERTICES, 3, generator=generator),
        "linear_hair": models.resnet50(num_classes=60).state_dict(),
        "disp_model": models.mobilenet_v2(num_classes=59).state_dict(),
    }
    paths = {name: folder / name for name in contents}
    for name, content in contents.items():
        torch.save(content, paths[name])
    return paths


def test_basis_is_the_releases(head: HeadModel, files: dict[str, Path]) -> None:
    basis = LinearBasis.from_official(files["u_full"], files["mean_deform"], head)
    columns, mean = torch.load(files["u_full"]), torch.load(files["mean_deform"])
    coefficients = torch.randn(2, 60, generator=torch.Generator().manual_seed(3))
    wanted = mean + (coefficients @ columns.T).view(2, NUM_VERTICES, 3)
    torch.testing.assert_close(basis.offsets(coefficients), wanted)
    assert (basis.num_hair, basis.num_neck) == (50, 10)


def test_networks_say_what_the_released_ones_say(head: HeadModel, files: dict[str, Path]) -> None:
    model = import_official_linear(AvatarModel(small_config(), head), **files)
    frames = random_frames(head, 2)

    def ask(network: torch.nn.Module, name: str, image: torch.Tensor) -> torch.Tensor:
        network.load_state_dict(torch.load(files[name]))
        with torch.no_grad():
            # The release's networks see images in [0, 1], background included.
            return network.eval()(image)

    wanted = ask(models.mobilenet_v2(num_classes=59), "disp_model", frames.image)
    found = model.estimate_driver(frames.image)
    torch.testing.assert_close(found.expression, wanted[:, :50])
    torch.testing.assert_close(torch.cat([found.global_pose, found.jaw_pose], 1), wanted[:, 50:56])
    torch.testing.assert_close(found.camera, wanted[:, 56:])
    assert found.neck_pose.abs().max() == 0
    assert found.eye_pose.abs().max() == 0

    coefficients = ask(models.resnet50(num_classes=60), "linear_hair", frames.image)
    assert isinstance(model.offset_network, BasisOffsets)
    torch.testing.assert_close(model.offset_network.coefficients(frames), coefficients, atol=1e-5, rtol=1e-4)


def test_wrong_files_are_refused(head: HeadModel, files: dict[str, Path], tmp_path: Path) -> None:
    full = AvatarModel(small_config(), head)
    with pytest.raises(FileNotFoundError, match="is missing"):
        import_official_linear(full, **(files | {"u_full": tmp_path / "none.pt"}))
    with pytest.raises(ValueError, match=r"should hold one tensor \(15069, 60\)"):
        import_official_linear(full, **(files | {"u_full": files["mean_deform"]}))
    with pytest.raises(ValueError, match="belongs to another network"):
        import_official_linear(full, **(files | {"linear_hair": files["disp_model"]}))
    with pytest.raises(ValueError, match="is not a torchvision MobileNetV2 with 59 outputs"):
        import_official_linear(full, **(files | {"disp_model": files["linear_hair"]}))
    torch.save({"fc": print}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        import_official_linear(full, **(files | {"linear_hair": tmp_path / "hostile.pth"}))


def test_another_head_is_refused(head: HeadModel, files: dict[str, Path]) -> None:
    from rome_lightning.head import load_head

    # The open head has 52 expressions, so only the mesh does not fit.
    with pytest.raises(ValueError, match="is it for this head model"):
        import_official_linear(AvatarModel(dataclasses.replace(small_config()), load_head("open")), **files)


def test_a_checkpoint_of_the_full_model_becomes_one_of_the_linear_model(
    head: HeadModel, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rome_lightning.models.avatar_model.load_head", lambda *_: head)
    suffixes = {"u_full": ".pt", "mean_deform": ".pt", "linear_hair": ".pth", "disp_model": ".pth"}
    for name, path in files.items():
        (tmp_path / (name + suffixes[name])).symlink_to(path)
    full = AvatarModel(small_config())
    checkpoint = {
        "state_dict": {f"avatar.{key}": value for key, value in full.state_dict().items()},
        CONFIG_KEY: dataclasses.asdict(full.config),
        "image_size": 256,
    }
    linear = import_linear(checkpoint, tmp_path)
    again = AvatarModel(config_from_dict(linear[CONFIG_KEY]))
    state = {key.removeprefix("avatar."): value for key, value in linear["state_dict"].items()}
    again.load_state_dict(state)
    torch.testing.assert_close(again.basis.mean, torch.load(files["mean_deform"]))
    shared = "renderer.network.head.weight"
    assert torch.equal(state[shared], full.state_dict()[shared])
    # Without the driver network, drivers are tracked.
    assert again.driver_network is not None
    (tmp_path / "disp_model.pth").unlink()
    tracked = import_linear(checkpoint, tmp_path)
    without = AvatarModel(config_from_dict(tracked[CONFIG_KEY]))
    assert without.driver_network is None
    assert without.state_dict().keys() == {key for key in state if not key.startswith("driver_network.")}
    assert tracked["state_dict"].keys() == {f"avatar.{key}" for key in without.state_dict()}
