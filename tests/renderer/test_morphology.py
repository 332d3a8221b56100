"""Dilation, erosion and opening against pooling and SciPy."""

import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from rome_lightning.renderer.morphology import dilate, erode, opened


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("reach", [0, 1, 2, 3, 7, 12])
def test_morphology_is_that_of_other_libraries(reach: int, needs_gradient: bool) -> None:
    image = torch.rand(2, 3, 21, 34, generator=torch.Generator().manual_seed(0)) - 0.5
    image.requires_grad_(needs_gradient)
    side = 2 * reach + 1
    assert torch.equal(dilate(image, reach), F.max_pool2d(image, side, stride=1, padding=reach))
    assert torch.equal(erode(image, reach), -F.max_pool2d(-image, side, stride=1, padding=reach))
    values = image.detach().numpy()
    wanted = ndimage.grey_dilation(
        ndimage.grey_erosion(values, size=(1, 1, side, side), mode="constant", cval=torch.inf),
        size=(1, 1, side, side), mode="constant", cval=-torch.inf,
    )  # fmt: skip
    assert torch.equal(opened(image, reach), torch.from_numpy(wanted))


def test_gradients_go_to_the_largest_values() -> None:
    image = torch.tensor([[[[0.0, 3.0, 1.0, 2.0]]]], requires_grad=True)
    dilate(image, 1).sum().backward()
    assert image.grad is not None
    assert image.grad.flatten().tolist() == [0.0, 3.0, 0.0, 1.0]
