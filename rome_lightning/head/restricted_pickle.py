"""Reads the pickled data files of head models without running anything that a pickle may ask for.

Unpickling calls whatever functions the file names, so a downloaded ``.pkl`` can run any program.
Head models are nevertheless published as pickles of numpy arrays, sparse matrices and objects of
chumpy, a library that no longer installs. ``loads`` interprets the opcodes itself: it imports no
module and calls no function for a file, and knows a closed list of constructors (``_CONSTRUCTORS``),
each of which checks its arguments and builds plain data. Everything else is refused by name.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused before reading; FLAME's largest has 54 MB."""
MAX_DENSE_CELLS = 1 << 26
"""A sparse matrix with more cells is never made dense."""

_MARK = object()
_NUMERIC_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


@dataclass(frozen=True)
class _Global:
    """A name that the pickle refers to; only a name, never the thing itself."""

    name: str


@dataclass(eq=False)
class Opaque:
    """An object of an allowed type whose content nobody needs, such as a tensor in an embedding."""

    kind: str


@dataclass(eq=False)
class _DType:
    """A numpy dtype under construction: a fixed-size number type, or ``O`` for lists of objects."""

    code: str

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code)


@dataclass(eq=False)
class _Array:
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
        shape = _resolve(self.state.get("_shape", self.state.get("shape")))
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
class ChumpyObject:
    """A chumpy expression, as the attributes it was saved with."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


def load_pickle(path: str | Path) -> Any:
    """Read a pickle file as plain data; see ``loads``."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes; head data files have at most {MAX_FILE_BYTES}")
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not a data file to be trusted: {error}; take the official one"
        ) from error


def load_npy_object(path: str | Path) -> Any:
    """Read the one Python object of a ``.npy`` file written with ``allow_pickle``; see ``loads``."""
    path = Path(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is too large for a landmark file")
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        if shape != () or not dtype.hasobject:
            raise ValueError(
                f"{path} must hold one pickled object, got an array of {dtype} with shape {shape}"
            )
        content = loads(file.read())
    if not (isinstance(content, np.ndarray) and content.shape == () and content.dtype == object):
        raise ValueError(f"{path} must hold one pickled object in an array without dimensions")
    return content.item()


def loads(data: bytes) -> Any:
    """Interpret a pickle (protocols 1 to 5, strings of Python 2 as latin-1) as plain data.

    Returns:
        Numbers, strings, bytes, tuples, lists, sets (as lists), dicts, numpy arrays, ``SparseMatrix``,
        ``ChumpyObject`` and ``Opaque``. ``to_array`` turns the numeric ones into arrays.

    Raises:
        ValueError: if the pickle is damaged, or asks for anything outside the closed list; the message
            names what it asked for.
    """
    try:
        return _resolve(_Machine().run(data))
    except (
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        UnicodeError,
        MemoryError,
    ) as error:
        raise ValueError(f"the pickle is damaged or not one of data ({error})") from error


def to_array(value: Any) -> NDArray[Any]:
    """The numbers of an array, sparse matrix, chumpy object or list, as loaded by ``loads``."""
    for _ in range(16):
        value = _resolve(value)
        if isinstance(value, SparseMatrix):
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
        raise ValueError(f"wanted numbers in the pickle, got {type(value).__name__} of {array.dtype}")
    return array


def _select(state: dict[str, Any]) -> NDArray[Any]:
    """Chumpy's ``Select``: some elements of another object, reshaped."""
    source = _resolve(state.get("a"))
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


def _resolve(value: Any) -> Any:
    """Replace a finished array builder by its array; other values stay."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("the pickle holds an array without content")
        return value.value
    return value


def _resolve_items(values: Any) -> Any:
    """``_resolve`` for the items of a container, one level deep."""
    if isinstance(values, dict):
        return {key: _resolve(value) for key, value in values.items()}
    return type(values)(_resolve(value) for value in values)


def _latin1(value: Any) -> bytes:
    """Bytes of a Python 2 string; arrays and numbers came as such."""
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise ValueError(f"wanted bytes in the pickle, got {type(value).__name__}")


def _dtype(code: Any, *_: Any) -> _DType:
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or not (_NUMERIC_TYPE.fullmatch(code) or re.fullmatch(r"\|?O[48]?", code)):
        raise ValueError(f"only arrays of numbers are read from pickles, refused dtype {code!r}")
    return _DType("O" if "O" in code else code)


def _dtype_state(dtype: _DType, state: Any) -> None:
    order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
    if order not in ("<", ">", "|", "="):
        raise ValueError(f"unknown byte order {order!r} in the pickle")
    if dtype.code != "O":
        dtype.code = order + dtype.code.lstrip("<>=|")


def _array_state(array: _Array, state: Any) -> None:
    """Fill an array: (version,) shape, dtype, Fortran order, content."""
    shape, dtype, fortran, content = state[-4:]
    array.value = _make_array(content, dtype, shape, "F" if fortran else "C")


def _make_array(content: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(dtype, _DType):
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
            objects[index] = _resolve(item)
        return objects.reshape(shape, order="F" if order == "F" else "C")
    raw = _latin1(content)
    if len(raw) != count * dtype.numpy().itemsize:
        raise ValueError(
            f"the array in the pickle has {len(raw)} bytes, {dtype.code} of shape {shape} has not"
        )
    values = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")
    return values.astype(dtype.numpy().newbyteorder("="))


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _Global("numpy.ndarray"):
        raise ValueError(f"only numpy.ndarray is reconstructed from pickles, refused {kind}")
    return _Array()


def _scalar(dtype: Any, content: Any) -> Any:
    return _make_array(content, dtype, (), "C").item()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if order not in ("C", "F"):
        raise ValueError(f"unknown array order {order!r} in the pickle")
    return _Array(_make_array(content, dtype, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"only latin1 strings are encoded from pickles, got {encoding!r}")
    return text.encode("latin1")


def _copyreg(kind: Any, base: Any, state: Any) -> Any:
    if base != _Global("builtins.object") or state is not None:
        raise ValueError(f"refused to rebuild {kind} from {base}")
    return _construct(kind, ())


def _items(values: Any = ()) -> list[Any]:
    """Sets are kept as lists, because a restricted item need not be hashable."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"wanted a list in the pickle, got {type(values).__name__}")
    return list(values)


_ALIASES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "scipy.sparse._csr": "scipy.sparse.csr",
}
"""Module names of other versions of Python, numpy and scipy."""

_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda: b"",
    "builtins.set": _items,
    "builtins.frozenset": _items,
    "chumpy.ch.Ch": lambda: ChumpyObject("Ch"),
    "chumpy.reordering.Select": lambda: ChumpyObject("Select"),
    "collections.OrderedDict": lambda: {},
    "copyreg._reconstructor": _copyreg,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "scipy.sparse.csc.csc_matrix": lambda: SparseMatrix(by_column=True),
    "scipy.sparse.csr.csr_matrix": lambda: SparseMatrix(by_column=False),
    # Landmark files hold a table of contour points as tensors, which this project does not use.
    "torch._utils._rebuild_tensor_v2": lambda *_: Opaque("tensor"),
    "torch.storage._load_from_bytes": lambda *_: Opaque("storage"),
}
"""Everything that a pickle may ask for, and what is built instead."""

_NAMES = {"numpy.ndarray", "builtins.object"}
"""Names that occur as arguments only."""


def _global(module: Any, name: Any) -> _Global:
    canonical = f"{_ALIASES.get(module, module)}.{name}"
    if canonical not in _CONSTRUCTORS and canonical not in _NAMES:
        raise ValueError(f"the pickle asks for {module}.{name}, which a data file has no use for; refused")
    return _Global(canonical)


def _construct(kind: Any, arguments: Any) -> Any:
    if not (isinstance(kind, _Global) and kind.name in _CONSTRUCTORS and isinstance(arguments, tuple)):
        raise ValueError(f"the pickle calls {kind!r}, which is not a constructor of data; refused")
    return _CONSTRUCTORS[kind.name](*arguments)


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _array_state(target, state)
    elif isinstance(target, _DType):
        _dtype_state(target, state)
    elif isinstance(target, SparseMatrix | ChumpyObject) and isinstance(state, dict):
        target.state = _resolve_items(state)
    else:
        raise ValueError(f"the pickle sets the state of a {type(target).__name__}; refused")


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_STRINGS = (
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
)
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_PUSH = frozenset((*_NUMBERS, *_STRINGS, *_BYTES))
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}


class _Machine:
    """The stack machine of the pickle format, restricted to building data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            else:
                handler = getattr(self, f"_op_{name.lower()}", None)
                if handler is None:
                    raise ValueError(f"the pickle uses {name}, which a data file has no use for; refused")
                handler(argument)
        raise ValueError("the pickle ends early")

    def _op_proto(self, _: int) -> None:
        """The version says nothing that the opcodes do not."""

    def _op_frame(self, _: int) -> None:
        """Frames only help streaming readers."""

    def _op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _op_binget = _op_long_binget = _op_get

    def _op_pop(self, _: None) -> None:
        self.stack.pop()

    def _op_pop_mark(self, _: None) -> None:
        self._to_mark()

    def _op_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _to_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("the pickle is damaged: a mark is missing")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _op_tuple(self, _: None) -> None:
        self.stack.append(_resolve_items(tuple(self._to_mark())))

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the pickle is damaged: its stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _op_tuple1(self, _: None) -> None:
        self.stack.append(_resolve_items(tuple(self._last(1))))

    def _op_tuple2(self, _: None) -> None:
        self.stack.append(_resolve_items(tuple(self._last(2))))

    def _op_tuple3(self, _: None) -> None:
        self.stack.append(_resolve_items(tuple(self._last(3))))

    def _op_list(self, _: None) -> None:
        self.stack.append(_resolve_items(self._to_mark()))

    def _op_append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: None) -> None:
        self._extend(self._to_mark())

    _op_additems = _op_appends

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError(f"the pickle appends to a {type(self.stack[-1]).__name__}; refused")
        self.stack[-1].extend(_resolve(item) for item in items)

    def _op_frozenset(self, _: None) -> None:
        self.stack.append(_resolve_items(self._to_mark()))

    def _op_dict(self, _: None) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._update(items)

    def _op_setitem(self, _: None) -> None:
        self._update(self._last(2))

    def _op_setitems(self, _: None) -> None:
        self._update(self._to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"the pickle sets an item of a {type(target).__name__}; refused")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = _resolve(value)

    def _op_global(self, argument: str) -> None:
        self.stack.append(_global(*argument.split(" ", 1)))

    def _op_stack_global(self, _: None) -> None:
        self.stack.append(_global(*self._last(2)))

    def _op_reduce(self, _: None) -> None:
        self.stack.append(_construct(*self._last(2)))

    _op_newobj = _op_reduce

    def _op_build(self, _: None) -> None:
        state = self.stack.pop()
        _set_state(self.stack[-1], state)
