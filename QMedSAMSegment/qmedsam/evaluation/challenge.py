"""The interface of the challenge "Segment Anything in Medical Images on Laptop": a folder of cases in, a folder of masks out."""

from __future__ import annotations

import csv
import re
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import numpy as np

from ..errors import QMedSAMError
from ..files import PathLike, read_boxes, read_volume, writing
from ..geometry import Box

#: Written into the output folder: one line per case, as they are finished.
SECONDS = "seconds.csv"


@dataclass(frozen=True)
class CaseReport:
    """What became of a case.

    Attributes:
        case: its file's name.
        boxes: how many; 0 when it could not be read.
        modality, strategy: what was used.
        seconds: from opening the file to the mask on disk.
        encodes, decodes: of the network.
        problem: why there is no mask; empty when there is one.
    """

    case: str
    boxes: int = 0
    modality: str = ""
    strategy: str = ""
    seconds: float = 0.0
    encodes: int = 0
    decodes: int = 0
    problem: str = ""


def challenge_cases(folder: PathLike) -> List[Path]:
    """The ``2D*.npz`` and ``3D*.npz`` of a folder, by name.

    Raises:
        QMedSAMError: no folder, or no case in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise QMedSAMError(f"There is no folder '{folder}'.", "Give the folder that holds the cases.")
    cases = sorted(p for p in folder.iterdir() if re.match(r"[23]D.*\.npz$", p.name, re.IGNORECASE))
    if not cases:
        raise QMedSAMError(f"'{folder}' holds no case.", "Cases are files named 2D*.npz or 3D*.npz with 'imgs' and 'boxes'.")
    return cases


def run_challenge(
    cases: List[Path],
    target: PathLike,
    segment: Callable[..., Any],
    **settings: Any,
) -> Iterator[CaseReport]:
    """Segment cases one by one; one that fails is reported and the next goes on.

    Args:
        cases: from :func:`challenge_cases`.
        target: folder, made if missing; gets ``NAME.npz`` with ``segs`` (the shape of the image; the value is the box's
            position from 1; uint8, uint16 above 255 boxes) for every case, and :data:`SECONDS`.
        segment: ``Segmenter.segment``.
        settings: passed on to it.

    Yields:
        A report per case, as soon as it is done.

    Raises:
        QMedSAMError: the target folder cannot be made or written to, or is the cases' own (masks would replace images).
    """
    target = Path(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QMedSAMError(f"The folder '{target}' cannot be made.", "Choose another one for the masks.") from error
    if any(target.samefile(case.parent) for case in cases[:1]):
        raise QMedSAMError(f"'{target}' is the folder of the cases.", "Write the masks into another one.")
    reports: List[CaseReport] = []
    for case in cases:
        reports.append(_one(case, target / case.name, segment, settings))
        with writing(target / SECONDS) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, [field.name for field in fields(CaseReport)], lineterminator="\n")
            table.writeheader()
            table.writerows({**asdict(report), "seconds": f"{report.seconds:.3f}"} for report in reports)
        yield reports[-1]


def _one(case: Path, target: Path, segment: Callable[..., Any], settings: Any) -> CaseReport:
    start = time.perf_counter()
    boxes: List[Box] = []
    result: Optional[Any] = None
    try:
        volume = read_volume(case)
        # By position, whatever else a file may say: the scoring script asks for the i-th box's mask under the value i.
        boxes = read_boxes(case, volume)
        result = segment(volume, boxes, **settings)
        flat = case.name[0] == "2" and len(result.labels_kji) == 1
        with writing(target) as beside, beside.open("wb") as stream:  # given a name, numpy makes '.NPZ.npz' of '.NPZ'
            np.savez_compressed(stream, segs=result.labels_kji[0] if flat else result.labels_kji)
    except QMedSAMError as error:
        problem = str(error)
    except Exception as error:  # nobody watches a run over thousands of cases: one surprise must not end it
        problem = f"{type(error).__name__}: {error}"
    else:
        problem = ""
    cost = result.cost if result else {}
    return CaseReport(
        case.name,
        len(boxes),
        result.modality if result else "",
        result.strategy if result else "",
        time.perf_counter() - start,
        cost.get("encodes", 0),
        cost.get("decodes", 0),
        problem,
    )
