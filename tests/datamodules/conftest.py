"""A small dataset, written once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_dataset import standard_clips, write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, standard_clips())
    return folder
