import pytest
import torch

from rome_lightning.networks.compact_unet import CompactUNet


@pytest.mark.parametrize("downsampling", ["max", "average", "stride"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_keeps_resolution_and_every_parameter_learns(downsampling: str, upsampling: str) -> None:
    torch.manual_seed(0)
    network = CompactUNet(5, 3, base_width=6, num_levels=3, downsampling=downsampling, upsampling=upsampling)
    output = network(torch.randn(2, 5, 16, 24))
    assert output.shape == (2, 3, 16, 24)
    output.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_items_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    network = CompactUNet(4, 2, base_width=8, num_levels=3).eval()
    images = torch.randn(3, 4, 16, 16)
    together = network(images)
    apart = torch.cat([network(image[None]) for image in images])
    # Only the order of summation inside the convolutions differs.
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_the_coarsest_level_sees_the_whole_image() -> None:
    torch.manual_seed(0)
    network = CompactUNet(1, 1, base_width=8, num_levels=4)
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    network(image)[0, 0, 0, 0].backward()
    assert image.grad is not None
    assert image.grad[0, 0, 24:, 24:].abs().max() > 0


def test_fits_an_image() -> None:
    torch.manual_seed(0)
    network = CompactUNet(3, 3, base_width=4, num_levels=3)
    source, target = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (network(source) - target).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_sizes_of_the_demonstration_networks() -> None:
    def count(network: CompactUNet) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert 450_000 < count(CompactUNet(4, 8, base_width=16)) < 600_000
    assert 400_000 < count(CompactUNet(36, 4, base_width=20, max_width=80)) < 520_000


@pytest.mark.parametrize(
    ("option", "choices"), [("downsampling", "average"), ("upsampling", "bilinear"), ("activation", "silu")]
)
def test_unknown_choices(option: str, choices: str) -> None:
    # A TypeError when the suite runs with shape and type checks switched on.
    with pytest.raises((ValueError, TypeError), match=choices):
        CompactUNet(1, 1, **{option: "other"})  # type: ignore[arg-type]


def test_errors() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        CompactUNet(1, 1)(torch.zeros(1, 1, 20, 16))
    with pytest.raises(ValueError, match="num_levels"):
        CompactUNet(1, 1, num_levels=0)
