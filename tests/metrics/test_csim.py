import copy
import importlib
import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from rome_lightning.assets import resolve
from rome_lightning.metrics import CSIM, SFaceEmbedder, csim
from rome_lightning.networks.portrait import IdentityNetwork
from rome_lightning.pretrained.onnx_reader import OnnxGraph, read_onnx

# The package's name of the module is that of the function.
csim_module = importlib.import_module("rome_lightning.metrics.csim")


def embed_by_mean_colour(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A stand-in: the mean colour is the identity, black images show no face."""
    colours = images.mean((2, 3))
    return colours, colours.sum(1) > 0


def flat(*colours: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 4, 4)


RED, GREEN, YELLOW, BLACK = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)


def test_cosine_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    for value, x, y in zip(csim(a, b).tolist(), a.tolist(), b.tolist(), strict=True):
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        assert value == pytest.approx(dot / math.hypot(*x) / math.hypot(*y), abs=1e-6)


def test_missing_faces_are_counted_and_not_scored() -> None:
    metric = CSIM(embed_by_mean_colour, name="csim_colour")
    metric.update(flat(RED, RED, BLACK, BLACK, GREEN), flat(RED, YELLOW, GREEN, BLACK, BLACK))
    result = metric.compute()
    scored = 1 + math.sqrt(0.5)
    assert result["csim_colour"].item() == pytest.approx(scored / 2)
    # Three references show a face; the third prediction does not and counts as 0.
    assert result["csim_colour_penalised"].item() == pytest.approx(scored / 3)
    assert int(result["num_pairs"]) == 5
    assert int(result["num_undetected_prediction"]) == 2
    assert int(result["num_undetected_target"]) == 2


def test_unequal_batches_give_the_same_as_one() -> None:
    predictions, targets = flat(RED, BLACK, GREEN, YELLOW), flat(YELLOW, RED, GREEN, GREEN)
    whole, parts, other = (CSIM(embed_by_mean_colour) for _ in range(3))
    whole.update(predictions, targets)
    parts.update(predictions[:1], targets[:1])
    other.update(predictions[1:], targets[1:])
    parts.merge_state(other)
    assert whole.compute() == parts.compute()
    whole.reset()
    whole.update(flat(BLACK), flat(BLACK))
    assert whole.compute()["csim_sface"].isnan()


def test_missing_networks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rome assets fetch"):
        SFaceEmbedder(tmp_path / "yunet.onnx", tmp_path / "sface.onnx")


def test_an_embedder_can_be_copied_and_sent(tmp_path: Path) -> None:
    for name in ("yunet.onnx", "sface.onnx"):
        (tmp_path / name).touch()
    embedder = SFaceEmbedder(tmp_path / "yunet.onnx", tmp_path / "sface.onnx")
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert other.paths == embedder.paths


@pytest.mark.slow
def test_true_networks_if_cached() -> None:
    try:
        embedder = SFaceEmbedder(*(resolve(name, allow_download=False) for name in ("yunet", "sface")))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    half = torch.nn.functional.interpolate(photo, scale_factor=0.5, mode="area")
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float() / 255
    embeddings, found = embedder(photo)
    assert found.item()
    assert embeddings.norm().item() == pytest.approx(1, abs=1e-5)
    for changed in (half, photo.flip(3)):
        other, also = embedder(changed)
        assert also.item()
        assert csim(embeddings, other).item() > 0.8
    assert not embedder(torch.zeros(1, 3, 128, 128))[1].item()
    assert embedder(cat)[1].sum() == 0


@pytest.mark.slow
def test_embeddings_are_opencvs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its documentation shows, one face at a time."""
    try:
        paths = [resolve(name, allow_download=False) for name in ("yunet", "sface")]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    photo = data.astronaut()
    shown = np.stack([photo[:256, 90:346], photo[:256, 90:346] // 3, photo[30:286, 60:316, ::-1]])
    images = torch.from_numpy(np.ascontiguousarray(shown)).permute(0, 3, 1, 2).float() / 255
    embedder = SFaceEmbedder(*paths)
    ours, found = embedder(images)
    assert found.all()
    detector = cv2.FaceDetectorYN.create(str(paths[0]), "", (256, 256), 0.6)
    recognizer = cv2.FaceRecognizerSF.create(str(paths[1]), "")
    for embedding, image in zip(ours, shown, strict=True):
        bgr = np.ascontiguousarray(image[..., ::-1])
        feature = recognizer.feature(recognizer.alignCrop(bgr, detector.detect(bgr)[1][0]))[0]
        assert np.abs(embedding.numpy() - feature / np.linalg.norm(feature)).max() < 1e-5
    # An embedding does not depend on the other faces of the batch.
    assert torch.equal(embedder(images[1:2])[0], ours[1:2])
    assert torch.equal(embedder(images.flip(0).repeat(4, 1, 1, 1))[0][-3:].flip(0), ours)
    # Without oneDNN OpenCV runs the network.
    monkeypatch.setattr(csim_module, "has_packed_convolutions", lambda: False)
    plain, _ = SFaceEmbedder(*paths)(images)
    assert 0 < (plain - ours).abs().max() < 1e-5


@pytest.mark.slow
def test_other_graphs_of_identity_are_refused() -> None:
    try:
        graph = read_onnx(resolve("sface", allow_download=False))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match="not the graph of SFace"):
        IdentityNetwork(OnnxGraph(graph.nodes[:-1], graph.tensors, graph.inputs, graph.outputs))


def test_alignment_of_arcface_against_skimage() -> None:
    from skimage.transform import SimilarityTransform

    from rome_lightning.metrics.csim import similarity_matrix
    from rome_lightning.types.landmarks import FIVE_POINT_TEMPLATE

    points = np.random.default_rng(0).normal(size=(5, 2)) * 30 + 100
    theirs = SimilarityTransform.from_estimate(points, np.array(FIVE_POINT_TEMPLATE)).params
    np.testing.assert_allclose(
        similarity_matrix(points, np.array(FIVE_POINT_TEMPLATE)), theirs[:2], atol=1e-9
    )
