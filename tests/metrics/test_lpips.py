import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rome_lightning.assets import resolve
from rome_lightning.metrics import LPIPS, feature_extractor, load_lpips, lpips, lpips_distance, lpips_features
from rome_lightning.metrics.alexnet import AlexFeatures

ALEX_SHAPES = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with the real shapes and random weights, in the asset's layout."""
    generator = np.random.default_rng(0)
    layers = {
        f"Conv_{index}": {
            "kernel": generator.normal(size=shape, scale=(2 / np.prod(shape[:3])) ** 0.5).astype(np.float32),
            "bias": generator.normal(size=shape[3], scale=0.1).astype(np.float32),
        }
        for index, shape in enumerate(ALEX_SHAPES)
    }
    path = tmp_path_factory.mktemp("weights") / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": layers}, protocol=4))
    return path


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def by_definition(file: Path, a: torch.Tensor, b: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """AlexNet layer by layer from the file, and the distance of Zhang et al., eq. 1."""
    layers = pickle.loads(file.read_bytes())["AlexNet_0"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    strides, paddings, pools = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False)
    heads = [network.state_dict()[f"lin{index}.model.1.weight"] for index in range(5)]
    total = torch.zeros(len(a))
    x, y = [(image - mean.view(3, 1, 1)) / std.view(3, 1, 1) for image in (a, b)]
    for index in range(5):
        kernel = torch.from_numpy(layers[f"Conv_{index}"]["kernel"]).permute(3, 2, 0, 1)
        bias = torch.from_numpy(layers[f"Conv_{index}"]["bias"])
        features = []
        for image in (x, y):
            image = F.max_pool2d(image, 3, 2) if pools[index] else image
            features.append(F.conv2d(image, kernel, bias, strides[index], paddings[index]).relu())
        x, y = features
        difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
        total += (difference * heads[index]).sum(1).mean((1, 2))
    return total


def test_backbone_comes_from_the_file(alexnet_file: Path) -> None:
    network = load_lpips("alex", alexnet_file)
    a, b = images(2, 0), images(2, 1)
    expected = by_definition(alexnet_file, a, b, network)
    assert expected.min() > 0.01
    # The package rounds ImageNet's mean to two digits on [-1, 1].
    torch.testing.assert_close(lpips(network, a, b), expected, rtol=2e-2, atol=1e-4)
    assert lpips(network, a, a).abs().max() == 0


def test_unequal_batches_give_the_same_as_one(alexnet_file: Path) -> None:
    a, b = images(3, 0), images(3, 1)
    whole, parts = LPIPS("alex", alexnet_file), LPIPS("alex", alexnet_file)
    whole.update(a, b)
    parts.update(a[:1], b[:1])
    parts.update(a[1:], b[1:])
    torch.testing.assert_close(whole.compute(), parts.compute())
    assert not whole.state_dict()
    assert not list(whole.parameters())
    assert not LPIPS.higher_is_better


def test_building_leaves_the_random_numbers_alone(alexnet_file: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_lpips("alex", alexnet_file)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_network(alexnet_file: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="squeeze"):
        load_lpips("resnet", alexnet_file)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "asset", "expected"), [("alex", "lpips_alexnet", 0.1186)])
def test_true_weights_if_cached(net: str, asset: str, expected: float) -> None:
    try:
        path = resolve(asset, allow_download=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    network = load_lpips(net, path)  # type: ignore[arg-type]
    assert network.state_dict()["net.slice1.0.weight"].flatten()[0].item() == pytest.approx(
        expected, abs=1e-4
    )


def test_squeezenet_backbone_comes_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with the package's own network with the same random weights."""
    import lpips as package

    from rome_lightning.pretrained import quality

    with torch.random.fork_rng(), warnings.catch_warnings():
        # The package uses a deprecated torchvision argument.
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        theirs = package.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    convolutions = [m for m in theirs.net.modules() if isinstance(m, nn.Conv2d)]
    # torchvision's layer order: the first convolution, then squeeze and two expansions per block.
    names = ["features.0"]
    for block in (3, 4, 6, 7, 9, 10, 11, 12):
        names += [f"features.{block}.{part}" for part in ("squeeze", "expand1x1", "expand3x3")]
    state = {}
    for name, convolution in zip(names, convolutions, strict=True):
        state |= {f"{name}.weight": convolution.weight.data, f"{name}.bias": convolution.bias.data}
    path = tmp_path / "squeezenet.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="of torchvision has b8a52dc0"):
        load_lpips("squeeze", path)
    monkeypatch.setattr(quality, "SQUEEZENET_HASH", "")
    a, b = images(2, 0), images(2, 1)
    with torch.no_grad():
        expected = theirs(a, b, normalize=True).flatten()
    network = load_lpips("squeeze", path)
    torch.testing.assert_close(lpips(network, a, b), expected)
    features_of = feature_extractor(network)
    assert not isinstance(features_of, AlexFeatures)
    torch.testing.assert_close(lpips_distance(network, features_of(a), features_of(b)), expected)


def test_features_give_the_packages_values(alexnet_file: Path) -> None:
    network = load_lpips("alex", alexnet_file)
    one, several = images(1, 2), images(3, 3)
    features = lpips_features(network, one), lpips_features(network, several)
    # The package itself, on copies of the single image.
    expected = network(one.expand(3, -1, -1, -1), several, normalize=True).flatten()
    torch.testing.assert_close(lpips_distance(network, *features), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, (64, 64)), (6, (100, 131)), (4, (256, 256))])
def test_fast_features_are_the_packages(alexnet_file: Path, count: int, size: tuple[int, int]) -> None:
    network = load_lpips("alex", alexnet_file)
    a, b = torch.rand(2, count, 3, *size, generator=torch.Generator().manual_seed(4))
    features_of = feature_extractor(network)
    assert isinstance(features_of, AlexFeatures)
    ours = features_of(a), features_of(b)
    for layer, wanted in zip(ours[0], lpips_features(network, a), strict=True):
        assert layer.shape == wanted.shape
        assert (layer - wanted).abs().max() < 2e-5
    # An image's features do not depend on the others of the batch.
    for whole, alone in zip(ours[0], features_of(a[-1:]), strict=True):
        assert torch.equal(whole[-1:], alone)
    expected = network(a, b, normalize=True).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(lpips_distance(network, *ours), expected, atol=1e-6, rtol=1e-5)
    assert lpips_distance(network, ours[0], features_of(a)).abs().max() == 0


def test_a_region_is_the_mean_of_the_packages_own_map(alexnet_file: Path) -> None:
    network = load_lpips("alex", alexnet_file)
    a, b = images(2, 0), images(2, 1)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 10:30, 5:50] = 1
    mask[1, :, 40:, :20] = 0.5
    features = [lpips_features(network, x) for x in (a, b)]
    ours = lpips_distance(network, *features, mask)
    network.spatial = True
    spatial = network(a, b, normalize=True)
    wanted = [float(spatial[0, :, 10:30, 5:50].mean()), float(spatial[1, :, 40:, :20].mean())]
    assert ours.tolist() == pytest.approx(wanted, rel=1e-4)
    assert lpips_distance(network, *features, torch.zeros_like(mask)).isnan().all()
