"""The released architectures: names, shapes and numbers.

``rome_parity_small.safetensors`` holds a narrow instance of the official networks with random weights,
and their results on random inputs; ``rome_state_dict_keys.txt`` lists names and shapes at full width.
"""

import copy
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


def assert_official(network: nn.Module, inputs: Tensor, expected: Tensor) -> None:
    """Compare with the official output, within float32 rounding.

    With these random weights the networks amplify rounding (E_tex to 5e-3, the distance to float64), so
    a processor with other vector instructions than the fixture's computes slightly different numbers.
    """
    with torch.no_grad():
        output = network(inputs)
        round_off = (output - copy.deepcopy(network).double()(inputs.double())).abs().max()
    error = (output - expected).abs().max()
    assert round_off < 1e-2
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert error <= TOLERANCE
    assert error <= torch.clamp(2 * round_off, min=TOLERANCE)


@pytest.mark.parametrize("name", ["autoencoder", "mesh_deformer", "unet", "mlp_deformer"])
def test_outputs_equal_the_official_networks(fixture: dict[str, Tensor], name: str) -> None:
    network = narrow(name).eval()
    network.load_state_dict(weights(fixture, name), strict=True)
    assert_official(network, fixture[f"inputs/{name}"], fixture[f"outputs/{name}"])
    if name in ("autoencoder", "mesh_deformer", "unet"):
        folded = fold_weight_standardization(network)
        assert_official(folded, fixture[f"inputs/{name}"], fixture[f"outputs/{name}"])


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
