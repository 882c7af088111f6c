"""The one place where OpenVINO is imported, without its telemetry and bound to its own symbols; and what its memory costs."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from ..errors import QMedSAMError, lacks_memory

#: Called before OpenVINO is loaded into this process; raises where that could end the process. An application sets it whose
#: other libraries, and whose user's unsaved work, are in the same process.
guard: Optional[Callable[[], None]] = None


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    ``import openvino`` reports to an analytics service when the package ``openvino-telemetry`` is installed (it is a
    declared dependency of the wheel; see openvino/tools/ovc/telemetry_utils.py). We install without it, and where
    somebody else installed it, the entry below makes its import fail, upon which OpenVINO uses its own stub.

    Raises:
        QMedSAMError: it is not installed, its libraries do not load, or what :data:`guard` raises.
    """
    if guard is not None and "openvino" not in sys.modules:
        guard()
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        with _own_symbols_first(), _converter_later():
            import openvino
    except ImportError as error:
        if lacks_memory(error):
            raise QMedSAMError("There is not enough memory to load OpenVINO.", "Close other programs.") from error
        raise QMedSAMError(
            f"OpenVINO, which runs the network, cannot be loaded ({error}).",
            "Install it with: python -m pip install --no-deps 'openvino>=2025.3'",
        ) from error
    return openvino


@contextmanager
def _converter_later() -> Iterator[None]:
    """Leave out of ``import openvino`` what converts models of other kinds, half of its time, until somebody asks for it."""
    name = "openvino.tools.ovc"
    if name in sys.modules or "openvino" in sys.modules:
        yield
        return

    def convert_model(*arguments: Any, **options: Any) -> Any:
        converter = importlib.import_module(name).convert_model
        vars(sys.modules["openvino"])["convert_model"] = converter
        return converter(*arguments, **options)

    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(name, None)
    vars(sys.modules["openvino"])["convert_model"] = convert_model


@contextmanager
def _own_symbols_first() -> Iterator[None]:
    """Libraries loaded meanwhile use their own symbols before those of the program (Linux; elsewhere they do so anyway).

    OpenVINO holds parts of ``std::regex`` that other libraries hold too. Slicer's VTK, built with the C++ library's old strings
    (on Linux up to Slicer 5.8), came first in the search, and ``compile_model`` ended the application: "free(): invalid
    pointer". Not where somebody has put a library before all others: an allocator must serve everybody.
    """
    if not hasattr(os, "RTLD_DEEPBIND") or os.environ.get("LD_PRELOAD"):  # the first: not Linux, or Linux with musl
        yield
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


def give_back() -> None:
    """Return freed memory to the system, in a millisecond or two (glibc keeps tens of MiB of it; others have no such call)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
