"""A FLAME head and DECA's codes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from flame_files import make_arrays

from rome_lightning.head import HeadModel
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    path = tmp_path_factory.mktemp("flame") / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    return add_mediapipe(load_flame(path))


@pytest.fixture
def codes() -> dict[str, np.ndarray]:
    """DECA's codes of three frames; the person is the same."""
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.2, (3, 6))
    return {
        "shape": np.repeat(rng.normal(0, 1, (1, 100)), 3, axis=0).astype(np.float32),
        "exp": rng.normal(0, 1, (3, 50)).astype(np.float32),
        "pose": pose.astype(np.float32),
        "cam": np.array([[8.0, 0.01, 0.02], [7.5, -0.02, 0.0], [8.2, 0.0, 0.03]], np.float32),
    }
