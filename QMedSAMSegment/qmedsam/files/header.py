"""What a file says of its image before a voxel is read, and whether that can be true.

Every reader's header becomes an :class:`ImageHeader`; the readers of formats (:mod:`.nifti`, :mod:`.nrrd`, ...) make it with
plain Python, so that no C library is asked about a file whose sizes were not compared with its bytes and with the memory.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import QMedSAMError

#: What a byte can become at most: 1,032 bytes by deflate; less by the codes of JPEG, LZW and run lengths.
MOST_PER_BYTE = 1040
#: Declared bytes that need no look at the file's own size: a blank picture may be stored in next to nothing.
SMALL = 64 * 2**20


@dataclass(frozen=True)
class ImageHeader:
    """An image file that was looked at and found to hold what it promises.

    Attributes:
        kind: as :func:`~.kinds.kind_of` says.
        size: voxels along every stored axis, the first one fastest; colour channels are none of them.
        depth: bytes of one voxel, all its channels together.
        channels: numbers per voxel.
        frames: time points.
        frame_axis: the axis of ``size`` along which they lie; -1 for the channels (a list first in a NRRD); None where
            there is one.
        to_mm: length of the file's unit that its reader takes for mm.
        measured: whether the file tells lengths.
        suffix: a name that ITK's reader goes by for this content.
        notes: sentences for the user.
    """

    kind: str
    size: Tuple[int, ...]
    depth: int
    channels: int = 1
    frames: int = 1
    frame_axis: Optional[int] = None
    to_mm: float = 1.0
    measured: bool = True
    suffix: str = ""
    notes: Tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all voxels in memory."""
        return math.prod(self.size) * self.depth


def cut(path: Path) -> QMedSAMError:
    """A file without its end."""
    return QMedSAMError(f"'{path.name}' ends too early; a part of the image is missing.", "Copy or export it again.")


def is_there(path: Path) -> bool:
    """Whether a file of a name that a header gives is there: it may be no name at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than any name, or with a NUL
        return False


def check_sizes(path: Path, declared: int, stored: int, most: int = MOST_PER_BYTE) -> None:
    """Compare what a header promises with the bytes that are there.

    Args:
        path: for the message.
        declared: bytes of the voxels in memory.
        stored: bytes that hold them in the file.
        most: bytes that a stored byte can become; 1 for uncompressed files.

    Raises:
        QMedSAMError: they cannot be there.
    """
    if declared > stored * most and (most == 1 or declared > SMALL):
        raise cut(path)


def check_fits_memory(path: Path, declared: int) -> None:
    """Look whether the machine can hold voxels, which are there twice while they are read.

    Raises:
        QMedSAMError: it cannot.
    """
    there = machine_memory()
    if there is not None and 2 * declared > there:
        raise QMedSAMError(
            f"There is not enough memory for '{path.name}': its voxels take {declared / 2**30:,.1f} GiB.",
            "Crop the image, or check its header.",
        )


def check_axes(path: Path, axes: Union[Sequence[Sequence[float]], np.ndarray]) -> None:
    """Look whether voxel axes span the space that they lie in.

    Args:
        path: for the message.
        axes: one vector per axis, in mm.

    Raises:
        QMedSAMError: they do not, or are not finite.
    """
    vectors = np.array(axes, float)
    lengths = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(vectors).all() and (lengths > 0).all() and np.isfinite(lengths).all()
    if not good or abs(np.linalg.det(vectors / lengths[:, None])) < 1e-9:
        raise QMedSAMError(f"'{path.name}' has no valid geometry.", "Correct the spacing and direction in its header.")


def numbers_in(text: str) -> List[float]:
    """The numbers in a text of numbers, separated by spaces or commas; what is none becomes NaN."""
    out = []
    for part in text.replace(",", " ").split():
        try:
            out.append(float(part))
        except ValueError:
            out.append(math.nan)
    return out


def integers_in(text: str) -> List[int]:
    """Whole numbers from 0, separated by spaces; empty where one of them is none."""
    parts = text.split()
    return [int(part) for part in parts] if all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts) else []


def machine_memory() -> Optional[int]:
    """Bytes of physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def resident(pid: int) -> Optional[int]:
    """Bytes that a process holds in memory; None where the system does not tell (elsewhere than on Linux without psutil)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # not installed, or the process has gone
        return None
