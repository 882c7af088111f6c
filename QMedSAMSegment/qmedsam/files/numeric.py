"""Numbers of files that a person may have written."""

from __future__ import annotations

from typing import Any, List, Tuple

from ..errors import QMedSAMError

#: No voxel, label or mm is beyond: whole numbers above 1e308 are no float, those above 1e154 have no finite square.
_LARGEST = 1e12
#: Letters of a name.
MOST_LETTERS = 1000


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


def label_of(value: Any, where: str) -> int:
    if not is_number(value) or value != int(value) or not 0 <= value <= 65535:
        raise QMedSAMError(f"The label of {where} is not a whole number from 1 to 65535.", "Correct the file.")
    return int(value)


def color_of(value: Any, where: str) -> Tuple[float, float, float]:
    red, green, blue = list_of(value, (3,), f"The color of {where}")
    if not all(0 <= c <= 1 for c in (red, green, blue)):
        raise QMedSAMError(f"The color of {where} is not red, green and blue between 0 and 1.", "Divide by 255.")
    return red, green, blue
