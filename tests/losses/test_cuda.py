import pytest
import torch

from rome_lightning.losses import chamfer_2d, dice, laplacian, occupancy
from rome_lightning.metrics import psnr, ssim


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_values_agree_with_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(2, 40, 3, generator=generator) * 24
    visible = torch.rand(2, 40, generator=generator) > 0.3
    a, b = torch.rand(2, 1, 24, 24, generator=generator), torch.rand(2, 1, 24, 24, generator=generator)
    edges = torch.stack([torch.arange(39), torch.arange(1, 40)], dim=1)

    def values(device: str) -> list[torch.Tensor]:
        v, seen, x, y, e = (tensor.to(device) for tensor in (vertices, visible, a, b, edges))
        # A CPU generator samples the same points for both devices.
        draws = torch.Generator().manual_seed(1)
        losses = [chamfer_2d(v, seen, y, generator=draws), laplacian(v, e), dice(x, y), occupancy(x, y)]
        return [*losses, psnr(x, y), ssim(x, y)]

    for on_cpu, on_gpu in zip(values("cpu"), values("cuda"), strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-5)
