"""Digests of our files: every changed byte is detected; older files are read with a warning."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from rome_lightning.media.digest import check_archive, check_seal, seal, seal_archive, unsealed
from rome_lightning.media.tensors import pack_tensors, read_tensors, unpack_tensors, write_tensors


def _flips(data: bytes, count: int = 200):
    """The data with one bit flipped, throughout and in every byte of both ends."""
    generator = np.random.default_rng(0)
    places = {*range(min(80, len(data))), *range(max(0, len(data) - 120), len(data))}
    for place in sorted(places | set(generator.integers(0, len(data), count).tolist())):
        changed = bytearray(data)
        changed[place] ^= 1 << int(generator.integers(8))
        yield bytes(changed)


def _archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(300.0), "b": [1, "two"]}, buffer)
    return buffer.getvalue()


def _sealed_archive() -> bytes:
    buffer = io.BytesIO(_archive())
    seal_archive(buffer)
    return buffer.getvalue()


def test_a_sealed_archive_is_read_by_all_and_every_changed_bit_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(_sealed_archive())
    assert check_archive(path)
    assert zipfile.ZipFile(path).testzip() is None
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(300.0))
    for changed in _flips(_sealed_archive()):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"SHA-256|damaged"):
            check_archive(path)


@pytest.mark.parametrize("change", ["short", "long", "zeros", "swapped", "empty"])
def test_other_damage_to_an_archive_is_found(tmp_path, change):
    data = _sealed_archive()
    half = len(data) // 2
    damaged = {
        "short": data[:-1],
        "long": data + b"\0",
        "zeros": data[:half] + bytes(64) + data[half + 64 :],
        "swapped": data[half : half + 100] + data[100:half] + data[:100] + data[half + 100 :],
        "empty": b"",
    }[change]
    path = tmp_path / "a.ckpt"
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        check_archive(path)


def test_an_archive_from_before_is_checked_by_its_checksums(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(_archive())
    assert not check_archive(path)
    content = bytearray(_archive())
    content[content.index(np.float32(250).tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        check_archive(path)


def test_every_changed_bit_of_a_tensor_file_is_found(tmp_path):
    tensors = {"x": torch.arange(50.0), "y": torch.ones(3, dtype=torch.uint8)}
    data = pack_tensors(tensors, {"rome": '{"format": "test/1"}', "note": "n"})
    assert data == pack_tensors(tensors, {"note": "n", "rome": '{"format": "test/1"}'})
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    found, metadata = unpack_tensors(path)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert metadata == {"rome": '{"format": "test/1"}', "note": "n"}
    for changed in (*_flips(data), data[:-1], data + b"\0", data[:7], b""):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged"):
            unpack_tensors(path)


def test_a_tensor_file_from_before_is_read_with_a_note(tmp_path, caplog):
    from safetensors.torch import save

    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"x": torch.ones(2)}, {"rome": '{"format": "test/1"}'}))
    assert read_tensors(path, "test/1")[0]["x"].tolist() == [1, 1]
    assert "has no SHA-256" in caplog.text
    caplog.clear()
    write_tensors(path, {"x": torch.ones(2)}, {"format": "test/1"})
    read_tensors(path, "test/1")
    assert not caplog.text


@pytest.mark.parametrize("header", ["[" * 100_000, "[]", '{"__metadata__": 3}', '{"__metadata__": {"a": 1}}'])
def test_a_header_of_another_kind_is_an_error_of_one_line(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(ValueError, match="is damaged"):
        unpack_tensors(path)


def test_a_seal_at_the_end_is_taken_off_again(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(seal(b"content"))
    assert check_seal(path)
    assert unsealed(path.read_bytes()) == b"content"
    assert unsealed(b"content") == b"content"
    path.write_bytes(seal(b"content").replace(b"content", b"contenu"))
    with pytest.raises(ValueError, match="SHA-256"):
        check_seal(path)
    path.write_bytes(b"content")
    assert not check_seal(path)
