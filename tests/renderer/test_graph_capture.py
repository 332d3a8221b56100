"""The operators are opaque to graph capture but fully described to it."""

import pytest
import torch
from renderer_meshes import sphere

from rome_lightning.renderer import (
    coverage,
    extend_outside,
    get_rasterizer,
    interpolate,
    rasterizer,
    soft_silhouette,
)

SIZE = (23, 31)


class Renders(torch.nn.Module):
    """All that a frame needs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.rasterizer = get_rasterizer(name)

    def forward(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        ids = self.rasterizer.face_ids(vertices, faces, SIZE)
        values = interpolate(vertices, faces, ids, vertices)
        extended, distance = extend_outside(values, ids[:, None] >= 0)
        soft = soft_silhouette(vertices, faces, SIZE)
        return extended + distance + coverage(vertices, faces, ids) + soft


@pytest.fixture
def inputs():
    vertices, faces = sphere(9.0, (15.2, 11.7))
    return vertices.repeat(2, 1, 1), faces


def test_compiles_as_one_graph(inputs):
    if get_rasterizer("auto").name != "warp":
        pytest.skip("the torch soft silhouette has sizes that depend on data")
    vertices, faces = inputs
    module = Renders("auto")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for function in (module, compiled):
        leaf = vertices.clone().requires_grad_()
        image = function(leaf, faces)
        image.square().sum().backward()
        results.append((image.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_exports(inputs):
    if get_rasterizer("auto").name != "warp":
        pytest.skip("the torch soft silhouette has sizes that depend on data")
    module = Renders("auto")
    with torch.no_grad():
        program = torch.export.export(module, inputs)
        assert torch.equal(program.module()(*inputs), module(*inputs))


def test_operators_are_registered_correctly(inputs, fused):
    vertices, faces = inputs
    leaf = vertices.clone().requires_grad_()
    ids = rasterizer._face_ids(vertices, faces, *SIZE, False, fused)
    contour = torch.ops.rome_lightning.contour(vertices, faces, ids, fused)
    for operator, arguments in (
        ("face_ids", (vertices, faces, *SIZE, False, fused)),
        ("interpolate", (leaf, faces, ids, leaf.detach(), faces, fused)),
        ("contour", (vertices, faces, ids, fused)),
        ("coverage", (leaf, faces, ids, contour, fused)),
        ("nearest_covered", (ids >= 0,)),
        ("carry", (leaf.detach(), torch.zeros(2, 3, dtype=torch.int64), fused)),
    ):
        torch.library.opcheck(getattr(torch.ops.rome_lightning, operator).default, arguments)
