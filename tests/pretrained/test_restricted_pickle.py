"""The pickle reader returns plain data and refuses everything that could run code."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from rome_lightning.pretrained.pickled_data import SparseMatrix, to_array
from rome_lightning.pretrained.restricted_pickle import load_npy_object, load_pickle, loads


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_reads_what_pickle_writes(protocol: int) -> None:
    value = {
        "text": "ä", "bytes": b"\x00\xff" * 300, "number": [1, -2, 2**40, 0.5, True, None],
        "tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "float": np.arange(6.0).reshape(2, 3),
        "scalar": np.float32(0.25), "big": np.arange(5, dtype=">i4"), "empty": np.zeros((0, 3)),
        "fortran": np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
    }  # fmt: skip
    if protocol == 1:
        value.pop("bytes")
    read = loads(pickle.dumps(value, protocol))
    for name, expected in value.items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(read[name], expected)
            assert read[name].dtype == expected.dtype.newbyteorder("=")
        else:
            assert read[name] == expected


def test_repeated_objects_come_from_the_memo() -> None:
    array = np.arange(3.0)
    read = loads(pickle.dumps([array, array, {"again": array}], 2))
    assert read[0] is read[1]
    assert read[2]["again"] is read[0]


@pytest.mark.parametrize(
    "kind",
    [
        scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.coo_matrix,
        scipy.sparse.csc_array, scipy.sparse.csr_array, scipy.sparse.coo_array,
    ],
)  # fmt: skip
def test_sparse_matrices(kind: Any) -> None:
    dense = np.random.default_rng(0).random((5, 40)) * (np.random.default_rng(1).random((5, 40)) > 0.8)
    read = loads(pickle.dumps(kind(dense), 2))
    np.testing.assert_array_equal(to_array(read), dense)


def test_chumpy_objects(chumpy: Any) -> None:
    array = np.random.default_rng(0).random((7, 3))
    whole = chumpy.Ch(x=array, _dirty_vars=set(), _itr=None)
    some = chumpy.Select(a=whole, idxs=np.array([3, 0, 4, 5]), preferred_shape=(2, 2))
    read = loads(pickle.dumps({"whole": whole, "some": some}, 2))
    np.testing.assert_array_equal(to_array(read["whole"]), array)
    np.testing.assert_array_equal(to_array(read["some"]), array.ravel()[[3, 0, 4, 5]].reshape(2, 2))


def test_expressions_in_unused_fields_are_kept_unevaluated() -> None:
    """Written like chumpy: the class, then the object's attributes."""
    data = b"}(S'model'\nK\x05S'unused'\ncchumpy.ch_ops\nadd\n)\x81}S'a'\nK\x01sbu."
    read = loads(data)
    assert read["model"] == 5
    with pytest.raises(ValueError, match="'add' in the pickle holds no numbers"):
        to_array(read["unused"])


def test_npy_with_one_dict_and_a_tensor(tmp_path: Path) -> None:
    content = {"faces": np.arange(4), "contour": torch.arange(3)}
    path = tmp_path / "landmark_embedding.npy"
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    read = load_npy_object(path)
    np.testing.assert_array_equal(read["faces"], content["faces"])
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match="one pickled object"):
        load_npy_object(path)


class Call:
    """Pickles as a call of an arbitrary function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "posix.system": Call(os.system, "touch hacked"),
    "nt.system": b"cnt\nsystem\n(S'touch hacked'\ntR.",
    "builtins.eval": Call(eval, "open('hacked', 'w')"),
    "builtins.getattr": Call(getattr, "text", "format"),
    "__builtin__.getattr": b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
    "io.open": Call(open, "hacked", "w"),
    "builtins.__import__": Call(builtins.__import__, "os"),
    "numpy.fromfile": b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
    "numpy.load": b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
    "numpy.save": b"cnumpy\nsave\n(S'hacked'\nK\x01tR.",
    "numpy.ctypeslib.load_library": b"cnumpy.ctypeslib\nload_library\n.",
    "scipy.sparse.load_npz": b"cscipy.sparse\nload_npz\n.",
    "torch.load": b"ctorch\nload\n.",
    "torch.hub.load": b"ctorch.hub\nload\n.",
    "chumpy.ch.os": b"cchumpy.ch\nos\n.",
    "numpy.core.multiarray._reconstruct.__globals__": (
        b"\x80\x04\x8c\x16numpy.core.multiarray\x8c\x19_reconstruct.__globals__\x93."
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_globals_are_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = HOSTILE[name]
    data = case if isinstance(case, bytes) else pickle.dumps({"f": [case]}, 2)
    expected = name.replace("builtins", "(builtins|__builtin__)").replace(".", r"\.")
    if name.endswith("__globals__"):
        expected = "_reconstruct|damaged"
    with pytest.raises(ValueError, match=expected):
        loads(data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\ndtype\n}S'code'\nS'O'\nsb.",  # state of a name, not of an object
        b"cnumpy\nndarray\n)R.",  # the array type is no constructor
        b"cbuiltins\nobject\n)R.",
        b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\ncbuiltins\nobject\nNtR.",
        b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\ncnumpy\ndtype\nNtR.",
        b"\x8c\x0bhello world)R.",  # a call of a string
        b"]}S'a'\nK\x01sb.",  # state of a list
        b"cchumpy.ch\nCh\n)\x81S'state'\nb.",  # state that is no dict
        b"(S'touch hacked'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'x'\no.",  # OBJ
        b"Pname\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"\x97.",  # an out-of-band buffer
        b"c_codecs\nencode\n(Vtext\nS'rot13'\ntR.",
    ],
)
def test_tricks_with_allowed_names_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"refuse|constructor|rebuild|encode|damaged"):
        loads(data)


def _array_pickle(shape: bytes, code: bytes, content: bytes) -> bytes:
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01" + shape + b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + content + b"tb."
    )


def test_the_array_pickle_of_these_tests_is_valid() -> None:
    data = _array_pickle(b"K\x02\x85", b"f8", b"U\x10" + struct.pack("<2d", 1, 2))
    np.testing.assert_array_equal(loads(data), [1.0, 2.0])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (_array_pickle(b"\x8a\x05\x00\x00\x00\x00\x10\x85", b"f8", b"U\x00"), "0 bytes"),
        (_array_pickle(b"J\xff\xff\xff\xff\x85", b"f8", b"U\x00"), "no valid shape"),
        (_array_pickle(b"K\x02\x85", b"V8", b"U\x10" + bytes(16)), "dtype 'V8'"),
        (_array_pickle(b"K\x02\x85", b"O8", b"U\x10" + bytes(16)), "list of 2"),
        (_array_pickle(b"K\x02\x85", b"f8", b"K\x07"), "expected bytes"),
        (b"T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "expected|large"),
        (b"(K\x01", "STOP|early"),
        (b"t.", "mark is missing|damaged"),
        (b"\x86.", "stack is empty"),
        (b"h\x07.", "damaged"),
        (b"", "STOP|early|exhausted"),
    ],
)
def test_damage_and_huge_claims_cost_nothing(data: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        loads(data)


def test_a_huge_sparse_matrix_is_not_made_dense() -> None:
    empty = np.zeros(0, dtype=np.int32)
    matrix = SparseMatrix(True, {"_shape": (10**9, 10**9), "data": empty, "indices": empty, "indptr": empty})
    with pytest.raises(ValueError, match="too large"):
        matrix.toarray()
    matrix = SparseMatrix(
        True, {"_shape": (4, 1), "data": np.ones(1), "indices": np.array([9]), "indptr": np.array([0, 1])}
    )
    with pytest.raises(ValueError, match="index arrays"):
        matrix.toarray()


def test_a_chain_of_chumpy_objects_ends(chumpy: Any) -> None:
    endless = chumpy.Ch()
    endless.x = endless
    with pytest.raises(ValueError, match="expected numbers"):
        to_array(loads(pickle.dumps(endless, 2)))
    inner = chumpy.Select(a=chumpy.Select(a=np.ones(3), idxs=np.array([0])), idxs=np.array([0]))
    with pytest.raises(ValueError, match="nested"):
        to_array(loads(pickle.dumps(inner, 2)))


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.pkl"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ValueError, match="bytes"):
        load_pickle(path)


def test_nested_keys_take_no_time() -> None:
    """A tuple that contains the previous one twice, sixty levels deep: 200 bytes, but 2^60 steps to hash."""
    key: Any = ("x",)
    for _ in range(60):
        key = (key, key)
    # DICT of a mark, the tuple and a value; the memo keeps the tuple small.
    data = pickle.dumps(key, protocol=2)[:-1]
    assert len(data) < 1000
    with pytest.raises(ValueError, match="nested tuples as keys"):
        loads(b"\x80\x02}" + data[2:] + b"K\x01s.")
