"""The released architectures: names, shapes and numbers.

``rome_parity_small.safetensors`` holds a narrow instance of the official networks with random weights,
and what they gave on random inputs; ``rome_state_dict_keys.txt`` lists names and shapes at full width.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from rome_lightning.networks import (
    OffsetMLP,
    PatchDiscriminator,
    TextureEncoder,
    UNet,
    fold_weight_standardization,
    harmonic_encoding,
)

FOLDER = Path(__file__).parent
# Every network is the same chain of float32 operations as the original.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def fixture() -> dict[str, Tensor]:
    with safe_open(FOLDER / "rome_parity_small.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def weights(fixture: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"state_dict/{name}."
    return {key.removeprefix(prefix): value for key, value in fixture.items() if key.startswith(prefix)}


def narrow(name: str) -> nn.Module:
    return {
        "autoencoder": lambda: TextureEncoder(base_width=32, max_width=128),
        "mesh_deformer": lambda: UNet(47, 32, base_width=16, max_width=32),
        "unet": lambda: UNet(47, 4, base_width=16, max_width=32),
        "mlp_deformer": lambda: OffsetMLP(width=32),
    }[name]()


@pytest.mark.parametrize("name", ["mesh_deformer", "unet", "mlp_deformer"])
def test_outputs_equal_the_official_networks(fixture: dict[str, Tensor], name: str) -> None:
    network = narrow(name).eval()
    network.load_state_dict(weights(fixture, name), strict=True)
    with torch.no_grad():
        output = network(fixture[f"inputs/{name}"])
    torch.testing.assert_close(output, fixture[f"outputs/{name}"], rtol=0, atol=TOLERANCE)


def test_texture_encoder_equals_the_official_network(fixture: dict[str, Tensor]) -> None:
    network = narrow("autoencoder").eval()
    network.load_state_dict(weights(fixture, "autoencoder"), strict=True)
    inputs, expected = fixture["inputs/autoencoder"], fixture["outputs/autoencoder"]
    with torch.no_grad():
        output = network(inputs)
        exact = network.double()(inputs.double()).float()
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        torch.testing.assert_close(output, expected, rtol=0, atol=TOLERANCE)
    # With these random weights the network amplifies float32 round-off to some 5e-3 (the distance to
    # float64), so a processor with other vector instructions sums to slightly different numbers.
    round_off = (output - exact).abs().max()
    assert round_off < 1e-2
    assert (output - expected).abs().max() <= max(TOLERANCE, 2 * round_off)


def test_discriminator_equals_the_official_network(fixture: dict[str, Tensor]) -> None:
    network = PatchDiscriminator(base_width=8, max_width=32, spectral_norm=False)
    network.load_state_dict(weights(fixture, "discriminator.net_0032"), strict=True)
    with torch.no_grad():
        scores, features = network(fixture["inputs/discriminator"])
    torch.testing.assert_close(scores, fixture["outputs/discriminator"], rtol=0, atol=TOLERANCE)
    assert len(features) == 4
    for index, feature in enumerate(features):
        expected = fixture[f"outputs/discriminator_features/{index}"]
        torch.testing.assert_close(feature, expected, rtol=0, atol=TOLERANCE)


def test_harmonic_encoding_equals_the_official_one(fixture: dict[str, Tensor]) -> None:
    encoded = harmonic_encoding(fixture["harmonic_encoding/input"])
    torch.testing.assert_close(encoded, fixture["harmonic_encoding/output"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["mesh_deformer", "unet"])
def test_folded_networks_equal_the_official_ones(fixture: dict[str, Tensor], name: str) -> None:
    network = narrow(name).eval()
    network.load_state_dict(weights(fixture, name), strict=True)
    with torch.no_grad():
        output = fold_weight_standardization(network)(fixture[f"inputs/{name}"])
    torch.testing.assert_close(output, fixture[f"outputs/{name}"], rtol=0, atol=TOLERANCE)


def test_names_and_shapes_at_full_width() -> None:
    with torch.device("meta"):
        networks = {
            "autoencoder": TextureEncoder(),
            "mesh_deformer": UNet(47, 32),
            "mlp_deformer": OffsetMLP(),
            "unet": UNet(47, 4),
            "discriminator.net_0256": PatchDiscriminator(spectral_norm=False),
        }
    ours = [
        f"{name}.{key} {tuple(value.shape)}"
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    ]
    assert ours == (FOLDER / "rome_state_dict_keys.txt").read_text().splitlines()
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert sizes == {
        "autoencoder": 40_440_328,
        "mesh_deformer": 14_782_176,
        "mlp_deformer": 491_264,
        "unet": 14_780_356,
        "discriminator.net_0256": 1_552_449,
    }
