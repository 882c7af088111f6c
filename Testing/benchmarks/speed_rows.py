"""The rows and cases of :mod:`speed`, and the process that a row runs in: it reads names of cases and answers what they cost."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from baselines import TheChallenges, ThePapers
from qmedsam import Segmenter
from qmedsam.commands.demo import peak_mib
from qmedsam.files.header import resident
from qmedsam.geometry import Box, Volume

Segment = Callable[[Volume, List[Box]], Any]


class Case(NamedTuple):
    """A shape of the QMedSAM paper's Table 8, with fewer slices or boxes where a baseline would take minutes.

    Attributes:
        like: its name in the table.
        shape: ``(k, j, i)``, or ``(j, i, 3)`` of a picture.
        boxes: how many, each on all slices.
        whole: what the table has, where that is more.
    """

    like: str
    shape: Tuple[int, ...]
    boxes: int
    whole: str = ""

    def made(self) -> Tuple[Volume, List[Box]]:
        """Bright ellipsoids on noise, a box around each: deterministic."""
        rng = np.random.default_rng(len(self.like))
        flat = len(self.shape) == 3 and self.shape[2] == 3
        height, width = self.shape[:2] if flat else self.shape[1:]
        depth = 1 if flat else self.shape[0]
        array = rng.normal(0, 20, (depth, height, width)).astype(np.float32)
        columns = int(np.ceil(np.sqrt(self.boxes * width / height)))
        rows = -(-self.boxes // columns)
        y, x = np.ogrid[:height, :width]
        boxes = []
        for n in range(self.boxes):
            center = ((n % columns + 0.5) * width / columns, (n // columns + 0.5) * height / rows)
            radius = (0.3 * width / columns, 0.3 * height / rows)
            inside = ((x - center[0]) / radius[0]) ** 2 + ((y - center[1]) / radius[1]) ** 2 < 1
            array[:, inside] += 100
            first = [int(c - r) for c, r in zip(center, radius)]
            last = [int(c + r) for c, r in zip(center, radius)]
            boxes.append(Box.from_voxels((*first, 0), (*last, depth - 1)))
        if flat:
            grey = np.clip(array[0] + 80, 0, 255).astype(np.uint8)
            return Volume(np.repeat(grey[None, ..., None], 3, axis=3)), boxes
        return Volume(array.astype(np.int16), np.diag([0.8, 0.8, 2.5, 1.0]), "CT"), boxes


CASES = {
    "CT, 6 boxes": Case("3DBox_CT_0566", (3, 512, 512), 6, "287 slices"),
    "MR, 1 box": Case("3DBox_MR_0179", (3, 512, 512), 1, "84 slices"),
    "PET, 1 box": Case("3DBox_PET_0001", (3, 200, 200), 1, "264 slices"),
    "dermoscopy": Case("2DBox_Dermoscopy_0003", (3024, 4032, 3), 1),
    "X-ray": Case("2DBox_X-Ray_0053", (320, 640, 3), 12, "34 boxes"),
    "microscopy": Case("2DBox_Microscope_0016", (1920, 2560, 3), 80, "241 boxes"),
}


class Row(NamedTuple):
    """One way to segment a case.

    Attributes:
        about: what it is.
        make: loads it from the models' folder, with so many threads (0: all).
        most: boxes of a picture up to which it is run: the challenge's way takes minutes for more, as the paper says.
    """

    about: str
    make: Callable[[Path, int], Segment]
    most: int = 1000


def _engine(model: Optional[str], threads: Optional[int] = None) -> Callable[[Path, int], Segment]:
    def make(folder: Path, given: int) -> Segment:
        there = str(folder / model) if model else None
        segmenter = Segmenter(there, threads=given if threads is None else threads)

        def segment(volume: Volume, boxes: List[Box]) -> Any:
            return segmenter.segment(volume, boxes, "auto" if volume.is_rgb else "CT", "fixed").labels_kji

        return segment

    return make


ROWS = {
    "challenge": Row(
        "LiteMedSAM in PyTorch, float, a slice encoded for every box",
        lambda f, n: TheChallenges(f / "litemedsam.pth", n).segment,
        12,
    ),
    "paper": Row(
        "LiteMedSAM, plain Brevitas export in OpenVINO, a slice encoded once, boxes in blocks, masks of full size",
        lambda f, n: ThePapers(f / "plain", n).segment,
    ),
    "float": Row("LiteMedSAM, float in OpenVINO, by this engine", _engine("litemedsam-float32")),
    "int8": Row("LiteMedSAM, int8, by this engine", _engine("litemedsam-int8")),
    "shipped": Row("the shipped models, the box on every slice, on all cores", _engine(None, 0)),
    "shipped, one thread": Row("the same on one thread", _engine(None, 1)),
}


def forget_peak() -> None:
    """Let the peak begin anew (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def work(row: Row, folder: Path, threads: int) -> None:
    """Answer a line of JSON to every name of a case on standard input: seconds, processor seconds, MiB added at the peak.

    Added to what the process holds with its libraries' Python side and the image, before it loads a model.
    """
    made = {name: case.made() for name, case in CASES.items() if case.boxes <= row.most}
    base = (resident(os.getpid()) or 0) / 2**20
    segment = row.make(folder, threads)
    sys.stdout.write(json.dumps({"ready": sorted(made)}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        volume, boxes = made[line.strip()]
        forget_peak()
        start, processor = time.perf_counter(), time.process_time()
        labels_kji = segment(volume, boxes)
        answer: Dict[str, Any] = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
        answer.update(added_mib=(peak_mib() or 0.0) - base, labelled=int(np.count_nonzero(labels_kji)))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    work(ROWS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]))
