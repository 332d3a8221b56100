"""The canvas of a photograph: what continues beyond its border."""

import torch

from rome_lightning.models.photo_canvas import (
    HAIR,
    KNOWN,
    MATTE,
    NUM_STORED,
    RGB,
    crop_of,
    sampled_beyond,
    to_canvas,
    widened,
)

SIDE = 128


def coat() -> torch.Tensor:
    """A crop that shows nothing but clothes, with fine stripes along rows and columns."""
    layers = torch.zeros(1, NUM_STORED, SIDE, SIDE)
    layers[:, MATTE], layers[:, KNOWN] = 1, 1
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    layers[:, RGB] = 0.4 + 0.1 * (rows % 3 == 0) + 0.1 * (columns % 4 == 0)
    return layers


def test_positions_in_the_crop_are_kept() -> None:
    layers = torch.rand(1, NUM_STORED, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    layers[:, KNOWN] = 1
    canvas = widened(layers)
    assert torch.equal(crop_of(canvas)[:, RGB], layers[:, RGB])
    centres = (torch.arange(SIDE) + 0.5) / SIDE
    place = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))[None, None]
    found = sampled_beyond(canvas, to_canvas(place, canvas[:, None])[0].permute(0, 2, 3, 1))[0]
    torch.testing.assert_close(found[:, RGB], layers[:, RGB], atol=1e-4, rtol=0)


def test_clothes_are_mirrored_at_the_border_and_do_not_become_streaks() -> None:
    layers = coat()
    canvas = widened(layers)
    band = canvas.shape[-1] - canvas.shape[-2]
    assert band == round(0.15 * SIDE)
    below = canvas[0, RGB, SIDE:, band:-band]
    mirrored = layers[0, RGB, -band - 1 : -1].flip(1)
    # Less with the distance.
    torch.testing.assert_close(below[:, :4], mirrored[:, :4], atol=0.03, rtol=0)
    # Rows differ, as in the photograph; repeated pixels would not.
    assert below[:, :6].std(1).mean() > 0.6 * layers[0, RGB, -6:].std(1).mean()
    # Columns do not become streaks.
    assert below[:, -4:].std(-1).mean() < 0.5 * layers[0, RGB, -4:].std(-1).mean()


def test_what_is_not_alike_is_not_mirrored() -> None:
    """A neck above a collar, and another garment: the border's own colour continues, and blurs."""
    for channel, value in ((HAIR, 1.0), (RGB, 0.9)):
        layers = coat()
        layers[:, channel, : -SIDE // 16] = value
        layers[:, RGB, : -SIDE // 16] = 0.9
        canvas = widened(layers)
        band = canvas.shape[-1] - canvas.shape[-2]
        below = canvas[0, RGB, -4:, band + 20 : -band - 20]
        assert below.max() < 0.62
        # Stripes of the border have faded.
        assert below.std(-1).max() < 0.5 * layers[0, RGB, -1].std(-1).max()
