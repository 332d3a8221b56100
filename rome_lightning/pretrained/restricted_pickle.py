"""Reads pickled data files without running anything that a pickle may ask for.

Unpickling calls whatever functions the file names, so a downloaded ``.pkl`` can run any program.
Head models are nevertheless published as pickles of numpy arrays, sparse matrices and objects of
chumpy, a library that no longer installs. ``loads`` interprets the opcodes itself: it imports no
module and calls no function for a file, and knows a closed list of constructors (``pickled_data``),
each of which checks its arguments and builds plain data. Everything else is refused by name.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rome_lightning.pretrained.pickled_data import construct, find_global, resolve, resolve_items, set_state

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused before reading; FLAME's largest has 54 MB."""

_MARK = object()


def load_pickle(path: str | Path) -> Any:
    """Read a pickle file as plain data; see ``loads``."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {size} bytes; head data files have at most {MAX_FILE_BYTES}")
    try:
        return loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a trustworthy data file: {error}; use the official one") from error


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
                f"{path} must contain one pickled object, got an array of {dtype} with shape {shape}"
            )
        content = loads(file.read())
    if not (isinstance(content, np.ndarray) and content.shape == () and content.dtype == object):
        raise ValueError(f"{path} must contain one pickled object in an array without dimensions")
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
        return resolve(_Machine().run(data))
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
                    raise ValueError(f"the pickle uses {name}, which does not belong in a data file; refused")
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
        self.stack.append(resolve_items(tuple(self._to_mark())))

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the pickle is damaged: its stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _op_tuple1(self, _: None) -> None:
        self.stack.append(resolve_items(tuple(self._last(1))))

    def _op_tuple2(self, _: None) -> None:
        self.stack.append(resolve_items(tuple(self._last(2))))

    def _op_tuple3(self, _: None) -> None:
        self.stack.append(resolve_items(tuple(self._last(3))))

    def _op_list(self, _: None) -> None:
        self.stack.append(resolve_items(self._to_mark()))

    def _op_append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: None) -> None:
        self._extend(self._to_mark())

    _op_additems = _op_appends

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError(f"the pickle appends to a {type(self.stack[-1]).__name__}; refused")
        self.stack[-1].extend(resolve(item) for item in items)

    def _op_frozenset(self, _: None) -> None:
        self.stack.append(resolve_items(self._to_mark()))

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
            if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
                # Nested tuples that share their parts are small to store but take forever to hash.
                raise ValueError(
                    "the pickle has nested tuples as keys, which a data file has no use for; refused"
                )
            target[key] = resolve(value)

    def _op_global(self, argument: str) -> None:
        self.stack.append(find_global(*argument.split(" ", 1)))

    def _op_stack_global(self, _: None) -> None:
        self.stack.append(find_global(*self._last(2)))

    def _op_reduce(self, _: None) -> None:
        self.stack.append(construct(*self._last(2)))

    _op_newobj = _op_reduce

    def _op_build(self, _: None) -> None:
        state = self.stack.pop()
        set_state(self.stack[-1], state)
