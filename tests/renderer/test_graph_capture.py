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
    render_texture,
    soft_silhouette,
)

SIZE = (23, 31)


class Renders(torch.nn.Module):
    """All operations of a frame."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.rasterizer = get_rasterizer(name)

    def forward(self, vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        ids = self.rasterizer.face_ids(vertices, faces, SIZE)
        values = interpolate(vertices, faces, ids, vertices)
        extended, distance = extend_outside(values, ids[:, None] >= 0)
        soft = soft_silhouette(vertices, faces, SIZE)
        uvs = vertices[0, :, :2].detach() / 31
        textured = render_texture(vertices, faces, ids, uvs, faces, vertices.view(2, 3, 18, 9))
        return extended + textured + distance + coverage(vertices, faces, ids) + soft


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
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 4, 5, generator=generator).requires_grad_()
    source = torch.randint(-1, 20, (2, 4, 5), generator=generator, dtype=torch.int32)
    texture = torch.rand(1, 3, 8, 8, generator=generator).requires_grad_()
    operators = {
        "face_ids": (vertices, faces, *SIZE, False, fused),
        "interpolate": (leaf, faces, ids, leaf.detach(), faces, fused),
        "coverage": (leaf, faces, ids, fused),
        "nearest_covered": (ids >= 0,),
        "carry": (image, source, fused),
    }
    if fused:
        uvs = torch.rand(vertices.shape[1], 2, generator=generator)
        operators["render_texture"] = (leaf, faces, ids, uvs, faces, texture)
    for name, arguments in operators.items():
        torch.library.opcheck(getattr(torch.ops.rome_lightning, name).default, arguments)
