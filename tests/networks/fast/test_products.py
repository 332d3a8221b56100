"""Products of many matrices against double precision."""

import pytest
import torch

from rome_lightning.networks.fast.products import Products

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture(params=["oneDNN", "none"])
def _onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "none":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif not torch.backends.mkldnn.is_available():
        pytest.skip("needs a torch with oneDNN")


@pytest.mark.usefixtures("_onednn")
@pytest.mark.parametrize("num_rows", [1, 7, 64, 200])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(16, 48), (64, 64), (5, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products(num_rows, num_inputs, num_outputs, with_bias):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, 25, num_inputs, generator=draw)
    matrices = torch.randn(25, num_inputs, num_outputs, generator=draw)
    bias = torch.randn(25, num_outputs, generator=draw) if with_bias else None
    found = Products(matrices, bias, num_rows)(rows)
    expected = torch.einsum("ngi,gio->ngo", rows.double(), matrices.double())
    if bias is not None:
        expected += bias
    # Each sum may round by 2^-24 of the magnitudes it adds, whatever their order.
    magnitudes = torch.einsum("ngi,gio->ngo", rows.abs(), matrices.abs()) + (
        0 if bias is None else bias.abs()
    )
    bound = (num_inputs + 1) * 2.0**-24 * magnitudes.double()
    assert ((found.double() - expected).abs() <= bound).all()
    assert found.is_contiguous()
