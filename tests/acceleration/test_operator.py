"""Operators: equal to torch's, without importing its compiler unless something is compiled."""

import subprocess
import sys

import torch

from rome_lightning.acceleration.operator import operator


@operator("test_scaled")
def _scaled(values: torch.Tensor, factor: float) -> torch.Tensor:
    return values * factor


@_scaled.register_fake
def _(values: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.empty_like(values)


def _setup_context(ctx, inputs, output):
    ctx.factor = inputs[1]


def _backward(ctx, gradient):
    return gradient * ctx.factor, None


_scaled.register_autograd(_backward, setup_context=_setup_context)


def test_called_at_once_traced_or_compiled_an_operator_is_the_same() -> None:
    values = torch.rand(3, 4, requires_grad=True)
    (plain,) = torch.autograd.grad(_scaled(values, 2.5).sum(), values)
    registered = torch.ops.rome_lightning.test_scaled(values, 2.5)
    (wanted,) = torch.autograd.grad(registered.sum(), values)
    assert torch.equal(_scaled(values, 2.5), registered)
    assert torch.equal(plain, wanted)
    assert torch.equal(plain, torch.full_like(values, 2.5))
    torch.library.opcheck(torch.ops.rome_lightning.test_scaled.default, (values, 2.5))
    program = torch.export.export(Scaled(), (values,))
    assert "rome_lightning.test_scaled" in program.graph_module.code
    assert torch.equal(program.module()(values), registered)
    assert _scaled(values.to("meta"), 2.5).is_meta


class Scaled(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _scaled(values, 2.5)


SCRIPT = """
import sys
import torch
from rome_lightning.models import AvatarConfig, AvatarModel
from rome_lightning.renderer import coverage, get_rasterizer
from rome_lightning.types import HeadParams

model = AvatarModel(AvatarConfig()).eval()
params = HeadParams.neutral(1, model.head.num_shape, model.head.num_expression)
vertices_px = model.project(model.head(params), params, (64, 64)).requires_grad_()
ids = get_rasterizer("auto").face_ids(vertices_px, model.head.faces, (64, 64))
coverage(vertices_px, model.head.faces, ids).sum().backward()
print([name for name in ("torch._dynamo", "torchvision", "lightning", "matplotlib") if name in sys.modules])
"""


def test_models_and_renderer_import_no_compiler() -> None:
    """Importing it takes two to three seconds, which would delay creating an avatar."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
