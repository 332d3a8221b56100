"""Networks outside the framework give what they give inside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.export import onnx as export
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel
from rome_lightning.models.avatar_model import at_rest

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")


@pytest.fixture(scope="module")
def model(head: HeadModel) -> AvatarModel:
    return perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(model: AvatarModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "new"
    differences = export.export_networks(model, SIZE, folder, programs=True)
    assert set(differences) == {"texture", "offsets", "decoder"}
    assert max(differences.values()) < 1e-3
    return folder


def test_files_and_their_description(folder: Path, model: AvatarModel) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"head.npz", "model.json"} | {
        f"{part}{suffix}" for part in ("texture", "offsets", "decoder") for suffix in (".onnx", ".pt2")
    }
    document = json.loads((folder / "model.json").read_text())
    assert document["networks"]["decoder"]["inputs"]["uv"] == [1, 2, SIZE, SIZE]
    with np.load(folder / "head.npz", allow_pickle=False) as arrays:
        assert arrays["expression_basis"].shape == (model.head.num_expression, model.head.num_carriers, 3)


def test_a_person_is_drawn_from_the_files(folder: Path, model: AvatarModel) -> None:
    """Photograph to picture with onnxruntime between our own projection and rasterization."""
    photo = random_frames(model.head, 1)
    expected_code = model.encode(photo)
    vertices = model.head(photo.params)

    def texture_of(points: torch.Tensor) -> torch.Tensor:
        colour, seen = model.texture_model.observe(
            photo, model.project(points, photo.params, photo.image_size)
        )
        return export.run_network(folder / "texture.onnx", {"colour": colour, "visibility": seen})["texture"]

    rest = model.head(at_rest(photo.params))
    inputs = {"texture": texture_of(vertices), "vertices": rest}
    offsets = export.run_network(folder / "offsets.onnx", inputs)["offsets"]
    torch.testing.assert_close(offsets, expected_code.offsets, atol=1e-4, rtol=0)
    texture = texture_of(vertices + model.head.turn(offsets, photo.params))
    torch.testing.assert_close(texture, expected_code.texture, atol=1e-3, rtol=0)

    drawn: dict[str, torch.Tensor] = {}
    decode = model.renderer.decode

    def decoded(
        t: torch.Tensor, uv: torch.Tensor, n: torch.Tensor, m: torch.Tensor, d: torch.Tensor
    ) -> tuple:
        inputs = {"texture": t, "uv": uv, "normals": n, "mesh_mask": m.float(), "distance": d}
        drawn.update(export.run_network(folder / "decoder.onnx", inputs))
        return decode(t, uv, n, m, d)

    model.renderer.decode = decoded  # type: ignore[method-assign]
    try:
        rendered = model.render(expected_code, photo.params, (SIZE, SIZE))
    finally:
        del model.renderer.decode
    torch.testing.assert_close(drawn["rgb"], rendered.rgb, atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn["mask"], rendered.mask, atol=1e-3, rtol=0)


def test_programs_run(folder: Path, model: AvatarModel) -> None:
    program = torch.export.load(str(folder / "texture.pt2")).module()
    size = model.config.texture.size
    colour, seen = torch.rand(1, 3, size, size), torch.rand(1, 1, size, size)
    torch.testing.assert_close(program(colour, seen), model.texture_model.complete(colour, seen))


def test_a_file_that_differs_is_refused(
    model: AvatarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = export.run_network
    monkeypatch.setattr(
        export, "run_network", lambda path, inputs: {k: v + 0.01 for k, v in run(path, inputs).items()}
    )
    with pytest.raises(ValueError, match=r"texture\.onnx gives other results than PyTorch"):
        export.export_networks(model, SIZE, tmp_path)


def test_missing_packages_are_named(
    model: AvatarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match="needs onnxscript"):
        export.export_networks(model, SIZE, tmp_path)
