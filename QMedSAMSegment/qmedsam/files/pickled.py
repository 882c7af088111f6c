"""Dictionaries that numpy pickled into an ``.npz`` (the boxes of the challenge of 2025), read without running code of theirs.

Nothing that a pickle names is imported: numpy's array, type and scalar are stood in for by the few lines below.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from typing import Any, List, Optional

from numpy.lib import format as npy

_MOST_MEMO = 1_000_000
#: struct's letters for numpy's names of scalars.
_SCALARS = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_SCALARS.update({"f4": "f", "f8": "d", "b1": "?"})


class _Type:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str = "", *_: Any) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"


class _Array:
    """Stands in for an array of objects: its values, one after another."""

    def __init__(self, *_: Any) -> None:
        self.values: Optional[List[Any]] = None

    def __setstate__(self, state: Any) -> None:
        self.values = list(state[4]) if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list) else None


def _scalar(kind: Any, content: Any) -> Any:
    """Stands in for numpy's making of a number."""
    return struct.unpack(kind.order + _SCALARS[kind.name], content)[0]


_STANDINS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STANDINS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not a plain value") from None


def plain_pickle(content: bytes) -> List[Any]:
    """The values of an array of objects, in their order.

    Args:
        content: of a ``.npy``.

    Raises:
        pickle.UnpicklingError: it names anything but numpy's arrays of plain values.
        ValueError and others: damaged.
    """
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    _, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    if not dtype.hasobject:
        raise ValueError("no array of objects")
    start = stream.tell()
    argument: Any
    for code, argument, _ in pickletools.genops(stream):
        # The unpickler makes room for the highest number that it is to remember.
        if code.name in ("PUT", "LONG_BINPUT") and int(argument) > _MOST_MEMO:
            raise pickle.UnpicklingError("too many values")
    stream.seek(start)
    value = _Plain(stream).load()
    if not isinstance(value, _Array) or value.values is None:
        raise ValueError("no array of objects")
    return value.values
