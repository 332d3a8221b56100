"""The whole training step: one graph for compilers, no waiting for the device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import perturbed, random_frames, small_config
from torch._subclasses.fake_tensor import FakeTensorMode

from rome_lightning.acceleration import warp_status
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.training.config import TERMS, LossConfig
from rome_lightning.training.objective import Objective, composited
from rome_lightning.types import AvatarBatch

# Terms that need no file and no second network.
OWN_TERMS = [
    name
    for name in TERMS
    if name not in ("perceptual", "gaze", "identity", "adversarial", "feature_matching")
]

pytestmark = pytest.mark.skipif(warp_status() != "ok", reason=f"needs Warp: {warp_status()}")


class Step(torch.nn.Module):
    """Reproduction of the targets and the objective."""

    def __init__(self, silhouette: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = perturbed(AvatarModel(dataclasses.replace(small_config(), rasterizer="warp")))
        weights = dict.fromkeys(TERMS, 0.0) | dict.fromkeys(OWN_TERMS, 1.0)
        self.objective = Objective(LossConfig(**weights, silhouette=silhouette), self.model.head)

    def forward(self, batch: AvatarBatch, background: torch.Tensor) -> torch.Tensor:
        code = self.model.encode(batch.source).repeat_interleave(2)
        return self.after_encoding(code, batch, background)

    def after_encoding(self, code: AvatarCode, batch: AvatarBatch, background: torch.Tensor) -> torch.Tensor:
        target = batch.target
        rendered = self.model.render(code, target.params, target.image_size, background)
        return self.objective(rendered, batch, composited(rendered, target, background)).total


def batch_of(step: Step) -> AvatarBatch:
    head = step.model.head
    return AvatarBatch(random_frames(head, 1), random_frames(head, 2, seed=1))


def test_nothing_in_the_step_depends_on_values_of_tensors():
    """Shapes and branches do not, which would break a compiler's graph and make the host wait for a GPU."""
    step = Step("antialiased")
    batch, background = batch_of(step), torch.full((2, 3), 0.5)
    # Fake tensors have shapes but no values: asking for one is an error.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        loss = step(batch.map(mode.from_tensor), mode.from_tensor(background))
    assert loss.shape == ()


def test_drawing_and_the_objective_are_one_graph():
    """The compiler's own tracing; all of the step with its gradients is in the slow test."""
    step = Step("antialiased")
    batch, background = batch_of(step), torch.full((2, 3), 0.5)
    with torch.no_grad():
        code = step.model.encode(batch.source).repeat_interleave(2)
        compiled = torch.compile(step.after_encoding, fullgraph=True, backend="eager")
        losses = []
        # Compiled first: the code would keep what it computes.
        for function in (compiled, step.after_encoding):
            torch.manual_seed(1)  # the chamfer term draws points
            losses.append(function(code, batch, background))
    torch.testing.assert_close(*losses)


@pytest.mark.slow
@pytest.mark.parametrize("silhouette", ["antialiased", "official"])
def test_the_training_forward_is_one_graph(silhouette):
    """Without a graph break: only the renderer's named operators are opaque to the compiler."""
    step = Step(silhouette)
    batch, background = batch_of(step), torch.full((2, 3), 0.5)
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        step.zero_grad()
        torch.manual_seed(1)  # the chamfer term draws points
        loss = function(batch, background)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in step.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    (loss, plain), (compiled_loss, compiled) = results
    torch.testing.assert_close(compiled_loss, loss)
    assert compiled.keys() == plain.keys()
    for name, gradient in plain.items():
        # A weight's gradient is a sum over all pixels, whose terms cancel, in no fixed order: rounding is in
        # proportion to the terms, not to the sum.
        scale = float(gradient.abs().max())
        torch.testing.assert_close(compiled[name], gradient, atol=1e-3 * scale + 1e-7, rtol=1e-4)


@pytest.mark.gpu
def test_the_training_step_never_waits_for_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    step = Step("antialiased").cuda()
    batch, background = batch_of(step).to("cuda"), torch.full((2, 3), 0.5, device="cuda")
    step(batch, background).backward()  # kernels are compiled and loaded, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch, background).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
