import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rome_lightning.pretrained import weights


def flax_like(network: str, widths: list[int], kernel: int = 3) -> dict[str, object]:
    generator = np.random.default_rng(0)
    layers = {}
    # Pairs of neighbours: the list of inputs is longer by one.
    for index, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
        layers[f"Conv_{index}"] = {
            "kernel": generator.normal(size=(kernel, kernel + 1, inputs, outputs)).astype(np.float32),
            "bias": generator.normal(size=outputs).astype(np.float32),
        }
    return {network: layers}


@pytest.mark.parametrize("protocol", [3, 4])
def test_vgg16_names_and_axes(tmp_path: Path, protocol: int) -> None:
    content = flax_like("VGG16_0", [4] * 13)
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = weights.load_vgg16_features(path)
    names = [name.removesuffix(".weight") for name in loaded if name.endswith(".weight")]
    assert names[:4] == ["preprocess", "conv1_1", "conv1_2", "conv2_1"]
    assert names[-1] == "conv5_3"
    kernel = content["VGG16_0"]["Conv_2"]["kernel"]  # type: ignore[index]
    for y, x, i, o in [(0, 1, 2, 3), (2, 3, 0, 1)]:
        assert loaded["conv2_1.weight"][o, i, y, x] == kernel[y, x, i, o]
    # The 1x1 convolution is ImageNet's normalization.
    rgb = torch.tensor([0.2, 0.5, 0.9])
    normalized = loaded["preprocess.weight"][:, :, 0, 0] @ rgb + loaded["preprocess.bias"]
    expected = (rgb - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalized, expected)


def test_column_major_arrays(tmp_path: Path) -> None:
    content = flax_like("AlexNet_0", [4] * 5)
    layer = content["AlexNet_0"]["Conv_1"]  # type: ignore[index]
    layer["kernel"] = np.asfortranarray(layer["kernel"])
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=4))
    loaded = weights.load_alexnet_features(path)
    np.testing.assert_array_equal(loaded["conv2.weight"].numpy(), layer["kernel"].transpose(3, 2, 0, 1))


def test_vgg19(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    state = {"0.weight": torch.eye(3)[:, :, None, None], "0.bias": torch.zeros(3)}
    for index in range(16):
        state |= {
            f"{index + 2}.weight": torch.full((1, 1, 3, 3), float(index)),
            f"{index + 2}.bias": torch.zeros(1),
        }
    torch.save(state, path)
    loaded = weights.load_vgg19_normalized(path)
    assert loaded["conv3_1.weight"].unique().item() == 4
    assert loaded["conv5_4.weight"].unique().item() == 15
    torch.save({"0.weight": torch.zeros(3, 3, 1, 1), "0.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="16 convolutions of VGG-19"):
        weights.load_vgg19_normalized(path)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps({"VGG16_0": Evil(marker)}))
    with pytest.raises(ValueError, match=r"asks for \w+\.system"):
        weights.load_vgg16_features(path)
    assert not marker.exists()


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.ckpt"
    layer = {"kernel": np.array([{}], dtype=object)}
    path.write_bytes(pickle.dumps({"VGG16_0": {f"Conv_{i}": layer for i in range(13)}}, protocol=4))
    with pytest.raises(ValueError, match="expected numbers"):
        weights.load_vgg16_features(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({"VGG16_0": {}})]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fetch it again"):
        weights.load_vgg16_features(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rome assets fetch"):
        weights.load_alexnet_features(tmp_path / "alexnet.ckpt")
