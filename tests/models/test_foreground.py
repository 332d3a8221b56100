"""Foreground colours, against images composited from known colours."""

import torch

from rome_lightning.models.foreground import foreground_colour


def soft_disc(size: int = 64) -> torch.Tensor:
    """Opacity of a disc with a border of eight pixels, (1, 1, s, s)."""
    line = torch.arange(size) - (size - 1) / 2
    radius = (line[:, None].square() + line.square()).sqrt()
    return ((size / 4 + 4 - radius) / 8).clamp(0, 1)[None, None]


def test_the_background_has_no_share_in_the_persons_colours() -> None:
    matte = soft_disc()
    skin = torch.tensor([0.8, 0.5, 0.4]).view(1, 3, 1, 1)
    for background in ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0]):
        image = torch.lerp(torch.tensor(background).view(1, 3, 1, 1), skin, matte)
        colour = foreground_colour(image, matte)
        assert (image - skin).abs()[(matte > 0.3).expand_as(image)].max() > 0.4
        # The image where it is opaque, its extension elsewhere.
        assert (colour - skin).abs().max() < 0.06


def test_an_opaque_picture_stays_as_it_is() -> None:
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(foreground_colour(image, torch.ones(2, 1, 32, 32)), image)
