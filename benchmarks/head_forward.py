"""Time of the head model's forward pass, as a ratio to the matrix products that it cannot do without.

    python benchmarks/head_forward.py [--head open|PATH] [--batch 32] [--threads 1]

The products are those of identity, expression and pose correctives (one product with the stacked basis)
and of the skinning weights with the joint transforms. Target: at most 2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from rome_lightning.data import HeadParams
from rome_lightning.head import HeadData, HeadModel, load_head
from rome_lightning.head.data import REGIONS


def random_head(num_vertices: int = 5023, num_faces: int = 10006) -> HeadModel:
    """Random numbers in the shape of FLAME with 100 identity and 50 expression components."""
    rng = torch.Generator().manual_seed(0)
    data = HeadData(
        name="random",
        template=torch.randn(num_vertices, 3, generator=rng),
        shape_basis=torch.randn(num_vertices, 3, 100, generator=rng),
        expression_basis=torch.randn(num_vertices, 3, 50, generator=rng),
        expression_names=tuple(map(str, range(50))),
        joints=torch.randn(5, 3, generator=rng),
        joint_basis=torch.randn(5, 3, 150, generator=rng),
        skinning_weights=torch.softmax(torch.randn(num_vertices, 5, generator=rng), dim=-1),
        faces=torch.randint(num_vertices, (num_faces, 3), generator=rng),
        uvs=torch.rand(num_vertices, 2, generator=rng),
        uv_faces=torch.randint(num_vertices, (num_faces, 3), generator=rng),
        regions={name: torch.zeros(num_vertices, dtype=torch.bool) for name in REGIONS},
        pose_basis=torch.randn(36, 3 * num_vertices, generator=rng),
    )
    return HeadModel(data)


def median_ms(function: Callable[[], object], repeats: int) -> float:
    for _ in range(5):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


@torch.no_grad()
def measure(head: HeadModel, batch: int, repeats: int) -> tuple[float, float]:
    rng = torch.Generator().manual_seed(0)
    params = HeadParams.from_packed(
        torch.randn(batch, head.num_shape, generator=rng),
        torch.rand(batch, head.num_expression, generator=rng),
        0.2 * torch.randn(batch, 15, generator=rng),
        torch.ones(batch, 3),
    )
    pose_basis = head.pose_basis
    basis = torch.cat([head.basis, *([] if pose_basis is None else [pose_basis])])
    coefficients = torch.randn(batch, len(basis), generator=rng)
    transforms = torch.randn(batch, 12, 5, generator=rng)
    template, weights = head.template, head.skinning_weights.T.contiguous()

    def products() -> None:
        torch.addmm(template, coefficients, basis)
        torch.matmul(transforms, weights)

    return median_ms(lambda: head(params), repeats), median_ms(products, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--head", default="random", help="'random' (FLAME's sizes), 'open' or a FLAME pickle")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    head = random_head() if arguments.head == "random" else load_head(arguments.head)
    forward, products = measure(head, arguments.batch, arguments.repeats)
    print(
        f"{head.name}, {head.num_vertices} vertices, batch {arguments.batch}, {arguments.threads} thread(s): "
        f"forward {forward:.2f} ms, matrix products {products:.2f} ms, ratio {forward / products:.2f}"
    )


if __name__ == "__main__":
    main()
