"""The content allowed in a restricted pickle: numbers, arrays, sparse matrices, chumpy objects.

``CONSTRUCTORS`` is the closed list of names that a pickle may call; each checks its arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DENSE_CELLS = 1 << 26
"""A sparse matrix with more cells is never made dense."""

_NUMERIC_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


@dataclass(frozen=True)
class GlobalName:
    """A name that the pickle refers to; only a name, never the thing itself."""

    name: str


@dataclass(eq=False)
class Opaque:
    """An object of an allowed type whose content nobody needs, such as a tensor in an embedding."""

    kind: str


@dataclass(eq=False)
class DType:
    """A numpy dtype under construction: a fixed-size number type, or ``O`` for lists of objects."""

    code: str

    def numpy(self) -> np.dtype[Any]:
        """The finished dtype."""
        return np.dtype(self.code)


@dataclass(eq=False)
class ArrayBuilder:
    """A numpy array under construction; ``value`` is set when its state has been read."""

    value: NDArray[Any] | None = None


@dataclass(eq=False)
class SparseMatrix:
    """A compressed sparse matrix of scipy, as its arrays."""

    by_column: bool
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        shape = resolve(self.state.get("_shape", self.state.get("shape")))
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(_is_count(n) for n in shape)):
            raise ValueError(f"the sparse matrix in the pickle has no valid shape, got {shape!r}")
        return int(shape[0]), int(shape[1])

    def toarray(self) -> NDArray[np.float64]:
        """The matrix with its zeros."""
        rows, columns = self.shape
        if rows * columns > MAX_DENSE_CELLS:
            raise ValueError(f"the sparse matrix in the pickle is too large: {rows} x {columns} cells")
        names = ("data", "indices", "indptr")
        data, indices, pointers = (np.asarray(to_array(self.state.get(name))) for name in names)
        lines, width = (columns, rows) if self.by_column else (rows, columns)
        integers = indices.dtype.kind in "iu" and pointers.dtype.kind in "iu"
        starts = pointers.astype(np.int64) if integers and pointers.ndim == 1 else np.zeros(0, np.int64)
        counts = starts[1:] - starts[:-1]
        valid = starts.shape == (lines + 1,) and (counts >= 0).all() and counts.sum() == len(data)
        if not (valid and indices.shape == data.shape and ((indices >= 0) & (indices < width)).all()):
            raise ValueError("the sparse matrix in the pickle is damaged: its index arrays do not fit")
        dense = np.zeros((lines, width))
        np.add.at(dense, (np.repeat(np.arange(lines), counts), indices), data)
        return dense.T if self.by_column else dense


@dataclass(eq=False)
class CoordinateMatrix:
    """A sparse matrix of scipy as rows, columns and values (``coo_matrix``)."""

    state: dict[str, Any] = field(default_factory=dict)

    def toarray(self) -> NDArray[np.float64]:
        """The matrix with its zeros; values at the same place are added."""
        rows, columns = SparseMatrix(by_column=False, state=self.state).shape
        if rows * columns > MAX_DENSE_CELLS:
            raise ValueError(f"the sparse matrix in the pickle is too large: {rows} x {columns} cells")
        places = self.state.get("coords", (self.state.get("row"), self.state.get("col")))
        row, column, data = (np.asarray(to_array(part)) for part in (*places, self.state.get("data")))
        valid = (
            row.dtype.kind in "iu" and column.dtype.kind in "iu" and row.shape == column.shape == data.shape
        )
        if not (valid and ((row >= 0) & (row < rows) & (column >= 0) & (column < columns)).all()):
            raise ValueError("the sparse matrix in the pickle is damaged: its index arrays do not fit")
        dense = np.zeros((rows, columns))
        np.add.at(dense, (row, column), data)
        return dense


@dataclass(eq=False)
class ChumpyObject:
    """A chumpy expression, as the attributes it was saved with."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


def to_array(value: Any) -> NDArray[Any]:
    """The numbers of an array, sparse matrix, chumpy object or list, as loaded by ``loads``."""
    for _ in range(16):
        value = resolve(value)
        if isinstance(value, SparseMatrix | CoordinateMatrix):
            return value.toarray()
        if isinstance(value, ChumpyObject) and value.kind == "Select":
            return _select(value.state)
        if not isinstance(value, ChumpyObject):
            break
        if "x" not in value.state:
            raise ValueError(f"the chumpy object {value.kind!r} in the pickle holds no numbers")
        value = value.state["x"]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers in the pickle, got {type(value).__name__} of {array.dtype}")
    return array


def _select(state: dict[str, Any]) -> NDArray[Any]:
    """Chumpy's ``Select``: some elements of another object, reshaped."""
    source = resolve(state.get("a"))
    if isinstance(source, ChumpyObject) and source.kind != "Ch":
        raise ValueError(f"nested chumpy objects are not supported, got {source.kind!r} in 'Select'")
    flat, index = to_array(source).reshape(-1), to_array(state.get("idxs")).reshape(-1)
    if index.dtype.kind not in "iu" or (
        len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(flat)
    ):
        raise ValueError("the chumpy object 'Select' in the pickle points outside of its source")
    shape = state.get("preferred_shape")
    return flat[index].reshape(shape) if isinstance(shape, tuple) and shape else flat[index]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def resolve(value: Any) -> Any:
    """Replace a finished array builder by its array; other values stay."""
    if isinstance(value, ArrayBuilder):
        if value.value is None:
            raise ValueError("the pickle holds an array without content")
        return value.value
    return value


def resolve_items(values: Any) -> Any:
    """``resolve`` for the items of a container, one level deep."""
    if isinstance(values, dict):
        return {key: resolve(value) for key, value in values.items()}
    return type(values)(resolve(value) for value in values)


def _latin1(value: Any) -> bytes:
    """Bytes of a Python 2 string; arrays and numbers came as such."""
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise ValueError(f"expected bytes in the pickle, got {type(value).__name__}")


def _dtype(code: Any, *_: Any) -> DType:
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or not (_NUMERIC_TYPE.fullmatch(code) or re.fullmatch(r"\|?O[48]?", code)):
        raise ValueError(f"only arrays of numbers are read from pickles, refused dtype {code!r}")
    return DType("O" if "O" in code else code)


def _dtype_state(dtype: DType, state: Any) -> None:
    order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
    if order not in ("<", ">", "|", "="):
        raise ValueError(f"unknown byte order {order!r} in the pickle")
    if dtype.code != "O":
        dtype.code = order + dtype.code.lstrip("<>=|")


def _array_state(array: ArrayBuilder, state: Any) -> None:
    """Fill an array: (version,) shape, dtype, Fortran order, content."""
    shape, dtype, fortran, content = state[-4:]
    array.value = _make_array(content, dtype, shape, "F" if fortran else "C")


def _make_array(content: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(dtype, DType):
        raise ValueError(f"the array in the pickle has no dtype, got {type(dtype).__name__}")
    if not (isinstance(shape, tuple) and all(_is_count(n) for n in shape) and len(shape) <= 8):
        raise ValueError(f"the array in the pickle has no valid shape, got {shape!r}")
    count = math.prod(int(n) for n in shape)
    # The content fixes what is allocated, so that a few bytes cannot ask for gigabytes.
    if dtype.code == "O":
        if not isinstance(content, list) or len(content) != count:
            raise ValueError(f"the array of objects in the pickle wants a list of {count}")
        objects = np.empty(count, dtype=object)
        for index, item in enumerate(content):
            objects[index] = resolve(item)
        return objects.reshape(shape, order="F" if order == "F" else "C")
    raw = _latin1(content)
    if len(raw) != count * dtype.numpy().itemsize:
        raise ValueError(
            f"the array in the pickle has {len(raw)} bytes, which does not match {dtype.code} of shape "
            f"{shape}"
        )
    values = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")
    return values.astype(dtype.numpy().newbyteorder("="))


def _reconstruct(kind: Any, shape: Any, code: Any) -> ArrayBuilder:
    if kind != GlobalName("numpy.ndarray"):
        raise ValueError(f"only numpy.ndarray is reconstructed from pickles, refused {kind}")
    return ArrayBuilder()


def _scalar(dtype: Any, content: Any) -> Any:
    return _make_array(content, dtype, (), "C").item()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> ArrayBuilder:
    if order not in ("C", "F"):
        raise ValueError(f"unknown array order {order!r} in the pickle")
    return ArrayBuilder(_make_array(content, dtype, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"only latin1 strings are encoded from pickles, got {encoding!r}")
    return text.encode("latin1")


def _copyreg(kind: Any, base: Any, state: Any) -> Any:
    if base != GlobalName("builtins.object") or state is not None:
        raise ValueError(f"refused to rebuild {kind} from {base}")
    return construct(kind, ())


def _items(values: Any = ()) -> list[Any]:
    """Sets are kept as lists, because a restricted item need not be hashable."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"expected a list in the pickle, got {type(values).__name__}")
    return list(values)


_ALIASES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "scipy.sparse._csr": "scipy.sparse.csr",
    "scipy.sparse._coo": "scipy.sparse.coo",
}
"""Module names of other versions of Python, numpy and scipy."""

_CHUMPY_EXPRESSIONS = (
    "ch_ops.add", "ch_ops.subtract", "ch_ops.multiply", "ch_ops.divide", "ch_ops.power",
    "ch_ops.negative", "ch_ops.sum", "ch_ops.mean", "linalg.dot", "linalg.tensordot", "linalg.svd",
    "reordering.transpose", "reordering.reshape", "reordering.concatenate", "reordering.vstack",
    "reordering.hstack", "reordering.tile", "reordering.repeat", "ch.add", "ch.subtract", "ch.multiply",
    "ch.divide", "ch.dot", "ch.MatVecMult",
)  # fmt: skip
"""Classes of chumpy that a model file may hold unevaluated."""

CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda: b"",
    "builtins.set": _items,
    "builtins.frozenset": _items,
    "chumpy.ch.Ch": lambda: ChumpyObject("Ch"),
    "chumpy.reordering.Select": lambda: ChumpyObject("Select"),
    # Expressions occur in fields that nobody reads; they are kept unevaluated, and refused where needed.
    **{f"chumpy.{name}": partial(ChumpyObject, name.split(".")[1]) for name in _CHUMPY_EXPRESSIONS},
    "collections.OrderedDict": lambda: {},
    "copyreg._reconstructor": _copyreg,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "scipy.sparse.csc.csc_matrix": lambda: SparseMatrix(by_column=True),
    "scipy.sparse.csr.csr_matrix": lambda: SparseMatrix(by_column=False),
    "scipy.sparse.csc.csc_array": lambda: SparseMatrix(by_column=True),
    "scipy.sparse.csr.csr_array": lambda: SparseMatrix(by_column=False),
    "scipy.sparse.coo.coo_matrix": CoordinateMatrix,
    "scipy.sparse.coo.coo_array": CoordinateMatrix,
    # Landmark files hold a table of contour points as tensors, which this project does not use.
    "torch._utils._rebuild_tensor_v2": lambda *_: Opaque("tensor"),
    "torch.storage._load_from_bytes": lambda *_: Opaque("storage"),
}
"""Everything that a pickle may ask for, and what is built instead."""

_NAMES = {"numpy.ndarray", "builtins.object"}
"""Names that occur as arguments only."""


def find_global(module: Any, name: Any) -> GlobalName:
    """A name on the closed list.

    Raises:
        ValueError: it is not on the list.
    """
    canonical = f"{_ALIASES.get(module, module)}.{name}"
    if canonical not in CONSTRUCTORS and canonical not in _NAMES:
        raise ValueError(
            f"the pickle asks for {module}.{name}, which does not belong in a data file; refused"
        )
    return GlobalName(canonical)


def construct(kind: Any, arguments: Any) -> Any:
    """What a constructor of the closed list builds from its arguments.

    Raises:
        ValueError: it is not on the list, or refuses its arguments.
    """
    if not (isinstance(kind, GlobalName) and kind.name in CONSTRUCTORS and isinstance(arguments, tuple)):
        raise ValueError(f"the pickle calls {kind!r}, which is not a constructor of data; refused")
    return CONSTRUCTORS[kind.name](*arguments)


def set_state(target: Any, state: Any) -> None:
    """Fill an object under construction.

    Raises:
        ValueError: objects of this type take no state.
    """
    if isinstance(target, ArrayBuilder):
        _array_state(target, state)
    elif isinstance(target, DType):
        _dtype_state(target, state)
    elif isinstance(target, SparseMatrix | CoordinateMatrix | ChumpyObject) and isinstance(state, dict):
        target.state = resolve_items(state)
    else:
        raise ValueError(f"the pickle sets the state of a {type(target).__name__}; refused")
