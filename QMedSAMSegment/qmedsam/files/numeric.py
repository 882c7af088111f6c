"""Numbers of files that a person may have written."""

from __future__ import annotations

from typing import Any, List, Tuple

from ..errors import QMedSAMError

#: No voxel, label or mm is beyond: whole numbers above 1e308 are no float, those above 1e154 have no finite square.
_LARGEST = 1e12


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be one of a voxel, a label or a length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def list_of(value: Any, counts: Tuple[int, ...], what: str) -> List[float]:
    """A list of so many numbers.

    Raises:
        QMedSAMError: anything else; ``what`` begins the sentence.
    """
    if not isinstance(value, (list, tuple)) or len(value) not in counts or not all(map(is_number, value)):
        raise QMedSAMError(f"{what} is not a list of {' or '.join(map(str, counts))} numbers.", "Correct the file.")
    return [float(v) for v in value]
