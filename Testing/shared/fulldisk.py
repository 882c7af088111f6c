"""Disks that are really full: a small file system of its own where one may be mounted, a limit on files elsewhere."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional

import pytest

resource = pytest.importorskip("resource")

PAGE = 4096


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process and its children may grow beyond so many bytes (``ulimit -f``, in bytes)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes at a folder; skips the test where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here; the limit on files is tested instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0, name: str = "filler") -> Optional[Path]:
    """Fill the disk of a folder up to so many bytes (whole pages); the file that does it."""
    path = folder / name
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(PAGE))
    with path.open("r+b") as stream:
        stream.truncate(max(path.stat().st_size - leave, 0))
    return path
