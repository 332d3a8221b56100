"""Identity, gaze and landmark terms, and their crops."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch
from losses.test_perceptual import narrow_weights
from tiny_run import need
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from rome_lightning.assets import resolve
from rome_lightning.losses import GazeLoss, IdentityLoss, PerceptualLoss, landmark_distance
from rome_lightning.losses.crops import aligned_faces, eye_crops
from rome_lightning.losses.landmarks import POINT_WEIGHTS
from rome_lightning.pretrained.onnx_network import OnnxNetwork
from rome_lightning.pretrained.onnx_reader import read_onnx
from rome_lightning.pretrained.weights import load_gaze_vgg16
from rome_lightning.types.landmarks import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

TEMPLATE = {(33, 133): (38.2946, 51.6963), (362, 263): (73.5318, 51.5014), (4,): (56.0252, 71.7366)}
TEMPLATE |= {(61,): (41.5493, 92.3655), (291,): (70.7299, 92.2041)}


def landmarks_at(turn: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    """Landmarks whose five points are the template rotated, scaled and shifted."""
    landmarks = torch.zeros(1, 478, 2)
    for group, (x, y) in TEMPLATE.items():
        for index in group:
            landmarks[0, index, 0] = scale * (math.cos(turn) * x - math.sin(turn) * y) + shift[0]
            landmarks[0, index, 1] = scale * (math.sin(turn) * x + math.cos(turn) * y) + shift[1]
    return landmarks


def ramps(height: int, width: int) -> torch.Tensor:
    """An image whose channels are x and y in pixels, so that a crop shows where it was taken."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, x + y]).float()[None]


def test_faces_are_aligned_by_the_similarity_that_put_them_there():
    turn, scale, shift = 0.3, 0.8, (40.0, 12.0)
    crop = aligned_faces(ramps(160, 200), landmarks_at(turn, scale, shift))
    for x, y in ((20, 30), (56, 72), (90, 100)):
        expected = (
            scale * (math.cos(turn) * x - math.sin(turn) * y) + shift[0],
            scale * (math.sin(turn) * x + math.cos(turn) * y) + shift[1],
        )
        assert crop[0, :2, y, x].tolist() == pytest.approx(expected, abs=1e-2)


def test_eyes_are_cut_out_twice_as_wide_as_they_are():
    landmarks = torch.zeros(1, 478, 2)
    landmarks[0, LEFT_EYE_CORNERS[0]], landmarks[0, LEFT_EYE_CORNERS[1]] = (
        torch.tensor([40.0, 30]),
        torch.tensor([60.0, 30]),
    )
    crop = eye_crops(ramps(64, 100), landmarks, LEFT_EYE_CORNERS, size=40)
    # 40 pixels from 30 to 70, each a pixel wide; centres are half a pixel inside.
    assert crop[0, 0, 20].tolist() == pytest.approx([30.5 + i for i in range(40)], abs=1e-3)
    assert crop[0, 1, :, 20].tolist() == pytest.approx([10.5 + i for i in range(40)], abs=1e-3)
    # Coinciding corners, as of an eye seen from the side, still give a crop.
    assert torch.isfinite(eye_crops(ramps(64, 100), landmarks, RIGHT_EYE_CORNERS)).all()


class _Embedding(nn.Module):
    """Means of four quarters of the face."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(faces, 2).flatten(1)


def test_identity_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 120, 120, generator=generator) for _ in range(2))
    landmarks = torch.cat([landmarks_at(0.1, 0.9, (5.0, 3.0)), landmarks_at(-0.2, 0.7, (20.0, 30.0))])
    loss = IdentityLoss.arcface(_Embedding())
    total = 0.0
    for i in range(2):
        pair = []
        for image in (a, b):
            face = aligned_faces(image[i : i + 1], landmarks[i : i + 1])[0] * 2 - 1
            halves = (slice(0, 56), slice(56, 112))
            pair.append([float(face[c, y, x].mean()) for c in range(3) for y in halves for x in halves])
        dot = sum(x * y for x, y in zip(*pair, strict=True))
        total += 1 - dot / math.sqrt(sum(x * x for x in pair[0]) * sum(y * y for y in pair[1]))
    assert loss(a, b, landmarks).item() == pytest.approx(total / 2, rel=1e-4)
    assert loss(a, a, landmarks).item() == pytest.approx(0, abs=1e-6)


def test_gradients_reach_the_predicted_face_only():
    predicted, target = (
        torch.rand(1, 3, 120, 120).requires_grad_(),
        torch.rand(1, 3, 120, 120).requires_grad_(),
    )
    landmarks = landmarks_at(0.0, 0.5, (30.0, 30.0))
    IdentityLoss.sface(_Embedding())(predicted, target, landmarks).backward()
    assert target.grad is None
    gradient = predicted.grad.abs().sum((0, 1))
    assert gradient[40:80, 40:80].min() > 0
    # Nothing outside the aligned square, which is 56 pixels wide here.
    assert gradient[:28].max() == gradient[:, :28].max() == gradient[88:].max() == 0


@pytest.mark.gradcheck
def test_gradients_of_identity_crops_and_landmarks():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 6, 6, generator=generator, dtype=torch.float64).requires_grad_()
    landmarks = landmarks_at(0.2, 0.03, (1.0, 1.0)).double()
    assert gradcheck(lambda x: F.adaptive_avg_pool2d(aligned_faces(x, landmarks), 2), (image,))
    points = torch.rand(1, 68, 3, generator=generator, dtype=torch.float64).requires_grad_()
    wanted = torch.rand(1, 68, 2, generator=generator, dtype=torch.float64)
    assert gradcheck(lambda x: landmark_distance(x, wanted, (8, 8)), (points,))


def test_landmarks_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 68, 3, generator=generator) * 30
    wanted = torch.rand(2, 68, 2, generator=generator) * 30
    top = bottom = 0.0
    for i in range(2):
        for j, weight in enumerate(POINT_WEIGHTS):
            dx = abs(float(points[i, j, 0] - wanted[i, j, 0])) * 2 / 40
            dy = abs(float(points[i, j, 1] - wanted[i, j, 1])) * 2 / 20
            top += weight * (dx + dy) / 2
            bottom += weight / 2
    assert len(POINT_WEIGHTS) == 68
    assert landmark_distance(points, wanted, (20, 40)).item() == pytest.approx(top / bottom, rel=1e-5)


def test_gaze_is_the_mean_of_both_eyes():
    weights = narrow_weights()
    loss = GazeLoss(weights, narrow_weights(seed=1))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 80, 120, generator=generator) for _ in range(2))
    landmarks = torch.zeros(1, 478, 2)
    for corners, x in ((RIGHT_EYE_CORNERS, 30.0), (LEFT_EYE_CORNERS, 80.0)):
        landmarks[0, corners[0]], landmarks[0, corners[1]] = torch.tensor([x, 40]), torch.tensor([x + 16, 40])
    each = [
        PerceptualLoss.vgg19(net)(eye_crops(a, landmarks, corners), eye_crops(b, landmarks, corners))
        for net, corners in ((weights, LEFT_EYE_CORNERS), (narrow_weights(seed=1), RIGHT_EYE_CORNERS))
    ]
    torch.testing.assert_close(loss(a, b, landmarks), (each[0] + each[1]) / 2)
    # Only the eyes count.
    beside = a.clone()
    beside[..., :20] = 0
    torch.testing.assert_close(loss(beside, b, landmarks), loss(a, b, landmarks))


def _vgg16_state(*sides: str) -> dict[str, torch.Tensor]:
    """torchvision's layout of VGG-16's convolutions, narrow."""
    state = {}
    for side in sides:
        channels = 3
        for layer in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
            state[f"model.{side}.{layer}.weight"] = torch.randn(4, channels, 3, 3)
            state[f"model.{side}.{layer}.bias"] = torch.randn(4)
            channels = 4
    return state | {"model.fc.0.weight": torch.randn(2, 4), "model.fc.1.weight": torch.randn(2)}


def test_weights_of_gaze_networks(tmp_path):
    both, one, neither = tmp_path / "both.pth", tmp_path / "one.pth", tmp_path / "neither.pth"
    state = _vgg16_state("left_features", "right_features")
    torch.save({"state_dict": state}, both)
    left, right = load_gaze_vgg16(both)
    torch.testing.assert_close(left["conv3_1.weight"], state["model.left_features.10.weight"])
    torch.testing.assert_close(right["conv5_3.bias"], state["model.right_features.28.bias"])
    torch.save(_vgg16_state("features"), one)
    left, right = load_gaze_vgg16(one)
    assert left.keys() == right.keys()
    torch.save({"features.0.weight": torch.randn(4, 3, 3, 3)}, neither)
    with pytest.raises(ValueError, match="expected 13 convolutions of VGG-16 under features"):
        load_gaze_vgg16(neither)


def test_the_gaze_term_says_what_it_needs(monkeypatch):
    from rome_lightning.training.config import LossConfig
    from rome_lightning.training.critics import build_gaze

    monkeypatch.delenv("ROME_ASSET_GAZE_VGG16", raising=False)
    monkeypatch.delenv("ROME_ASSETS", raising=False)
    assert build_gaze(LossConfig()) is None
    with pytest.raises(FileNotFoundError, match=r"set losses\.gaze to 0 .* set ROME_ASSET_GAZE_VGG16"):
        build_gaze(LossConfig(gaze=1.0))


@pytest.mark.parametrize("asset", ["sface", "arcface_mbf"])
def test_networks_from_onnx_are_those_of_onnxruntime(asset):
    need(asset) if asset == "sface" else _need_research(asset)
    onnxruntime = pytest.importorskip("onnxruntime")
    path = resolve(asset, accept_noncommercial=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    network = OnnxNetwork(read_onnx(path)).eval()
    scale = 255.0 if asset == "sface" else 1.0
    faces = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * scale
    (expected,) = session.run(None, {network.input: faces.numpy()})
    # Embeddings are of order 1; the tolerance covers a different order of summation.
    torch.testing.assert_close(network(faces), torch.from_numpy(expected), atol=1e-4, rtol=0)
    # A batch of two equals two batches of one.
    torch.testing.assert_close(network(faces.repeat(2, 1, 1, 1))[1:], network(faces), atol=1e-5, rtol=0)


def _need_research(asset: str) -> None:
    try:
        resolve(asset, allow_download=False, accept_noncommercial=True)
    except OSError:
        pytest.skip(f"{asset} is for research only and not here")


def _field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol buffer; values below 128 only where they are varints."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def _onnx_file(path: Path, kind: str = "Mul") -> Path:
    """A graph that doubles its input, written by hand."""
    tensor = _field(1, 1) + _field(2, 1) + _field(8, b"two") + _field(9, struct.pack("<f", 2.0))
    node = _field(1, b"x") + _field(1, b"two") + _field(2, b"y") + _field(4, kind.encode())
    graph = _field(1, node) + _field(5, tensor)
    graph += _field(11, _field(1, b"x")) + _field(11, _field(1, b"two")) + _field(12, _field(1, b"y"))
    path.write_bytes(_field(1, 8) + _field(7, graph))
    return path


def test_onnx_files_are_read_as_data(tmp_path):
    network = OnnxNetwork(read_onnx(_onnx_file(tmp_path / "double.onnx")))
    assert network(torch.tensor([[1.0, -3.0]])).tolist() == [[2.0, -6.0]]
    with pytest.raises(ValueError, match="unknown operations: Loop; known are Add, "):
        OnnxNetwork(read_onnx(_onnx_file(tmp_path / "loop.onnx", kind="Loop")))


def test_onnx_files_that_are_none_are_refused(tmp_path):
    whole = _onnx_file(tmp_path / "whole.onnx").read_bytes()
    for name, content in (("cut", whole[:-3]), ("empty", b""), ("text", b"no network")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a readable ONNX file \(.*\); fetch it again"):
            read_onnx(path)
    with pytest.raises(FileNotFoundError, match="rome assets fetch"):
        read_onnx(tmp_path / "nowhere")
