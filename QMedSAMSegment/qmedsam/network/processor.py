"""What kind of processor this is: compiled networks and checked answers hold for one kind alone."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

#: Caps by which oneDNN and OpenVINO leave instructions unused; one without the other does not load, or computes nonsense.
CAPS = ("ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA")


def processor_name(core: Any) -> str:
    """As OpenVINO's core calls it."""
    return str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()


def processor_kind(core: Any, version: str) -> str:
    """A hash of everything that decides which kernels run: processor, its instructions, caps on them, OpenVINO's version.

    In a virtual machine the name says little ("Intel(R) Xeon(R) Processor"), and OpenVINO's capabilities do not tell AVX2
    with from without VNNI: the flags count. Where the system does not list them (Windows, macOS) names are precise.
    """
    facts = [processor_name(core), platform.machine(), platform.processor(), version, _flags()]
    facts += [os.environ.get(cap, "") for cap in CAPS]
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:16]


def has_avx2() -> bool:
    """Whether this is known to be a processor of the kinds that int8 products were measured on: x86 from AVX2 to AMX."""
    return "avx2" in _flags()


def _flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def available_cores() -> int:
    """Cores that this process may use (a cluster's job often has fewer than the machine)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
