import re

import pytest

from rome_lightning.assets.registry import REGISTRY, NpmArchive, PyPiArchive, WebAddress


@pytest.mark.parametrize("asset", REGISTRY.values(), ids=str)
def test_entries_are_complete(asset):
    assert re.fullmatch(r"[a-z0-9_]+", asset.name)
    assert "/" not in asset.file
    assert asset.licence
    assert asset.needed_for
    assert asset.page.startswith("https://")
    if asset.sources:
        assert re.fullmatch(r"[0-9a-f]{64}", asset.sha256)
        assert asset.num_bytes > 0
    if asset.demo:
        assert asset.commercial_use, "the demo must run without accepting anything"


def test_file_names_are_unique_because_they_share_the_users_folder():
    files = [asset.file for asset in REGISTRY.values()]
    assert len(files) == len(set(files))


def test_official_addresses_come_first_and_are_encrypted():
    for asset in REGISTRY.values():
        kinds = [type(source) for source in asset.sources]
        assert WebAddress not in kinds[1:]
        for source in asset.sources:
            if isinstance(source, WebAddress):
                assert source.address.startswith("https://")


def test_package_sources_pin_a_version():
    archives = [s for a in REGISTRY.values() for s in a.sources if isinstance(s, PyPiArchive | NpmArchive)]
    assert archives
    assert all(re.fullmatch(r"[0-9]+(\.[0-9]+)*", archive.version) for archive in archives)
