"""FLAME joined with a basis, opened by other software."""

import dataclasses
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from flame_files import chumpy, flame_arrays, flame_path  # noqa: F401

from rome_lightning.cli.main import main
from rome_lightning.export.flame_basis import join_flame
from rome_lightning.head import HeadModel, load_head
from rome_lightning.models import LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.types import HeadParams

NUM_HAIR, NUM_NECK = 3, 2


def make_basis(head: HeadModel) -> LinearBasis:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(head.num_vertices * 3, NUM_HAIR + NUM_NECK, generator=generator, dtype=torch.float64)
    components = torch.linalg.qr(random).Q.T.float().unflatten(1, (-1, 3)).contiguous()
    mean = 0.01 * torch.randn(head.num_vertices, 3, generator=generator)
    std = torch.linspace(0.3, 0.1, NUM_HAIR + NUM_NECK)
    return LinearBasis(components, mean, std, NUM_HAIR, head.name, mesh_fingerprint(head))


def load_with_smplx(joined: Path, folder: Path, num_betas: int, num_expression: int) -> torch.nn.Module:
    smplx = pytest.importorskip("smplx")
    (folder / "FLAME_NEUTRAL.pkl").write_bytes(joined.read_bytes())
    landmarks = {"lmk_face_idx": np.arange(51, dtype=np.uint32), "lmk_b_coords": np.full((51, 3), 1 / 3)}
    (folder / "flame_static_embedding.pkl").write_bytes(pickle.dumps(landmarks))
    return smplx.FLAME(
        str(folder),
        num_betas=num_betas,
        num_expression_coeffs=num_expression,
        use_face_contour=False,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("place", ["end", "identity"])
def test_smplx_shows_the_basis(flame_path: Path, tmp_path: Path, place: str) -> None:  # noqa: F811
    head = load_head(flame_path)
    basis = make_basis(head)
    where = join_flame(flame_path, basis, tmp_path / "joined.pkl", place)  # type: ignore[arg-type]
    amounts = torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    generator = torch.Generator().manual_seed(2)
    params = dataclasses.replace(
        params,
        shape=torch.randn(1, head.num_shape, generator=generator),
        expression=torch.randn(1, head.num_expression, generator=generator),
    )
    wanted = head(params) + basis.offsets(amounts * basis.std)

    betas, expression = torch.zeros(1, 300), torch.zeros(1, 100 + (5 if place == "end" else 0))
    betas[:, : head.num_shape] = params.shape
    expression[:, : head.num_expression] = params.expression
    if place == "end":
        assert list(where) == list(range(400, 405))
        expression[:, 100:] = amounts
    else:
        assert list(where) == list(range(295, 300))
        betas[:, 295:] = amounts
    model = load_with_smplx(tmp_path / "joined.pkl", tmp_path, 300, expression.shape[1])
    found = model(betas=betas.double(), expression=expression.double()).vertices
    # Our single precision against its double precision.
    torch.testing.assert_close(found.float(), wanted, atol=2e-6, rtol=0)


def test_our_reader_opens_what_replaces_identity(flame_path: Path, tmp_path: Path) -> None:  # noqa: F811
    basis = make_basis(load_head(flame_path))
    join_flame(flame_path, basis, tmp_path / "joined.pkl", "identity")
    from rome_lightning.head.flame import load_flame

    head = load_flame(tmp_path / "joined.pkl", num_shape=300)
    assert head.num_shape == 300
    assert head.num_vertices == basis.components.shape[1]


def test_command(
    flame_path: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_basis(load_head(flame_path)).save(tmp_path / "basis.safetensors")
    arguments = ["distill", "join", str(tmp_path / "basis.safetensors"), f"--flame={flame_path}"]
    assert main([*arguments, f"--output={tmp_path / 'joined.pkl'}", "--place=identity"]) == 0
    assert "shapedirs 295 to 299" in capsys.readouterr().out
    assert (tmp_path / "joined.pkl").is_file()
    # Registration needs landmarks, and this FLAME has no landmark file.
    output = f"--output={tmp_path / 'carried.safetensors'}"
    basis = str(tmp_path / "basis.safetensors")
    assert main(["distill", "transfer", basis, f"--source={flame_path}", "--target=open", output]) == 1
    assert "registered by their 68 landmarks" in capsys.readouterr().err


def test_any_numpy_can_read_the_file(flame_path: Path, tmp_path: Path) -> None:  # noqa: F811
    join_flame(flame_path, make_basis(load_head(flame_path)), tmp_path / "joined.pkl")
    data = (tmp_path / "joined.pkl").read_bytes()
    assert b"numpy._core" not in data
    assert b"chumpy" not in data
    content = pickle.load(io.BytesIO(data), encoding="latin1")
    assert content["shapedirs"].shape[-1] == 405


def test_a_basis_of_another_mesh_is_refused(flame_path: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"of 6109 vertices.*distil a model"):
        join_flame(flame_path, make_basis(load_head("open")), tmp_path / "joined.pkl")
