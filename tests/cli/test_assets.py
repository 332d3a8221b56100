import json

import pytest

from rome_lightning.assets import Asset, AssetStatus
from rome_lightning.cli import assets as cli


def _asset(name, **changes):
    common = {
        "file": f"{name}.bin",
        "licence": "MIT [sic]",
        "page": "https://example.org",
        "needed_for": "tests",
        "num_bytes": 1_500_000,
        "sources": ("somewhere",),
    }
    return Asset(name=name, **{**common, **changes})


@pytest.fixture
def fetched(monkeypatch):
    """A small registry; returns the requested names, in order."""
    registry = {
        asset.name: asset
        for asset in (
            _asset("a", demo=True),
            _asset("b"),
            _asset("research", commercial_use=False),
            _asset("user", sources=(), num_bytes=None, commercial_use=False),
            _asset("down", demo=True),
        )
    }
    names = []

    def resolve(name, accept_noncommercial=None):
        names.append(name)
        if name == "down":
            raise FileNotFoundError("down.bin is missing")
        if name == "research" and not accept_noncommercial:
            raise ValueError("research must not be used commercially")
        return f"/cache/{name}"

    monkeypatch.setattr(cli, "REGISTRY", registry)
    monkeypatch.setattr(cli, "resolve", resolve)
    states = [AssetStatus(asset, "missing", None) for asset in registry.values()]
    monkeypatch.setattr(cli, "asset_status", lambda: states)
    return names


def test_names_are_fetched_and_their_paths_printed(fetched, capsys):
    assert cli.main(["fetch", "b", "a"]) == 0
    assert sorted(fetched) == ["a", "b"]
    assert capsys.readouterr().out == "/cache/a\n/cache/b\n"


def test_a_failure_does_not_stop_the_others_but_the_exit_code_says_so(fetched, capsys):
    assert cli.main(["fetch", "--demo", "b"]) == 1
    assert fetched == ["a", "b", "down"]
    shown = capsys.readouterr()
    assert "rome: error: down.bin is missing\nrome: 1 of 3 assets could not be fetched\n" in shown.err
    assert shown.out == "/cache/a\n/cache/b\n"


def test_all_leaves_out_what_needs_a_consent(fetched):
    cli.main(["fetch", "--all"])
    assert fetched == ["a", "b", "down"]
    fetched.clear()
    cli.main(["fetch", "--all", "--accept-noncommercial"])
    assert fetched == ["a", "b", "research", "down"]


def test_a_named_asset_without_consent_is_an_error(fetched, capsys):
    assert cli.main(["fetch", "research"]) == 1
    assert "commercially" in capsys.readouterr().err
    assert cli.main(["fetch", "research", "--accept-noncommercial"]) == 0


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["fetch", "nothing_like_it"], ["list", "x"]])
def test_wrong_usage_exits_with_2(fetched, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert fetched == []


def test_the_list_shows_names_states_and_licences(fetched, capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for part in ("research", "missing", "user-supplied", "1.5 MB", "MIT [sic]", "cache: "):
        assert part in shown
    assert fetched == []


def test_the_list_is_available_to_programs(fetched, capsys):
    assert cli.main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == ["a", "b", "research", "user", "down"]
    assert entries[2]["commercial_use"] is False
