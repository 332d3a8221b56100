"""Regions and mattes by products of bytes, against the same networks in MediaPipe and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rome_lightning.networks.fast.eight_bit import has_byte_products
from rome_lightning.networks.portrait import MatteNetwork, RegionNetwork
from rome_lightning.pretrained.onnx_reader import OnnxGraph, read_onnx
from rome_lightning.pretrained.tflite_reader import read_tflite
from rome_lightning.tracking import matting, segmenter
from rome_lightning.tracking.matting import Matter, bounded_matte
from rome_lightning.tracking.segmenter import Segmenter

needs_bytes = pytest.mark.skipif(
    not has_byte_products(), reason="this processor does not multiply bytes (VNNI)"
)

MOST_LABELS = 0.015
"""Share of a picture's pixels with another label; 0.0015 on average and 0.010 at most in 84 pictures."""
MOST_PERSON = 0.01
"""Mean difference of the probability of a person in a picture; 0.0008 and 0.007 there."""
MOST_ALPHA = 0.003
"""Mean difference of the opacity in a picture; 0.0002 and 0.0017 there."""
MOST_BOUNDED = 0.008
"""The same between the segmenter's bounds; 0.0003 and 0.005 there."""


@pytest.fixture(scope="module")
def pictures(astronaut: np.ndarray) -> np.ndarray:
    """Crops of a photograph: near and far, mirrored, dark, shifted and grey."""
    near, far = astronaut[20:276, 90:346], astronaut[:512:2, :512:2]
    grey = near.mean(-1, keepdims=True).repeat(3, -1)
    shown = [near, far, near[:, ::-1], near * 0.4, np.roll(near, 60, 1), grey]
    return np.stack([np.ascontiguousarray(picture).astype(np.uint8) for picture in shown])


@needs_bytes
def test_masks_are_those_of_the_libraries(
    region_model: Path, matte_model: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, model in ((segmenter, region_model), (matting, matte_model)):
        module._network.cache_clear()
        monkeypatch.setattr(module.assets, "resolve", _named(region_model, matte_model))
        assert model.is_file()
    ours, theirs = Segmenter().segment(pictures), Segmenter(region_model).segment(pictures)
    assert segmenter._network.cache_info().currsize == 1
    other = (ours.labels != theirs.labels).float().mean((1, 2))
    assert other.max() <= MOST_LABELS
    assert (ours.person.float() - theirs.person.float()).abs().mean((1, 2)).max() <= MOST_PERSON
    mattes = Matter().matte(pictures), Matter(matte_model).matte(pictures)
    assert matting._network.cache_info().currsize == 1
    assert _mean_difference(*mattes).max() <= MOST_ALPHA
    bounded = [bounded_matte(matte, seen.person) for matte, seen in zip(mattes, (ours, theirs), strict=True)]
    assert _mean_difference(*bounded).max() <= MOST_BOUNDED
    # Not the same numbers: the byte networks were used.
    assert _mean_difference(*mattes).min() > 0


@needs_bytes
def test_other_sizes(region_model: Path, matte_model: Path, astronaut: np.ndarray) -> None:
    """A larger network and frames that are neither square nor of the networks' size."""
    frames = astronaut[None, :400, 60:380]
    ours, theirs = Segmenter().segment(frames), Segmenter(region_model).segment(frames)
    assert ours.labels.shape == (1, 400, 320)
    assert (ours.labels != theirs.labels).float().mean() <= MOST_LABELS
    mattes = Matter(network_size=384).matte(frames), Matter(matte_model, network_size=384).matte(frames)
    assert mattes[0].shape == (1, 400, 320)
    assert _mean_difference(*mattes) <= MOST_ALPHA


def _named(regions: Path, matte: Path):  # type: ignore[no-untyped-def]
    return {"selfie_multiclass": regions, "modnet": matte}.__getitem__


def _mean_difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one.float() - other.float()).abs().mean((1, 2))


def test_without_byte_products_the_libraries_run(
    region_model: Path, matte_model: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (segmenter, matting):
        monkeypatch.setattr(module, "has_byte_products", lambda: False)
        monkeypatch.setattr(module.assets, "resolve", _named(region_model, matte_model))
    ours, theirs = Segmenter().segment(pictures[:1]), Segmenter(region_model).segment(pictures[:1])
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(Matter().matte(pictures[:1]), Matter(matte_model).matte(pictures[:1]))


def test_labels_are_the_most_likely_ones() -> None:
    values = torch.randint(0, 4, (6, 40, 30), generator=torch.Generator().manual_seed(0)).float()
    labels = segmenter._most_likely(values)
    # The first of several that are equally likely.
    assert np.array_equal(labels.numpy(), values.numpy().argmax(0))


def test_other_graphs_are_refused(region_model: Path, matte_model: Path, tmp_path: Path) -> None:
    graph = read_tflite(region_model)
    with pytest.raises(ValueError, match="not the graph of the multiclass"):
        RegionNetwork(type(graph)(graph.nodes[:-150], graph.tensors, graph.shapes, graph.input, graph.output))
    matte = read_onnx(matte_model)
    with pytest.raises(ValueError, match="too few convolutions"):
        MatteNetwork(OnnxGraph(matte.nodes[:400], matte.tensors, matte.inputs, matte.outputs))
    convolution = next(node for node in matte.nodes if node.kind == "Conv")
    longer = OnnxGraph([*matte.nodes, convolution], matte.tensors, matte.inputs, matte.outputs)
    with pytest.raises(ValueError, match="further convolutions"):
        MatteNetwork(longer)


def test_damaged_files_are_refused(region_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rome assets fetch"):
        read_tflite(tmp_path / "none.tflite")
    content = region_model.read_bytes()
    for name, damaged in (("short", content[: len(content) // 2]), ("empty", b""), ("text", b"text " * 99)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable TensorFlow Lite file"):
            read_tflite(path)


def test_graph_of_the_asset(region_model: Path) -> None:
    graph = read_tflite(region_model)
    assert graph.shapes[graph.input] == (1, 256, 256, 3)
    assert graph.shapes[graph.output] == (1, 256, 256, 6)
    # What MediaPipe's own description of the model says of its size: 16.4 MB, nearly all of it weights.
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.tensors.values())
    assert 0.99 < weights / region_model.stat().st_size < 1
    assert {node.kind for node in graph.nodes if node.activation} == {"conv", "depthwise_conv"}
