import math

import pytest
import torch

from rome_lightning.losses import chamfer_2d


def full_visibility(vertices: torch.Tensor) -> torch.Tensor:
    return torch.ones(vertices.shape[:2], dtype=torch.bool)


def grid_mask(size: int = 8) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., 2:5, 3:7] = 1
    return mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("squared", [False, True])
def test_one_pixel_mask_against_loops(squared: bool) -> None:
    # With one pixel in the mask every sampled point is known, whatever the generator.
    height, width = 10, 20
    mask = torch.zeros(2, 1, height, width)
    mask[0, 0, 4, 7] = 1
    mask[1, 0, 0, 19] = 1
    points = [(7.0, 4.0), (19.0, 0.0)]
    vertices = torch.rand(2, 6, 3, generator=seeded(), dtype=torch.float64) * 10
    visible = torch.tensor([[True, True, False, True, False, False], [False, True, True, True, True, True]])
    expected = 0.0
    for b in range(2):
        distances = []
        for v in range(6):
            if visible[b, v]:
                dx = (vertices[b, v, 0].item() - points[b][0]) * 2 / width
                dy = (vertices[b, v, 1].item() - points[b][1]) * 2 / height
                distances.append(dx * dx + dy * dy if squared else math.hypot(dx, dy))
        expected += 0.5 * sum(distances) / len(distances) + 0.5 * min(distances)
    loss = chamfer_2d(vertices, visible, mask.double(), squared=squared, generator=seeded(5))
    assert loss.item() == pytest.approx(expected / 2)


def test_against_loops_over_the_drawn_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from rome_lightning.losses import chamfer

    drawn = []
    original = chamfer._draw_pixels

    def spy(*args: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.append(original(*args))
        return drawn[-1]

    monkeypatch.setattr(chamfer, "_draw_pixels", spy)
    vertices = torch.rand(1, 9, 2, generator=seeded(), dtype=torch.float64) * 8
    loss = chamfer_2d(vertices, full_visibility(vertices), grid_mask().double(), generator=seeded(3))
    pixels = drawn[0][0][0].tolist()
    p = [(x / 4, y / 4) for x, y in vertices[0].tolist()]
    q = [((i % 8) / 4, (i // 8) / 4) for i in pixels]
    assert len(p) == len(q) == 9
    there = sum(min(math.dist(a, b) for b in q) for a in p) / 9
    back = sum(min(math.dist(a, b) for a in p) for b in q) / 9
    assert loss.item() == pytest.approx((there + back) / 2)


def test_draws_fall_into_the_mask_uniformly() -> None:
    from rome_lightning.losses.chamfer import _draw_pixels

    mask = grid_mask()
    draws = torch.rand(1, 24_000, generator=seeded())
    pixels, filled = _draw_pixels(mask, draws)
    assert filled.all()
    assert (mask.flatten()[pixels] == 1).all()
    counts = pixels[0].bincount(minlength=64)[mask.flatten() == 1]
    # 12 pixels, 2000 draws each expected; five standard deviations are about 215.
    assert (counts - 2000).abs().max() < 215
    # The largest float32 below 1 still selects the last pixel.
    last, _ = _draw_pixels(mask, torch.tensor([[1 - 2**-24, 0.0]]))
    assert last[0].tolist() == [4 * 8 + 6, 2 * 8 + 3]


def test_empty_masks_and_hidden_vertices_give_zero() -> None:
    vertices = torch.rand(3, 5, 2, generator=seeded()).mul(8).requires_grad_()
    mask = grid_mask().repeat(3, 1, 1, 1)
    mask[0] = 0
    visible = full_visibility(vertices).clone()
    visible[1] = False
    loss = chamfer_2d(vertices, visible, mask, generator=seeded())
    loss.backward()
    assert vertices.grad is not None
    assert torch.isfinite(vertices.grad).all()
    assert not vertices.grad[:2].any()
    assert vertices.grad[2].any()
    assert chamfer_2d(vertices[:1], visible[:1], mask[:1]).item() == 0


def test_deterministic_with_a_generator_and_independent_of_resolution() -> None:
    vertices = torch.rand(2, 50, 2, generator=seeded()) * 8
    mask = grid_mask().repeat(2, 1, 1, 1)
    visible = full_visibility(vertices)
    first = chamfer_2d(vertices, visible, mask, max_points=16, generator=seeded(1))
    assert first == chamfer_2d(vertices, visible, mask, max_points=16, generator=seeded(1))
    assert first != chamfer_2d(vertices, visible, mask, max_points=16, generator=seeded(2))
    large = mask.repeat_interleave(16, 2).repeat_interleave(16, 3)
    many = chamfer_2d(vertices.repeat(1, 20, 1), visible.repeat(1, 20), mask, generator=seeded(1))
    scaled = (vertices.repeat(1, 20, 1) + 0.5) * 16 - 0.5
    finer = chamfer_2d(scaled, visible.repeat(1, 20), large, generator=seeded(1))
    # Pixels of the coarse mask are 0.25 wide, its points up to 0.18 from those of the fine one.
    assert abs(many - finer) < 0.1


def test_gradient_pulls_vertices_to_the_mask() -> None:
    vertices = torch.rand(1, 64, 2, generator=seeded()).mul(8).requires_grad_()
    mask, generator = grid_mask(), seeded(1)
    optimizer = torch.optim.Adam([vertices], lr=0.1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = chamfer_2d(vertices, full_visibility(vertices), mask, generator=generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert vertices[..., 0].min() > 2
    assert vertices[..., 0].max() < 7


@pytest.mark.gradcheck
@pytest.mark.parametrize("squared", [False, True])
def test_gradient(squared: bool) -> None:
    vertices = (torch.rand(2, 6, 2, generator=seeded(), dtype=torch.float64) * 8).requires_grad_()
    mask = grid_mask().double().repeat(2, 1, 1, 1)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return chamfer_2d(x, full_visibility(x), mask, squared=squared, generator=seeded(4))

    assert torch.autograd.gradcheck(loss, (vertices,))


def test_a_vertex_on_its_point_has_a_finite_gradient() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 2] = 1
    vertices = torch.tensor([[[2.0, 1.0]]], requires_grad=True)
    loss = chamfer_2d(vertices, full_visibility(vertices), mask)
    loss.backward()
    assert loss.item() == 0
    assert vertices.grad is not None
    assert torch.isfinite(vertices.grad).all()
