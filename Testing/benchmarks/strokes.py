"""What a stroke costs in the scene and in the engine: 512 x 512 x 200 voxels, an object of 40 slices, the shipped model.

    python Testing/benchmarks/strokes.py    (needs slicer-core; bind it to one core: taskset -c 0)

The first stroke, which loads the network and encodes its slice, is told apart; of the others the medians.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "mrml")]

SHAPE, STROKES = (200, 512, 512), 9
STAGES = ("out of the scene", "shown slice", "whole object", "unchanged?", "written")


def main() -> None:
    from nodes import addSegmentation, addVolume, grid, newScene
    from qmedsam import Segmenter
    from QMedSAMSegmentLib.segments import EditorWriter, orientedImage
    from QMedSAMSegmentLib.volumes import VoxelCopy

    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ball = ((k - 100) / 20.0) ** 2 + ((j - 250) / 60.0) ** 2 + ((i - 250) / 60.0) ** 2 < 1
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE, dtype=np.int16)
    scene = newScene()
    matrix = grid((0.8, 0.8, 2.5))
    volume = addVolume(scene, np.where(ball, np.int16(120), np.int16(-50)) + noise, matrix)
    segmentation = addSegmentation(scene, volume, ["a"])
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    ball[95:105, 250:, :] = False  # half of it is missing on ten slices
    damaged = orientedImage(ball, tuple(slice(0, n) for n in SHAPE), matrix)
    copy = VoxelCopy(volume)
    while not copy.step():
        pass
    engine = Segmenter()
    rows = []
    for n in range(STROKES):  # the same error every time: a stroke that is obeyed already has nothing to carry on
        writer.modify(segmentation, "a", damaged, False)
        rows.append(_stroke(volume, segmentation, copy.volume, engine, writer, 270 + 4 * n))
    for name, some in (("the first", rows[:1]), (f"median of {STROKES - 1}", rows[1:])):
        parts = [f"{stage} {1000 * float(np.median([row[stage] for row in some])):.0f} ms" for stage in STAGES]
        sys.stdout.write(f"{name}: {', '.join(parts)}\n")


def _stroke(volume: Any, segmentation: Any, image: Any, engine: Any, writer: Any, j: int) -> Dict[str, float]:
    """Seconds of each stage."""
    from qmedsam.marks import Stroke
    from QMedSAMSegmentLib.correction import CorrectionRun
    from QMedSAMSegmentLib.settings import Settings

    stamps: List[float] = [time.perf_counter()]

    def stamp(*_: Any) -> None:
        stamps.append(time.perf_counter())

    stroke = Stroke(np.array([[250.0, j, 100]]), 2, True, 2.0)
    run = CorrectionRun(volume, segmentation, "a", image, Settings(modality="CT"), stroke)
    stamp()
    result = run.task.compute(engine, stamp)
    stamp()
    assert run.untouched
    stamp()
    run.write(result, writer)
    stamp()
    return dict(zip(STAGES, np.diff(stamps)))


if __name__ == "__main__":
    main()
