"""Transfer of a basis to heads with a known relation to the first."""

import dataclasses

import pytest
import torch

from rome_lightning.distillation.transfer import transfer_basis, transfer_offsets
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.head import HeadModel, LandmarkEmbedding
from rome_lightning.head.data import REGIONS, HeadData
from rome_lightning.models import LinearBasis
from rome_lightning.models.basis import mesh_fingerprint

SIDE, NUM_HAIR, NUM_NECK = 16, 3, 2
SCALE, SHIFT = 1.3, torch.tensor([0.1, -0.2, 0.05])
ROTATION = axis_angle_to_matrix(torch.tensor([[0.3, -0.2, 0.5]]))[0]


def make_data() -> HeadData:
    """A bumpy sheet in bands of regions."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1).view(-1, 2)
    template = torch.cat([0.01 * grid, 0.005 * torch.rand(len(grid), 1, generator=generator)], dim=1)
    corner = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    first, second, third, fourth = corner[:-1, :-1], corner[1:, :-1], corner[:-1, 1:], corner[1:, 1:]
    faces = torch.cat(
        [
            torch.stack([first, second, third], -1).view(-1, 3),
            torch.stack([second, fourth, third], -1).view(-1, 3),
        ]
    )
    band = grid[:, 0] * len(REGIONS) // SIDE
    places = torch.arange(0, len(faces), len(faces) // 68)[:68]
    return HeadData(
        name="sheet",
        template=template,
        shape_basis=torch.zeros(len(grid), 3, 1),
        expression_basis=torch.zeros(len(grid), 3, 1),
        expression_names=("jawOpen",),
        joints=torch.zeros(5, 3),
        joint_basis=torch.zeros(5, 3, 2),
        skinning_weights=torch.eye(5)[torch.zeros(len(grid), dtype=torch.long)],
        faces=faces,
        uvs=torch.rand(len(grid), 2, generator=generator),
        uv_faces=faces,
        regions={name: band == i for i, name in enumerate(REGIONS)},
        landmarks={"ibug68": LandmarkEmbedding(places, torch.full((68, 3), 1 / 3))},
    )


def make_basis(head: HeadModel) -> LinearBasis:
    generator = torch.Generator().manual_seed(1)
    components = torch.zeros(NUM_HAIR + NUM_NECK, head.num_vertices, 3)
    for names, rows in ((("scalp",), slice(0, 3)), (("neck", "shoulders"), slice(3, 5))):
        region = head.region(*names)
        random = torch.randn(3 * int(region.sum()), len(components[rows]), generator=generator)
        components[rows, region] = torch.linalg.qr(random).Q.T.unflatten(1, (-1, 3))
    mean = (
        0.01
        * head.region("scalp", "neck").float()[:, None]
        * torch.rand(head.num_vertices, 3, generator=generator)
    )
    std = torch.tensor([0.3, 0.2, 0.1, 0.25, 0.15])
    return LinearBasis(components, mean, std, NUM_HAIR, head.name, mesh_fingerprint(head))


def test_a_turned_scaled_and_renumbered_head_gets_the_same_hair() -> None:
    data = make_data()
    source = HeadModel(data)
    order = torch.randperm(source.num_vertices, generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    moved = dataclasses.replace(
        data,
        name="moved",
        template=(SCALE * data.template @ ROTATION.T + SHIFT)[order],
        faces=place[data.faces],
        uv_faces=place[data.uv_faces],
        uvs=data.uvs[order],
        regions={name: mask[order] for name, mask in data.regions.items()},
    )
    basis, target = make_basis(source), HeadModel(moved)
    carried = transfer_basis(basis, source, target).check(target)

    def on_target(offsets: torch.Tensor) -> torch.Tensor:
        return SCALE * (offsets @ ROTATION.T)[..., order, :]

    torch.testing.assert_close(carried.mean, on_target(basis.mean), atol=1e-5, rtol=0)
    # Orthogonal components and their standard deviations are kept, up to scale and signs.
    torch.testing.assert_close(carried.std, SCALE * basis.std[[0, 1, 2, 3, 4]], atol=1e-5, rtol=1e-4)
    alike = (carried.components * on_target(basis.components) / SCALE).sum((1, 2)).abs()
    torch.testing.assert_close(alike, torch.ones(5), atol=1e-4, rtol=0)
    assert carried.provenance["transferred_from"] == "sheet"
    one = basis.mean + 0.1 * basis.components[3]
    torch.testing.assert_close(transfer_offsets(one, source, target), on_target(one), atol=1e-5, rtol=0)


def test_hair_stays_hair_on_a_coarser_head() -> None:
    data = make_data()
    source = HeadModel(data)
    generator = torch.Generator().manual_seed(3)
    jittered = dataclasses.replace(
        data,
        name="other",
        template=data.template + 0.002 * torch.rand(data.template.shape, generator=generator),
    )
    target = HeadModel(jittered)
    carried = transfer_basis(make_basis(source), source, target)
    assert carried.components[:NUM_HAIR][:, ~target.region("scalp")].abs().max() == 0
    assert carried.components[NUM_HAIR:][:, target.region("scalp", "face")].abs().max() == 0


def test_heads_without_landmarks_are_refused() -> None:
    data = make_data()
    source, target = HeadModel(data), HeadModel(dataclasses.replace(data, landmarks={}))
    with pytest.raises(ValueError, match="registered by their 68 landmarks"):
        transfer_basis(make_basis(source), source, target)
