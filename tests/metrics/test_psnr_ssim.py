import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import multiprocessing
from torchmetrics.functional.image import structural_similarity_index_measure

from rome_lightning.metrics import PSNR, SSIM, psnr, ssim, ssim_map
from rome_lightning.metrics.psnr import MAX_PSNR


def pictures(count: int, size: tuple[int, int] = (32, 40)) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and noisy copies, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    target = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    noise = torch.randn(target.shape, generator=generator)
    strength = torch.linspace(0.02, 0.2, count).view(-1, 1, 1, 1)
    return (target + strength * noise).clamp(0, 1), target


def test_psnr_against_loops() -> None:
    a, b = pictures(3)
    for value, x, y in zip(psnr(a, b).tolist(), a.tolist(), b.tolist(), strict=True):
        flat = [
            (p - q) ** 2
            for cx, cy in zip(x, y, strict=True)
            for rx, ry in zip(cx, cy, strict=True)
            for p, q in zip(rx, ry, strict=True)
        ]
        assert value == pytest.approx(-10 * math.log10(sum(flat) / len(flat)), abs=1e-4)
    assert psnr(b, b).tolist() == [MAX_PSNR] * 3


def test_masked_psnr_is_that_of_the_cut_out_pixels() -> None:
    a, b = pictures(2)
    mask = torch.zeros(2, 1, 32, 40)
    mask[:, :, 4:20, 8:30] = 1
    torch.testing.assert_close(psnr(a, b, mask), psnr(a[..., 4:20, 8:30], b[..., 4:20, 8:30]))
    torch.testing.assert_close(psnr(a, b, torch.ones_like(mask)), psnr(a, b))
    assert psnr(a, b, torch.zeros_like(mask)).isnan().all()


def test_ssim_against_torchmetrics_and_skimage() -> None:
    a, b = pictures(3)
    ours = ssim(a, b)
    # torchmetrics pads by reflection and includes the border in the mean; the rest is the same.
    _, full = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ours, full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-5, rtol=0)
    for value, x, y in zip(ours.tolist(), a.numpy(), b.numpy(), strict=True):
        # truncate = 3.5 standard deviations gives skimage's 11 pixels; its mean excludes the border too.
        reference = structural_similarity(
            x.astype(np.float64),
            y.astype(np.float64),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        assert value == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("size", [(11, 11), (37, 90), (64, 128)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_window_against_skimage(size: tuple[int, int], channels: int) -> None:
    """In double precision, on bright images, whose variances lose most digits in single precision."""
    a, b = (0.7 + 0.3 * image[:, :channels] for image in pictures(2, size))
    ours, plain = ssim_map(a, b), ssim_map(a.requires_grad_(), b)
    assert ours.shape == (2, size[0] - 10, size[1] - 10)
    for index in range(2):
        _, full = structural_similarity(
            a[index].detach().double().numpy(),
            b[index].double().numpy(),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        wanted = torch.from_numpy(full)[:, 5:-5, 5:-5].mean(0)
        assert (ours[index].double() - wanted).abs().max() < 2e-4
        # With gradients torch computes it.
        assert (plain[index].double() - wanted).abs().max() < 2e-3


def test_ssim_at_its_ends() -> None:
    a, b = pictures(2)
    torch.testing.assert_close(ssim(b, b), torch.ones(2))
    assert (ssim(a, b) < 1).all()
    assert ssim(a, b)[0] > ssim(a, b)[1]
    torch.testing.assert_close(ssim(a, b, torch.ones(2, 1, 32, 40)), ssim(a, b))


def test_masked_ssim_ignores_windows_outside() -> None:
    a, b = pictures(1)
    changed = a.clone()
    changed[..., 30:] = 0
    mask = torch.zeros(1, 1, 32, 40)
    mask[..., :24] = 1
    # The windows of the first 24 columns extend 5 pixels further, to column 28.
    assert torch.equal(ssim(changed, b, mask), ssim(a, b, mask))


@pytest.mark.parametrize(("metric", "function"), [(PSNR, psnr), (SSIM, ssim)])
def test_unequal_batches_give_the_same_as_one(metric: type, function: object) -> None:
    a, b = pictures(7)
    whole, parts, other = metric(), metric(), metric()
    whole.update(a, b)
    for start, end in ((0, 1), (1, 6)):
        parts.update(a[start:end], b[start:end])
    other.update(a[6:], b[6:])
    parts.merge_state(other)
    assert whole.compute() == parts.compute()
    torch.testing.assert_close(whole.compute(), function(a, b).mean())  # type: ignore[operator]
    whole.reset()
    whole.update(a[:2], b[:2])
    torch.testing.assert_close(whole.compute(), function(a[:2], b[:2]).mean())  # type: ignore[operator]
    assert metric.higher_is_better


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 8x40"):
        ssim(torch.zeros(1, 3, 8, 40), torch.zeros(1, 3, 8, 40))


def _on_rank(rank: int, address: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    a, b = pictures(5)
    mine = slice(0, 1) if rank == 0 else slice(1, 5)
    results = []
    for metric in (PSNR(), SSIM()):
        metric.update(a[mine], b[mine])
        results.append(metric.compute())
    torch.save(torch.stack(results), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    multiprocessing.spawn(_on_rank, (address, str(tmp_path)), nprocs=2)
    a, b = pictures(5)
    expected = torch.stack([psnr(a, b).mean(), ssim(a, b).mean()])
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)
