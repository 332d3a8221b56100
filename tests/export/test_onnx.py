"""Networks outside the framework give the same results as inside."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.export import onnx as export
from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarModel, BasisConfig, DriverConfig, TextureConfig
from rome_lightning.models.carrying import carry
from rome_lightning.models.offsets import BasisOffsets
from rome_lightning.models.texture import Observation
from rome_lightning.renderer import extend_outside, interpolate, nearest_covered, render_texture
from rome_lightning.types.params import at_rest

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")


@pytest.fixture(scope="module")
def model(head: HeadModel) -> AvatarModel:
    # The converter needs half a minute for the many nodes of the completion, which a slow test exports.
    texture = dataclasses.replace(small_config().texture, mirror=False)
    config = dataclasses.replace(small_config(), texture=texture)
    return perturbed(AvatarModel(config, head)).eval().requires_grad_(False)


# The converter's own optimization takes most of its time; the files of the slow tests have it.
@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["as converted", "optimized"],
)
def folder(
    request: pytest.FixtureRequest, model: AvatarModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", functools.partial(torch.onnx.export, optimize=request.param))
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


def texture_inputs(seen: Observation) -> dict[str, torch.Tensor]:
    return {name: getattr(seen, name) for name in ("colour", "visibility", "hair")}


def test_a_person_is_drawn_from_the_files(folder: Path, model: AvatarModel) -> None:
    """From photograph to image, with onnxruntime between our projection and rasterization."""
    photo = random_frames(model.head, 1)
    expected_code = model.encode(photo)
    vertices = model.head(photo.params)

    def observed(points: torch.Tensor) -> Observation:
        vertices_px = model.project(points, photo.params, photo.image_size)
        face_ids = model.rasterizer.face_ids(vertices_px, model.head.faces, photo.image_size)
        return model.texture_model.observe(photo, vertices_px, face_ids)

    def texture_of(points: torch.Tensor) -> torch.Tensor:
        seen = observed(points)
        return export.run_network(folder / "texture.onnx", texture_inputs(seen))["texture"]

    rest = model.head(at_rest(photo.params))
    inputs = {"texture": texture_of(vertices), "vertices": rest}
    offsets = export.run_network(folder / "offsets.onnx", inputs)["offsets"]
    torch.testing.assert_close(offsets, expected_code.offsets, atol=1e-4, rtol=0)
    texture = texture_of(vertices + model.head.turn(expected_code.offsets, photo.params))
    # In double precision: the perturbed network amplifies float32 rounding to a thousandth.
    points = vertices + model.head.turn(expected_code.offsets, photo.params)
    seen = observed(points)
    exact = copy.deepcopy(model.texture_model).double()
    expected = exact.complete(*(value.double() for value in texture_inputs(seen).values())).float()
    torch.testing.assert_close(texture, expected, atol=1e-3, rtol=0)

    rendered = model.render(expected_code, photo.params, (SIZE, SIZE))
    head = model.head
    mesh = (rendered.vertices_px, head.faces, rendered.face_ids)
    nearest, _ = nearest_covered(rendered.face_ids >= 0)
    uv, distance = extend_outside(interpolate(*mesh, head.uvs[None], head.uv_faces), rendered.mesh_mask)
    inputs = {"texture": expected_code.texture, "uv": uv, "normals": rendered.normals, "distance": distance}
    inputs["mesh_mask"] = rendered.mesh_mask.float()
    carried = expected_code.carried
    visibility = render_texture(*mesh, head.uvs, head.uv_faces, carried.visibility) * rendered.mesh_mask
    parts, plane = model.renderer.parts, model.renderer.ear_plane
    visible, same = torch.cat([visibility, torch.zeros_like(visibility)], dim=1), torch.ones(1, 1)
    inputs["layers"] = carry(carried, *mesh, visible, same, parts, plane, distance, nearest)
    drawn = export.run_network(folder / "decoder.onnx", inputs)
    torch.testing.assert_close(drawn["rgb"], rendered.rgb, atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn["mask"], rendered.mask, atol=1e-3, rtol=0)


def only(model: AvatarModel, names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip networks that another test exports: each takes seconds."""
    parts = export._parts(model, SIZE)
    assert names <= {part.name for part in parts}
    monkeypatch.setattr(export, "_parts", lambda *_: [part for part in parts if part.name in names])


@pytest.mark.slow
def test_the_completion_gives_the_same_from_its_file(
    head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    only(model, {"texture"}, monkeypatch)
    assert export.export_networks(model, SIZE, tmp_path)["texture"] < 1e-3
    # Other inputs than those used for tracing.
    torch.manual_seed(5)
    size = model.config.texture.size
    inputs = {
        name: torch.rand(1, n, size, size) for name, n in {"colour": 3, "visibility": 1, "hair": 1}.items()
    }
    # In double precision: the perturbed network amplifies float32 rounding to a thousandth.
    exact = copy.deepcopy(model.texture_model).double()
    expected = exact.complete(*(value.double() for value in inputs.values())).float()
    texture = export.run_network(tmp_path / "texture.onnx", inputs)["texture"]
    torch.testing.assert_close(texture, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_linear_model_gives_the_same_from_its_files(
    head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks besides the full model's: offsets from the photograph, and the driver network."""
    config = dataclasses.replace(
        small_config(kind="basis"),
        basis=BasisConfig(2, 1, "mobilenet_v3_small", SIZE),
        driver=DriverConfig("mobilenet_v3_small", SIZE),
    )
    torch.manual_seed(0)
    model = perturbed(AvatarModel(config, head)).eval().requires_grad_(False)
    assert isinstance(model.offset_network, BasisOffsets)
    model.offset_network.components.copy_(0.01 * torch.randn(model.offset_network.components.shape))
    only(model, {"offsets", "driver"}, monkeypatch)
    differences = export.export_networks(model, SIZE, tmp_path)
    assert set(differences) == {"offsets", "driver"}
    assert max(differences.values()) < 1e-3
    # A different photograph from the one used for tracing.
    photo = random_frames(head, 1, seed=5)
    inputs = {"image": photo.image, "foreground_mask": photo.foreground_mask}
    offsets = export.run_network(tmp_path / "offsets.onnx", inputs)["offsets"]
    expected = model.encode(photo).offsets
    assert expected is not None
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(offsets, expected, atol=1e-4, rtol=0)
    found = export.run_network(tmp_path / "driver.onnx", {"image": photo.image})
    params = model.estimate_driver(photo.image)
    for name in ("expression", "pose", "camera"):
        torch.testing.assert_close(found[name], getattr(params, name), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_the_encoder_of_rome_is_as_exact_as_pytorch(
    head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 its rounding alone exceeds 1e-3 (0.01 at this width), so doubles are the reference."""
    decoder = dataclasses.replace(small_config().decoder, carry=False)
    config = dataclasses.replace(small_config(), texture=TextureConfig("direct", width=8), decoder=decoder)
    model = perturbed(AvatarModel(config, head)).eval().requires_grad_(False)
    only(model, {"texture"}, monkeypatch)
    export.export_networks(model, SIZE, tmp_path)
    photo = random_frames(head, 1, seed=5)
    inputs = {"image": photo.image, "foreground_mask": photo.foreground_mask}
    texture = export.run_network(tmp_path / "texture.onnx", inputs)["texture"]
    single = model.encode(photo).texture
    exact = model.texture_model.encoder.double()(torch.cat(list(inputs.values()), dim=1).double())
    assert (texture - exact).abs().max() < 2 * (single - exact).abs().max() < 0.1
    assert (texture - exact).abs().mean() < 1e-3
    run = export.run_network
    model.texture_model.encoder.float()
    monkeypatch.setattr(
        export, "run_network", lambda path, inputs: {k: v + 0.05 for k, v in run(path, inputs).items()}
    )
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export.export_networks(model, SIZE, tmp_path)


def test_programs_run(folder: Path, model: AvatarModel) -> None:
    program = torch.export.load(str(folder / "texture.pt2")).module()
    size = model.config.texture.size
    seen = [torch.rand(1, channels, size, size) for channels in (3, 1, 1)]
    torch.testing.assert_close(program(*seen), model.texture_model.complete(*seen))


def test_offsets_that_are_fitted_come_from_no_network(head: HeadModel) -> None:
    """The networks of the shipped models."""
    fitted = AvatarModel(small_config(kind="fitted"), head).eval()
    assert [part.name for part in export._parts(fitted, SIZE)] == ["texture", "decoder"]


def test_a_file_that_differs_is_refused(
    model: AvatarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(model, {"offsets"}, monkeypatch)
    run = export.run_network
    monkeypatch.setattr(
        export, "run_network", lambda path, inputs: {k: v + 0.01 for k, v in run(path, inputs).items()}
    )
    (tmp_path / "model.json").write_text("old")
    with pytest.raises(ValueError, match=rf"{tmp_path}/offsets\.onnx differs from PyTorch"):
        export.export_networks(model, SIZE, tmp_path)
    # Files that belong together are replaced together.
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model.json", "old")]


def test_missing_packages_are_named(
    model: AvatarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match="needs onnxscript"):
        export.export_networks(model, SIZE, tmp_path)
