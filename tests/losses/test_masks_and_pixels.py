import pytest
import torch
from torch.autograd import gradcheck

from rome_lightning.losses import (
    dice,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    occupancy,
    photometric,
)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_occupancy_against_a_loop() -> None:
    a, b = images(2, 1, 3, 4), images(2, 1, 3, 4, seed=1)
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    assert occupancy(a, b).item() == pytest.approx(sum((x - y) ** 2 for x, y in pairs) / len(pairs))
    assert occupancy(a, a) == 0


def test_dice_against_a_loop() -> None:
    a, b = images(3, 1, 4, 4), images(3, 1, 4, 4, seed=1)
    expected = 0.0
    for i in range(3):
        x, y = a[i].flatten().tolist(), b[i].flatten().tolist()
        overlap = sum(p * q for p, q in zip(x, y, strict=True))
        expected += 1 - 2 * overlap / (sum(p * p for p in x) + sum(q * q for q in y))
    assert dice(a, b).item() == pytest.approx(expected / 3, abs=1e-6)


def test_dice_at_its_ends() -> None:
    left = torch.zeros(1, 1, 2, 2)
    left[..., 0] = 1
    assert dice(left, left).item() == pytest.approx(0, abs=1e-6)
    assert dice(left, 1 - left).item() == pytest.approx(1, abs=1e-6)
    empty = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = dice(empty, torch.zeros(1, 1, 2, 2))
    loss.backward()
    assert loss.item() == 0
    assert empty.grad is not None
    assert torch.isfinite(empty.grad).all()


def test_dice_of_a_batch_is_the_mean_of_its_samples() -> None:
    a, b = images(2, 1, 4, 4), images(2, 1, 4, 4, seed=1)
    each = [dice(a[i : i + 1], b[i : i + 1]).item() for i in range(2)]
    assert dice(a, b).item() == pytest.approx(sum(each) / 2)


def test_photometric_against_a_loop() -> None:
    a, b, w = images(2, 3, 2, 3), images(2, 3, 2, 3, seed=1), images(2, 1, 2, 3, seed=2)
    expected = 0.0
    for i in range(2):
        top = bottom = 0.0
        for c in range(3):
            for y in range(2):
                for x in range(3):
                    top += float(w[i, 0, y, x] * abs(a[i, c, y, x] - b[i, c, y, x]))
                    bottom += float(w[i, 0, y, x])
        expected += top / bottom / 2
    assert photometric(a, b, w).item() == pytest.approx(expected)
    assert photometric(a, b, 5 * w).item() == pytest.approx(expected)
    assert photometric(a, b).item() == pytest.approx(photometric(a, b, torch.ones_like(w)).item())
    assert photometric(a, b, torch.zeros_like(w)) == 0


def test_hinge_losses() -> None:
    real = torch.tensor([2.0, 0.5, -1.0]).view(3, 1, 1, 1)
    fake = torch.tensor([-2.0, 0.5, 1.0]).view(3, 1, 1, 1)
    assert hinge_discriminator(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1.5 + 2) / 3)
    assert hinge_generator(fake).item() == pytest.approx(0.5 / 3)
    # Beyond the margin the loss is 0.
    assert hinge_discriminator(torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -3.0)) == 0


def test_feature_matching() -> None:
    real = [torch.zeros(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 4, 1, 1)]
    fake = [torch.full((1, 2, 2, 2), 1.0, requires_grad=True), torch.full((1, 4, 1, 1), -3.0)]
    loss = feature_matching(real, fake)
    assert loss.item() == pytest.approx((1 + 3) / 2)
    loss.backward()
    assert real[0].grad is None
    assert fake[0].grad is not None


@pytest.mark.gradcheck
def test_gradients() -> None:
    a, b = images(2, 1, 3, 3).requires_grad_(), images(2, 1, 3, 3, seed=1)
    weight = images(2, 1, 3, 3, seed=2)
    assert gradcheck(lambda x: occupancy(x, b), (a,))
    assert gradcheck(lambda x: dice(x, b), (a,))
    assert gradcheck(lambda x: photometric(x, b, weight), (a,))
