import builtins
import json
import sys
import types

import pytest

from rome_lightning.cli import doctor
from rome_lightning.cli.doctor import Check


def _by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture
def without(monkeypatch):
    """Make an import fail with the given error."""

    def _without(name, error):
        real = builtins.__import__

        def fake(module, *rest):
            if module == name:
                raise error
            return real(module, *rest)

        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(builtins, "__import__", fake)

    return _without


@pytest.mark.parametrize(("states", "code"), [(["ok", "note"], 0), (["ok", "broken"], 1)])
def test_the_exit_code_follows_what_is_broken(monkeypatch, capsys, states, code):
    checks = [Check("group", f"thing {index}", state, "a [detail]") for index, state in enumerate(states)]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(checks),))
    assert doctor.main([]) == code
    shown = capsys.readouterr().out
    assert "a [detail]" in shown
    assert ("1 broken: thing 1" if code else "nothing broken") in shown
    assert doctor.main(["--json"]) == code
    assert [entry["state"] for entry in json.loads(capsys.readouterr().out)] == states


def test_requirements_are_compared_with_what_is_installed(monkeypatch):
    monkeypatch.setattr(
        doctor, "requires", lambda name: ["pytest>=1", "numpy<1", "no-such-thing", "x; extra == 'dev'"]
    )
    checks = _by_name(doctor.check_packages())
    assert checks["pytest"].state == "ok"
    assert checks["numpy"].state == "broken"
    assert "wanted <1" in checks["numpy"].detail
    assert checks["no-such-thing"].state == "broken"
    assert "`pip install no-such-thing`" in checks["no-such-thing"].detail
    assert "x" not in checks


def test_a_torchvision_of_another_build_is_explained(without):
    without("torchvision", RuntimeError("operator torchvision::nms does not exist\nmore"))
    check = _by_name(doctor.check_torch())["torchvision"]
    assert check.state == "broken"
    assert "operator torchvision::nms does not exist; it does not match torch" in check.detail


def test_torch_and_devices_are_reported():
    checks = _by_name(doctor.check_torch())
    assert checks["torch"].state == "ok"
    assert "threads" in checks["cpu"].detail


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"torch": "ok", "warp": "no warp"}, {"torch": "ok", "warp": "note"}),
        ({"torch": "no torch"}, {"torch": "note", "backends": "broken"}),
    ],
)
def test_one_renderer_backend_is_enough(monkeypatch, states, expected):
    fake = types.ModuleType("rome_lightning.renderer")
    fake.available_rasterizers = lambda: states
    monkeypatch.setitem(sys.modules, "rome_lightning.renderer", fake)
    assert {check.name: check.state for check in doctor.check_renderer()} == expected


def test_missing_assets_say_what_they_prevent_and_damaged_ones_are_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("ROME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROME_ASSETS", raising=False)
    (tmp_path / "cache" / "modnet").mkdir(parents=True)
    (tmp_path / "cache" / "modnet" / "modnet.onnx").write_bytes(b"half")
    checks = _by_name(doctor.check_assets())
    assert checks["modnet"].state == "broken"
    assert checks["face_landmarker"].state == "note"
    assert "when first needed, for tracking" in checks["face_landmarker"].detail
    assert "rome assets fetch face_landmarker" in checks["face_landmarker"].detail
    assert checks["flame"].detail.startswith("missing, prevents: head models")
    assert "https://flame.is.tue.mpg.de" in checks["flame"].detail
    assert checks["cache"].state == "ok"


def test_h264_is_really_written():
    assert _by_name(doctor.check_video())["h264"].state == "ok"


def test_clients_that_are_missing_are_only_noted(monkeypatch):
    monkeypatch.setattr("rome_lightning.assets.transport.find_npm", lambda: None)
    checks = _by_name(doctor.check_clients())
    assert checks["npm"].state == "note"
