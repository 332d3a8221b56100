"""The estimate of a step's memory against manual counts, and its consequences."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import random_frames, small_config
from lightning import Trainer
from tiny_run import need
from torch import nn

from rome_lightning.callbacks import MemoryCheck, memory_check
from rome_lightning.training import FullModule
from rome_lightning.training.config import LossConfig, OptimizerConfig
from rome_lightning.training.memory import _group_limit, free_bytes, kept_bytes, optimizer_bytes
from rome_lightning.types import AvatarBatch


def test_what_a_backward_pass_needs_is_counted_once():
    inputs = torch.randn(8, 100)
    layer = nn.Linear(100, 50)

    def forward():
        # The product keeps its input, tanh its result, and the square root the same result again.
        hidden = layer(inputs).tanh()
        return hidden.square().sum()

    assert kept_bytes(forward, layer) == 4 * (8 * 100 + 8 * 50)


def test_weights_of_the_network_are_not_counted():
    layer = nn.Linear(100, 50)
    inputs = torch.randn(8, 100, requires_grad=True)
    # The gradient of the input needs the weight, that of the weight the input.
    assert kept_bytes(lambda: layer(inputs).sum(), layer) == 4 * 8 * 100


def test_only_trained_weights_have_gradients_and_moments():
    network = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    network[0].requires_grad_(False)
    assert optimizer_bytes(network) == 3 * 4 * 100


def test_the_limit_of_a_container_counts(tmp_path):
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert _group_limit(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert _group_limit(tmp_path) is None
    assert _group_limit(tmp_path / "absent") is None


def test_this_machine_tells_its_free_memory():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e14


@pytest.fixture
def module():
    need("lpips_alexnet")
    return FullModule(small_config(), LossConfig(perceptual=0.0, chamfer_points=64), OptimizerConfig())


def _batch(module, num_sources, num_driving):
    head = module.avatar.head
    return AvatarBatch(random_frames(head, num_sources), random_frames(head, num_sources * num_driving, 1))


def _check(module, batch, refuse=True):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    MemoryCheck(refuse).on_train_batch_start(trainer, module, batch, 0)


def test_a_step_that_does_not_fit_is_refused_with_what_to_change(module, monkeypatch):
    batch = _batch(module, 2, 2)
    # Enough for the optimizer and, by the estimate, for one pair and a half.
    one = int(1.3 * memory_check._kept_of_one(Trainer(accelerator="cpu", logger=False), module, batch))
    free = optimizer_bytes(module) + 3 * one // 2
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: free)
    with pytest.raises(ValueError, match=r"set data\.init_args\.batch_size to 1,.*--memory-check warn"):
        _check(module, batch)
    with pytest.warns(UserWarning, match="only"):
        _check(module, batch, refuse=False)
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: free + 2 * one)
    _check(module, batch)


def test_the_check_leaves_the_module_as_it_was(module):
    before = copy.deepcopy(module.state_dict())
    _check(module, _batch(module, 2, 2))
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None for weight in module.parameters())


def test_what_one_pair_keeps_grows_with_the_pairs(module):
    trainer = SimpleNamespace(strategy=Trainer(accelerator="cpu", logger=False).strategy)
    sizes = []
    for num_driving in (1, 2):
        batch = _batch(module, 1, num_driving)
        sizes.append(memory_check._kept_of_one(trainer, module, batch))
    # The source is encoded once, whatever it drives: between the same and twice as much.
    assert 1 < sizes[1] / sizes[0] < 2
