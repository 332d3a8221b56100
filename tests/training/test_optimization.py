"""One optimizer's step: scaling, clipping, skipping; and the schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rome_lightning.training.config import OptimizerConfig
from rome_lightning.training.optimization import build_adam, build_schedule, finish_gradients


def network() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def step(
    net: nn.Linear, optimizer: torch.optim.Adam, factor: float = 1.0, clip: float = 0.0, scaler=None
) -> float:
    optimizer.zero_grad()
    loss = net(torch.ones(1, 3)).square().sum() * factor
    (loss if scaler is None else scaler.scale(loss)).backward()
    left_out = finish_gradients(optimizer, clip, scaler)
    optimizer.step()
    return float(left_out)


def test_steps_are_those_of_plain_adam():
    ours, theirs = network(), network()
    optimizer = build_adam(ours.parameters(), OptimizerConfig(learning_rate=0.01, beta1=0.9))
    reference = torch.optim.Adam(theirs.parameters(), 0.01, betas=(0.9, 0.999), fused=False, foreach=False)
    for _ in range(5):
        assert step(ours, optimizer) == 0
        reference.zero_grad()
        theirs(torch.ones(1, 3)).square().sum().backward()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(factor):
    net, twin = network(), network()
    optimizers = [build_adam(n.parameters(), OptimizerConfig(learning_rate=0.01)) for n in (net, twin)]
    step(net, optimizers[0])
    assert step(net, optimizers[0], factor=factor) == 1
    step(net, optimizers[0])
    # The twin never saw the bad step.
    step(twin, optimizers[1])
    step(twin, optimizers[1])
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*(o.state.values() for o in optimizers), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_gradients_are_clipped_to_the_norm():
    net = network()
    optimizer = build_adam(net.parameters(), OptimizerConfig())
    step(net, optimizer, factor=100.0, clip=0.5)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
    assert norm == pytest.approx(0.5, rel=1e-4)
    step(net, optimizer, factor=1e-6, clip=0.5)
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters())) < 1e-3


def test_a_scaled_loss_gives_the_same_step_and_each_optimizer_has_its_own_scale():
    plain, scaled = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    other = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizers = [build_adam(n.parameters(), OptimizerConfig(learning_rate=0.01)) for n in (plain, scaled)]
    for clip in (0.0, 0.1):
        step(plain, optimizers[0], clip=clip)
        assert step(scaled, optimizers[1], clip=clip, scaler=scaler) == 0
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert scaler.get_scale() == 2048.0
    before = [p.clone() for p in scaled.parameters()]
    assert step(scaled, optimizers[1], factor=math.inf, scaler=scaler) == 1
    assert scaler.get_scale() == 1024.0
    assert all(torch.equal(a, b) for a, b in zip(before, scaled.parameters(), strict=True))
    assert other.get_scale() == 1024.0


def test_schedules():
    def rates(total: float, **options: object) -> list[float]:
        config = OptimizerConfig(learning_rate=1.0, **options)
        optimizer = build_adam(network().parameters(), config)
        schedule = build_schedule(optimizer, config, total)
        found = []
        for _ in range(11):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    assert rates(10) == [1.0] * 11
    assert rates(10, warmup_steps=4)[:6] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = rates(10, schedule="cosine")
    assert cosine[0] == 1
    assert cosine[5] == pytest.approx(0.51)
    assert cosine[10] == pytest.approx(0.02)
    # Without a planned number of steps there is no schedule.
    assert rates(math.inf, schedule="cosine") == [1.0] * 11
