"""The kernels' CUDA source compiles; this needs no GPU. Tests on a GPU check the images."""

import pytest

from rome_lightning.acceleration import kernels, warp_status


@pytest.mark.slow
def test_all_kernels_compile_for_cuda(tmp_path):
    if warp_status() != "ok":
        pytest.skip(warp_status())
    import warp

    kernels("renderer")
    from rome_lightning.renderer.kernels import interpolation, silhouette, soft, texture, visibility
    from rome_lightning.renderer.kernels import nearest_fill as extension

    whole = (visibility.visibility_kernel, silhouette.contour_kernel, soft.soft_kernel)
    wanted = [*whole, extension.nearest_row_kernel]
    for num_channels in (1, 8):
        for family in (interpolation._kernels, texture._kernels, extension._carriers):
            wanted += family(num_channels)
    for module in {kernel.module for kernel in wanted}:
        warp.compile_aot_module(module, arch=90, module_dir=str(tmp_path), use_ptx=True)
    sources = list(tmp_path.glob("*.ptx"))
    assert len(sources) == 16
