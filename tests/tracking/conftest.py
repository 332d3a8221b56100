from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data

from rome_lightning import assets


def asset_or_skip(name: str) -> Path:
    """Path of an asset; tests that need it are skipped where it can be neither found nor fetched."""
    try:
        return assets.resolve(name)
    except FileNotFoundError as error:
        pytest.skip(f"asset {name} is not available: {error}")


@pytest.fixture(scope="session")
def face_model() -> Path:
    return asset_or_skip("face_landmarker")


@pytest.fixture(scope="session")
def region_model() -> Path:
    return asset_or_skip("selfie_multiclass")


@pytest.fixture(scope="session")
def matte_model() -> Path:
    return asset_or_skip("modnet")


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """Photograph of Eileen Collins by NASA, 512 x 512, in the public domain."""
    return skimage.data.astronaut()
