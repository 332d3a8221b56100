import os

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from rome_lightning.metrics import brisque
from rome_lightning.metrics.brisque import brisque_features
from rome_lightning.pretrained.quality import SupportVectors, load_brisque


def picture() -> torch.Tensor:
    return torch.from_numpy(data.astronaut()[100:356, 100:356].copy()).permute(2, 0, 1)[None].float() / 255


def test_features_against_opencv() -> None:
    image = picture()
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    theirs = cv2.quality.QualityBRISQUE_computeFeatures(np.ascontiguousarray(pixels[..., ::-1]))[0]
    ours = brisque_features(image)[0].numpy()
    # OpenCV searches the shape in steps of 0.001, by another rule and in single precision.
    np.testing.assert_allclose(ours, theirs, atol=0.06, rtol=0.06)


def test_regression_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(4, 36, generator=generator, dtype=torch.float64)
    model = SupportVectors(
        torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64),
        vectors,
        0.05,
        0.7,
        torch.zeros(36, dtype=torch.float64),
        torch.full((36,), 2.0, dtype=torch.float64),
    )
    image = picture()
    scaled = -1 + brisque_features(image)[0].double()
    expected = (
        sum(
            float(c) * np.exp(-0.05 * sum((float(x) - float(y)) ** 2 for x, y in zip(scaled, v, strict=True)))
            for c, v in zip(model.coefficients, vectors, strict=True)
        )
        - 0.7
    )
    assert float(brisque(model, image)) == pytest.approx(expected, abs=1e-5)


def test_files_are_read_as_numbers_only(tmp_path) -> None:
    import pickle

    svm = tmp_path / "svm.txt"
    svm.write_text(
        "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nrho -1.5\nSV\n-2 1:0.5 36:-1\n3 2:0.25\n"
    )
    ranges = tmp_path / "range.pickle"
    ranges.write_bytes(pickle.dumps({"min_": [0.0] * 36, "max_": [1.0] * 36}))
    model = load_brisque(svm, ranges)
    assert model.coefficients.tolist() == [-2, 3]
    assert (float(model.vectors[0, 35]), float(model.vectors[1, 1]), model.offset) == (-1, 0.25, -1.5)
    ranges.write_bytes(pickle.dumps({"min_": [0.0] * 36, "max_": os.getcwd}))
    with pytest.raises(ValueError, match=r"asks for \w+\.getcwd"):
        load_brisque(svm, ranges)
    svm.write_text("svm_type c_svc\nSV\n")
    with pytest.raises(ValueError, match="not a support vector regression"):
        load_brisque(svm, ranges)
