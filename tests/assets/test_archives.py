import io
import tarfile
import zipfile

import pytest

from rome_lightning.assets.archives import SourceError, copy_limited, extract_member
from rome_lightning.media.digest import file_sha256


def _tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


@pytest.mark.parametrize(("make", "suffix"), [(_tar, ".tar.gz"), (_zip, ".whl")])
def test_one_member_is_extracted_and_nothing_else(tmp_path, make, suffix):
    members = {"package/model.bin": b"right", "../outside.txt": b"evil", "/absolute.txt": b"evil"}
    archive = make(tmp_path / f"archive{suffix}", members)
    folder = tmp_path / "folder"
    folder.mkdir()
    extract_member(archive, "package/model.bin", folder / "out", limit=5)
    assert (folder / "out").read_bytes() == b"right"
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([archive.name, "folder", "out"])


@pytest.mark.parametrize(("make", "suffix"), [(_tar, ".tar.gz"), (_zip, ".whl")])
def test_a_member_with_a_climbing_name_lands_where_the_caller_said(tmp_path, make, suffix):
    archive = make(tmp_path / f"archive{suffix}", {"../../climb.bin": b"data"})
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    extract_member(archive, "../../climb.bin", folder / "out")
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert not list(tmp_path.rglob("climb.bin"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_folders_and_devices_are_refused(tmp_path, kind):
    archive = _tar(tmp_path / "a.tgz", {"secret": b"x", "model.bin": (kind, "secret")})
    with pytest.raises(SourceError, match="not a plain file"):
        extract_member(archive, "model.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "suffix"), [(_tar, ".tar.gz"), (_zip, ".whl")])
def test_a_member_that_is_too_long_stops_early(tmp_path, make, suffix):
    archive = make(tmp_path / f"bomb{suffix}", {"model.bin": bytes(1 << 24)})
    with pytest.raises(SourceError, match="longer than the expected 1,000 bytes"):
        extract_member(archive, "model.bin", tmp_path / "out", limit=1000)
    assert (tmp_path / "out").stat().st_size <= 1000


@pytest.mark.parametrize(("make", "suffix"), [(_tar, ".tar.gz"), (_zip, ".whl")])
def test_a_missing_member_and_a_damaged_archive_say_so(tmp_path, make, suffix):
    archive = make(tmp_path / f"archive{suffix}", {"other.bin": bytes(range(256)) * 64})
    with pytest.raises(SourceError, match=r"has no file model\.bin"):
        extract_member(archive, "model.bin", tmp_path / "out")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(SourceError, match="damaged"):
        extract_member(archive, "other.bin", tmp_path / "out")


def test_damage_inside_a_zip_member_is_noticed(tmp_path):
    archive = _zip(tmp_path / "a.whl", {"model.bin": b"A" * 1000})
    archive.write_bytes(archive.read_bytes().replace(b"AAAA", b"AABA", 1))
    with pytest.raises(SourceError, match="damaged"):
        extract_member(archive, "model.bin", tmp_path / "out")


def test_hash_and_copy(tmp_path):
    blocks = []
    assert copy_limited(io.BytesIO(b"abc"), tmp_path / "f", 3, blocks.append) == 3
    assert blocks == [3]
    # FIPS 180-2, appendix B.1.
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
