"""Random numbers of a training step that depend on nothing before it."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class SeedEachStep(Callback):
    """Seed Python, NumPy and PyTorch (all devices) before each step from (seed, step, rank).

    What happens between steps (validation, pictures, a restart) so has no influence on training, and a
    checkpoint needs no generator states: the seed and the number of steps say it all. The numbers that
    pick the data do not pass here; they are a function of the position in the stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run's seed, as ``seed_everything`` set it or, in a resumed run, as it was at the start."""
        if self.seed < 0:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**32))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed."""
        key = [self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.seed = state_dict["seed"]
