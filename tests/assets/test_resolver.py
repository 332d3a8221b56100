import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace

import pytest
from filelock import FileLock

from rome_lightning.assets import resolver as resolver_module
from rome_lightning.assets.archives import SourceError
from rome_lightning.assets.registry import Asset, NpmArchive, PyPiArchive, WebAddress
from rome_lightning.assets.resolver import Resolver, cache_folder

CONTENT = b"the weights"
OTHER_CONTENT = b"other weights"


def _asset(name="model", content=CONTENT, **changes):
    asset = Asset(
        name=name,
        file=f"{name}.bin",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        licence="MIT",
        page="https://example.org/model",
        needed_for="the tests",
        sources=(
            WebAddress("https://example.org/model.bin"),
            PyPiArchive("some-package", "1.0", f"inside/{name}.bin"),
            NpmArchive("@scope/other", "2.0", f"package/{name}.bin"),
        ),
    )
    return replace(asset, **changes)


class FakeTransport:
    """Returns preset content, and records the order of calls."""

    def __init__(self, web=None, pypi=None, npm=None):
        self.web, self.pypi, self.npm = web, pypi, npm
        self.calls = []

    def _give(self, kind, content):
        self.calls.append(kind)
        if content is None:
            raise SourceError(f"{kind} is down")
        return content() if callable(content) else content

    def fetch_address(self, address, target, num_bytes):
        target.write_bytes(self._give("web", self.web))

    def fetch_pypi(self, source, folder):
        path = folder / "archive.whl"
        with zipfile.ZipFile(path, "w") as bundle:
            for name, content in self._give("pypi", self.pypi).items():
                bundle.writestr(name, content)
        return path

    def fetch_npm(self, source, folder):
        path = folder / "archive.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in self._give("npm", self.npm).items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path


@pytest.fixture
def make(tmp_path):
    """Build a resolver on an empty cache."""

    def _make(transport, *assets, environ=None):
        assets = assets or (_asset(),)
        lines = []
        resolver = Resolver(
            {asset.name: asset for asset in assets},
            transport,
            {"ROME_CACHE": str(tmp_path / "cache"), **(environ or {})},
            lines.append,
        )
        resolver.lines = lines
        return resolver

    return _make


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sources_are_tried_in_order_until_one_gives_the_file(make, tmp_path):
    transport = FakeTransport(npm={"package/model.bin": CONTENT})
    resolver = make(transport)
    path = resolver.resolve("model")
    assert transport.calls == ["web", "pypi", "npm"]
    assert path == tmp_path / "cache" / "model" / "model.bin"
    assert path.read_bytes() == CONTENT
    assert any("web is down" in line for line in resolver.lines)
    assert resolver.used == {"model": "MIT"}


def test_the_first_good_source_ends_the_search_and_the_cache_serves_the_next_call(make):
    transport = FakeTransport(web=CONTENT, pypi={"inside/model.bin": CONTENT})
    resolver = make(transport)
    resolver.resolve("model")
    resolver.resolve("model")
    make(transport).resolve("model")
    assert transport.calls == ["web"]


@pytest.mark.parametrize("wrong", [b"the w3ights", CONTENT[:4], CONTENT + b"!", b""])
def test_wrong_and_truncated_files_are_never_stored(make, tmp_path, wrong):
    resolver = make(
        FakeTransport(web=wrong, pypi={"inside/model.bin": wrong}, npm={"package/model.bin": wrong})
    )
    with pytest.raises(FileNotFoundError, match=r"official address at example\.org: wrong content"):
        resolver.resolve("model")
    assert _files(tmp_path / "cache") == [".lock"]


def test_a_source_with_wrong_content_does_not_stop_the_next_one(make):
    transport = FakeTransport(web=b"error page", pypi={"inside/model.bin": CONTENT})
    assert make(transport).resolve("model").read_bytes() == CONTENT


def test_a_miss_names_the_file_its_page_its_licence_and_its_place(make, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        make(FakeTransport()).resolve("model")
    text = str(caught.value)
    place = str(tmp_path / "cache" / "model" / "model.bin")
    for part in (
        "model.bin",
        "the tests",
        "https://example.org/model",
        "MIT",
        place,
        "ROME_ASSET_MODEL",
        "npm is down",
    ):
        assert part in text
    assert "\n" not in text


def test_without_permission_nothing_is_downloaded(make):
    transport = FakeTransport(web=CONTENT)
    with pytest.raises(FileNotFoundError, match="download not allowed"):
        make(transport).resolve("model", allow_download=False)
    assert transport.calls == []


def test_an_unknown_name_lists_the_known_ones(make):
    with pytest.raises(ValueError, match=r"unknown asset 'modle'; the known ones are model"):
        make(FakeTransport()).resolve("modle")


def test_the_users_own_file_wins_over_cache_and_sources(make, tmp_path):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(CONTENT)
    transport = FakeTransport(web=CONTENT)
    make(transport).resolve("model")
    assert make(transport, environ={"ROME_ASSET_MODEL": str(mine)}).resolve("model") == mine
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.bin").write_bytes(CONTENT)
    assert make(transport, environ={"ROME_ASSETS": str(folder)}).resolve("model") == folder / "model.bin"
    assert make(transport, environ={"ROME_ASSETS": str(tmp_path)}).resolve("model").parent.name == "model"


def test_the_users_own_file_must_exist_and_have_the_right_bytes(make, tmp_path):
    transport = FakeTransport(web=CONTENT)
    with pytest.raises(FileNotFoundError, match=r"\$ROME_ASSET_MODEL is /nowhere"):
        make(transport, environ={"ROME_ASSET_MODEL": "/nowhere"}).resolve("model")
    (tmp_path / "bad").write_bytes(b"the w3ights")
    with pytest.raises(ValueError, match=r"expected 11 bytes with sha256 \w{64}, got 11 bytes"):
        make(transport, environ={"ROME_ASSET_MODEL": str(tmp_path / "bad")}).resolve("model")
    assert transport.calls == []


def test_a_user_supplied_asset_is_never_downloaded_and_any_edition_is_taken(make, tmp_path):
    flame = _asset("flame", sha256=None, num_bytes=None, sources=(), commercial_use=False)
    with pytest.raises(FileNotFoundError, match="licence forbids automatic download"):
        make(FakeTransport(web=CONTENT), flame).resolve("flame")
    (tmp_path / "any.pkl").write_bytes(b"any edition")
    environ = {"ROME_ASSET_FLAME": str(tmp_path / "any.pkl")}
    assert make(FakeTransport(), flame, environ=environ).resolve("flame") == tmp_path / "any.pkl"


def test_noncommercial_assets_need_an_explicit_yes(make):
    asset = _asset(commercial_use=False, licence="research only")
    transport = FakeTransport(web=CONTENT)
    with pytest.raises(
        ValueError, match=r"must not be used commercially \(research only.*ROME_ACCEPT_NONCOMMERCIAL=1"
    ):
        make(transport, asset).resolve("model")
    with pytest.raises(ValueError, match="commercially"):
        make(transport, asset, environ={"ROME_ACCEPT_NONCOMMERCIAL": "0"}).resolve("model")
    assert transport.calls == []
    make(transport, asset, environ={"ROME_ACCEPT_NONCOMMERCIAL": "1"}).resolve("model")
    make(transport, asset).resolve("model", accept_noncommercial=True)
    with pytest.raises(ValueError, match="commercially"):
        make(transport, asset).resolve("model")


def test_a_damaged_cached_file_is_replaced(make):
    resolver = make(FakeTransport(web=CONTENT))
    path = resolver.resolve("model")
    path.write_bytes(b"the w3ights")
    os.utime(path, (1, 1))
    assert [status.state for status in resolver.status()] == ["damaged"]
    assert resolver.resolve("model").read_bytes() == CONTENT


def test_one_archive_serves_all_assets_that_it_holds(make, tmp_path):
    refused = _asset("refused", OTHER_CONTENT, commercial_use=False)
    transport = FakeTransport(
        pypi={
            "inside/model.bin": CONTENT,
            "inside/second.bin": OTHER_CONTENT,
            "inside/refused.bin": OTHER_CONTENT,
        }
    )
    resolver = make(transport, _asset(), _asset("second", OTHER_CONTENT), refused)
    resolver.resolve("model")
    resolver.resolve("second")
    assert transport.calls == ["web", "pypi"]
    assert _files(tmp_path / "cache") == [".lock", "model/model.bin", "second/second.bin"]


def test_a_damaged_neighbour_in_the_archive_does_not_fail_the_wanted_file(make):
    transport = FakeTransport(pypi={"inside/model.bin": CONTENT, "inside/second.bin": b"0ther weights"})
    resolver = make(transport, _asset(), _asset("second", OTHER_CONTENT))
    assert resolver.resolve("model").read_bytes() == CONTENT
    assert [status.state for status in resolver.status()] == ["cache", "missing"]


def test_status_downloads_nothing_and_survives_a_wrong_variable(make):
    transport = FakeTransport(web=CONTENT)
    resolver = make(transport, environ={"ROME_ASSET_MODEL": "/nowhere"})
    assert [(status.state, status.path) for status in resolver.status()] == [("missing", None)]
    assert transport.calls == []


def test_the_file_is_not_visible_before_it_is_complete(make, tmp_path):
    place = tmp_path / "cache" / "model" / "model.bin"
    seen = []

    def slow():
        seen.append(place.exists())
        return CONTENT

    make(FakeTransport(web=slow)).resolve("model")
    assert seen == [False]
    assert place.exists()


def test_an_interrupted_download_leaves_nothing_and_the_next_one_cleans_up(make, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(FakeTransport(web=interrupt)).resolve("model")
    assert _files(tmp_path / "cache") == [".lock"]
    (tmp_path / "cache" / ".incoming-killed").mkdir()
    (tmp_path / "cache" / ".incoming-killed" / "part").write_bytes(b"half")
    make(FakeTransport(web=CONTENT)).resolve("model")
    assert _files(tmp_path / "cache") == [".lock", "model/model.bin"]


def test_two_at_once_download_once(make):
    def slow():
        time.sleep(0.2)
        return CONTENT

    transport = FakeTransport(web=slow)
    resolvers = [make(transport) for _ in range(4)]
    threads = [threading.Thread(target=resolver.resolve, args=("model",)) for resolver in resolvers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert transport.calls == ["web"]
    assert (
        sum("waiting for another process" in line for resolver in resolvers for line in resolver.lines) == 3
    )


def test_a_lock_that_never_opens_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setattr(resolver_module, "LOCK_TIMEOUT_S", 0.1)
    (tmp_path / "cache").mkdir()
    with (
        FileLock(tmp_path / "cache" / ".lock"),
        pytest.raises(TimeoutError, match=r"another process has held .*\.lock"),
    ):
        make(FakeTransport(web=CONTENT)).resolve("model")


def test_a_cache_that_cannot_be_written_says_what_to_set(make, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot write to the cache .*; set ROME_CACHE"):
        make(FakeTransport(web=CONTENT)).resolve("model")


def test_cache_folder_follows_the_environment(tmp_path):
    assert cache_folder({"ROME_CACHE": str(tmp_path)}) == tmp_path
    assert cache_folder({}).parts[-2:] == (".cache", "rome_lightning")


def test_importing_the_resolver_stays_light():
    code = (
        "import sys, rome_lightning.assets; print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
