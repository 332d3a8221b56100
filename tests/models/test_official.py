"""Official weights: every key is reported, the networks give the official numbers, and the way back."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rome_lightning.cli.main import main
from rome_lightning.models.checkpoint import CONFIG_KEY, load_avatar, read_checkpoint
from rome_lightning.models.official import import_official, read_official, to_official
from rome_lightning.networks import OffsetMLP, PatchDiscriminator, TextureEncoder, UNet


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    """Narrow networks of the released architecture; tests/parity compares them with the official ones."""
    torch.manual_seed(0)
    return {
        "autoencoder": TextureEncoder(base_width=32),
        "mesh_deformer": UNet(47, 32, base_width=16),
        "mlp_deformer": OffsetMLP(width=32),
        "unet": UNet(47, 4, base_width=16),
        "discriminator.net_0256": PatchDiscriminator(base_width=8, spectral_norm=False),
    }


@pytest.fixture
def released(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """A narrow ``rome.pth``; its networks have the release's key names."""
    return {
        f"{name}.{key}": value.clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A head with FLAME's file structure, on a mesh of our own."""
    from flame_files import make_arrays

    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    return path


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_imported_networks_give_the_same_outputs(
    networks: dict[str, nn.Module], released: dict[str, Tensor], head: Path, tmp_path: Path
) -> None:
    output = tmp_path / "official.ckpt"
    file = saved(released, tmp_path / "rome.pth")
    assert (
        main(["import-checkpoint", str(file), "-o", str(output), "--head", str(head), "--approximate"]) == 0
    )
    avatar = load_avatar(output)
    imported = {
        "autoencoder": avatar.texture_model.encoder,
        "mesh_deformer": avatar.offset_network.geometry_network,
        "mlp_deformer": avatar.offset_network.vertex_network,
        "unet": avatar.renderer.network,
    }
    inputs = {
        "autoencoder": torch.rand(1, 4, 32, 32),
        "mesh_deformer": torch.rand(1, 47, 32, 32),
        "mlp_deformer": torch.rand(1, 9, 58),
        "unet": torch.rand(1, 47, 32, 32),
    }
    with torch.no_grad():
        for name, network in imported.items():
            assert torch.equal(network(inputs[name]), networks[name].eval()(inputs[name])), name


def test_every_key_is_accounted_for(released: dict[str, Tensor], head: Path, tmp_path: Path) -> None:
    _, report = import_official(saved(released, tmp_path / "rome.pth"), head, approximate=True)
    assert report.complete
    assert len(report.matched) == len(released)
    # This discriminator's spectral normalization is folded.
    assert report.derived
    assert not report.renamed
    broken = {key: value for key, value in released.items() if key != "unet.to_outputs.bias"}
    broken["unet.invented"] = torch.zeros(1)
    broken["mlp_deformer.block_1.2.bias"] = torch.zeros(7)
    broken["parametric_avatar.uv_grid"] = torch.zeros(1)
    _, report = import_official(saved(broken, tmp_path / "broken.pth"), head, approximate=True)
    assert not report.complete
    assert report.missing == ["unet.to_outputs.bias"]
    assert report.unexpected == ["unet.invented"]
    assert list(report.shapes) == ["mlp_deformer.block_1.2.bias"]
    assert list(report.ignored) == ["parametric_avatar.uv_grid"]


def test_a_file_that_does_not_fit_writes_nothing(
    released: dict[str, Tensor], head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del released["unet.to_outputs.bias"]
    file, output = saved(released, tmp_path / "rome.pth"), tmp_path / "official.ckpt"
    arguments = ["import-checkpoint", str(file), "-o", str(output), "--head", str(head), "--approximate"]
    assert main(arguments) == 1
    assert not output.exists()
    assert "missing     unet.to_outputs.bias" in capsys.readouterr().out
    assert main([*arguments, "--partial"]) == 0
    assert output.exists()


@pytest.mark.parametrize("form", ["orig", "parametrized"])
def test_forms_of_spectral_normalization_give_the_same_discriminator(
    released: dict[str, Tensor], head: Path, tmp_path: Path, form: str
) -> None:
    folded, _ = import_official(saved(released, tmp_path / "rome.pth"), head, approximate=True)
    key = "discriminator.net_0256.blocks.0.main.0.weight"
    weight = released.pop(key)
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    names = {
        "orig": (f"{key}_orig", f"{key}_u", f"{key}_v"),
        "parametrized": tuple(
            key.removesuffix("weight") + f"parametrizations.weight.{part}"
            for part in ("original", "0._u", "0._v")
        ),
    }[form]
    # Three times as large before the normalization: the same after it.
    released |= dict(zip(names, (3 * weight, u[:, 0], v[0]), strict=True))
    checkpoint, report = import_official(saved(released, tmp_path / "spectral.pth"), head, approximate=True)
    assert report.complete
    assert names[0] in report.renamed
    ours = "discriminator.blocks.0.main.0.weight"
    torch.testing.assert_close(checkpoint["state_dict"][ours], 3 * folded["state_dict"][ours])
    assert float(s[0]) > 0


def test_tensors_saved_from_a_gpu_are_read_without_one(released: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(released, tmp_path / "rome.pth")
    cuda = tmp_path / "cuda.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(cuda, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("data.pkl"):
                # The device is a string in the pickle.
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                assert b"cuda:0" in content
            new.writestr(item.filename, content)
    state = read_official(cuda)
    assert all(value.device.type == "cpu" for value in state.values())
    torch.testing.assert_close(state["unet.to_outputs.bias"], released["unet.to_outputs.bias"])


def test_export_gives_the_official_file_back(
    released: dict[str, Tensor], head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ours, back = (tmp_path / name for name in ("rome.pth", "official.ckpt", "back.pth"))
    saved(released, file)
    arguments = ["import-checkpoint", str(file), "-o", str(ours), "--head", str(head), "--approximate"]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["export-checkpoint", str(ours), "-o", str(back)]) == 0
    assert capsys.readouterr().err == ""
    again = read_official(back)
    derived = {key for key in again if key.endswith(("weight_u", "weight_v"))}
    assert set(again) - derived == set(released)
    assert all(torch.equal(again[key], value) for key, value in released.items())
    assert read_checkpoint(ours)["origin"]["file"] == "rome.pth"


def test_export_says_where_the_official_code_differs(
    released: dict[str, Tensor], head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = import_official(saved(released, tmp_path / "rome.pth"), head, approximate=True)
    config = checkpoint[CONFIG_KEY]
    config["head"] = "open"
    config["framing"] = "crop"
    config["decoder"]["pooling"] = "average"
    ours = saved(checkpoint, tmp_path / "ours.ckpt")
    assert main(["export-checkpoint", str(ours), "-o", str(tmp_path / "back.pth")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"rome: warning: the official code gives another picture: {difference}"
        for difference in (
            "head is the open head; the official code has FLAME",
            "framing is crop; the official code has ffhq",
            "decoder.pooling is average; the official code has max",
        )
    ]


def test_a_model_of_another_architecture_cannot_be_exported() -> None:
    with pytest.raises(ValueError, match="released architecture"):
        to_official({"avatar.texture_model.network.head.weight": torch.zeros(1)})


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path, ("ran",))


def test_bad_files_are_refused_with_a_reason(released: dict[str, Tensor], head: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="SamsungLabs"):
        read_official(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="could run code"):
        read_official(saved({"unet": Exploit()}, tmp_path / "exploit.pth"))
    whole = saved(released, tmp_path / "rome.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_official(tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="tensors by name"):
        read_official(saved([torch.zeros(1)], tmp_path / "list.pth"))
    with pytest.raises(ValueError, match="not to the open head"):
        import_official(tmp_path / "rome.pth", Path("open"))
