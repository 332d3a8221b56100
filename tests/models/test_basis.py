"""The linear basis: formulas, files and errors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import perturbed, random_frames, random_params, small_config

from rome_lightning.head import HeadModel, load_head
from rome_lightning.models import AvatarModel, BasisConfig, DriverConfig, LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.models.checkpoint import CONFIG_KEY, load_avatar
from rome_lightning.models.offsets import BasisOffsets

NUM_HAIR, NUM_NECK = 3, 2


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def make_basis(head: HeadModel, num_hair: int = NUM_HAIR, num_neck: int = NUM_NECK) -> LinearBasis:
    generator = torch.Generator().manual_seed(0)
    components = torch.zeros(num_hair + num_neck, head.num_vertices, 3)
    for names, rows in (
        (("scalp",), slice(0, num_hair)),
        (("neck", "shoulders"), slice(num_hair, num_hair + num_neck)),
    ):
        region = head.region(*names)
        count = len(components[rows])
        random = torch.randn(int(region.sum()) * 3, count, generator=generator, dtype=torch.float64)
        components[rows, region] = torch.linalg.qr(random).Q.T.float().unflatten(1, (-1, 3))
    mean = 0.005 * head.region("scalp").float()[:, None].expand(-1, 3)
    std = torch.linspace(0.2, 0.1, len(components))
    return LinearBasis(components, mean, std, num_hair, head.name, mesh_fingerprint(head))


def linear_model(head: HeadModel) -> AvatarModel:
    config = dataclasses.replace(
        small_config(kind="basis"),
        basis=BasisConfig(NUM_HAIR, NUM_NECK, "mobilenet_v3_small", 64),
        driver=DriverConfig("mobilenet_v3_small", 64),
    )
    torch.manual_seed(0)
    model = perturbed(AvatarModel(config, head)).eval().requires_grad_(False)
    assert isinstance(model.offset_network, BasisOffsets)
    model.offset_network.set_basis(make_basis(head))
    return model


def test_coefficients_are_those_of_the_pseudo_inverse(head: HeadModel) -> None:
    basis = make_basis(head)
    offsets = 0.01 * torch.randn(4, head.num_vertices, 3, generator=torch.Generator().manual_seed(1))
    columns = basis.components.flatten(1).T.double().numpy()
    wanted = np.linalg.pinv(columns) @ (offsets - basis.mean).flatten(1).T.double().numpy()
    np.testing.assert_allclose(basis.coefficients(offsets).T, wanted, atol=1e-6)


def test_coefficients_survive_the_way_to_offsets_and_back(head: HeadModel) -> None:
    basis = make_basis(head)
    given = torch.randn(3, NUM_HAIR + NUM_NECK, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(basis.coefficients(basis.offsets(given)), given, atol=1e-5, rtol=1e-5)


def test_file_round_trip(head: HeadModel, tmp_path: Path) -> None:
    basis = make_basis(head)
    basis.save(tmp_path / "b" / "basis.safetensors")
    loaded = LinearBasis.load(tmp_path / "b" / "basis.safetensors").check(head)
    assert torch.equal(loaded.components, basis.components)
    assert torch.equal(loaded.mean, basis.mean)
    assert torch.equal(loaded.std, basis.std)
    assert loaded.names == ["hair 1", "hair 2", "hair 3", "neck 1", "neck 2"]
    assert loaded.digest == basis.digest


def test_a_basis_of_another_head_is_refused(head: HeadModel) -> None:
    basis = dataclasses.replace(make_basis(head), fingerprint="0" * 64, head="flame-2020")
    with pytest.raises(ValueError, match=r"made with head flame-2020.*rome distill basis"):
        basis.check(head)


def test_damaged_files_and_components_are_refused(head: HeadModel, tmp_path: Path) -> None:
    basis = make_basis(head)
    with pytest.raises(ValueError, match="orthonormal"):
        dataclasses.replace(basis, components=basis.components * 1.01)
    path = tmp_path / "basis.safetensors"
    basis.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        LinearBasis.load(path)
    with pytest.raises(FileNotFoundError, match="rome distill basis"):
        LinearBasis.load(tmp_path / "none.safetensors")


def test_linear_model_gives_what_its_regressor_says(head: HeadModel) -> None:
    model = linear_model(head)
    frames = random_frames(head, 2)
    code = model.encode(frames)
    assert isinstance(model.offset_network, BasisOffsets)
    coefficients = model.offset_network.coefficients(frames)
    assert coefficients.abs().max() > 0
    assert code.offsets is not None
    basis = model.basis
    assert basis is not None
    torch.testing.assert_close(code.offsets, basis.offsets(coefficients), atol=1e-6, rtol=1e-5)
    # Only the vertices of the basis have moved.
    assert code.offsets[:, ~head.region("scalp", "neck", "shoulders")].abs().max() == 0


def test_linear_model_survives_its_checkpoint(head: HeadModel, tmp_path: Path) -> None:
    model = linear_model(head)
    state = {f"avatar.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "linear.ckpt"
    torch.save({"state_dict": state, CONFIG_KEY: dataclasses.asdict(model.config)}, path)
    loaded = load_avatar(path)
    frames, driver = random_frames(head, 1), random_params(head, 1, seed=1)
    with torch.no_grad():
        assert torch.equal(loaded(frames, driver).image, model(frames, driver).image)
        found, wanted = loaded.estimate_driver(frames.image), model.estimate_driver(frames.image)
    assert torch.equal(found.pose, wanted.pose)


def test_a_basis_of_another_size_is_refused(head: HeadModel) -> None:
    model = linear_model(head)
    assert isinstance(model.offset_network, BasisOffsets)
    with pytest.raises(ValueError, match=r"3 hair and 2 neck.*set avatar.basis.num_hair"):
        model.offset_network.set_basis(make_basis(head, num_hair=4))


def test_a_full_model_says_that_it_cannot_read_drivers(head: HeadModel) -> None:
    model = AvatarModel(small_config(), head)
    assert model.basis is None
    with pytest.raises(ValueError, match="use the tracker"):
        model.estimate_driver(torch.zeros(1, 3, 64, 64))
