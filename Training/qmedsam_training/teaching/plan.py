"""What teaching is going to do, before it starts: objects per target, folds, time and memory of one real step."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import List, Tuple

import psutil
import torch

from ..architectures.compact import CompactSAM
from ..atlas.drawing import Habits
from ..atlas.fit import asked
from ..atlas.prompts import prompts_of
from .cases import Lessons
from .frames import Frames, bytes_of_frame, frames_of_scenes
from .lesson import taught
from .scoring import KEPT, MOST_OBJECTS, SHARES
from .settings import Lesson

#: Frames of a case at most, and of generated scenes.
MOST_FRAMES, SCENES = 48, 16
#: Processor seconds of what is done once: quantizing, exporting, comparing runtimes (measured on two cores).
_ONCE = 60.0
#: Slices of a volume that are asked for an object: its extent along three axes, as a share of the longest side.
_SHARE = 0.3
#: Bytes of a voxel while a case is packed and drawn from: the image, its codes, numbered objects, copies of both.
_PER_VOXEL = 14


@dataclass(frozen=True)
class Plan:
    """How much is drawn and learned.

    Attributes:
        frames: of every case.
        folds: in which cases are held out in turn.
        lesson: of every fold and of the last run.
        seconds, memory: expected; memory in bytes.
    """

    frames: int
    folds: int
    lesson: Lesson
    seconds: float
    memory: float

    def rows(self, lessons: Lessons) -> List[Tuple[str, str]]:
        """What, and how much."""
        kind = "volumes" if lessons.is_3d else "pictures"
        modalities = ", ".join(lessons.modalities) or "unknown"
        rows = [("cases", f"{len(lessons.cases)} {kind}, modality: {modalities}")]
        for target in lessons.targets:
            objects, cases = lessons.objects(target)
            codes = ", ".join(lessons.codes.get(target, ()))
            rows.append((f"target: {target}", f"{objects} objects in {cases} cases" + (f" ({codes})" if codes else "")))
        rows += [
            ("held out", f"all cases in turn, in {self.folds} folds; the model is the mean of the folds' networks"),
            ("learned from", f"{self.frames} frames of each case and {SCENES} generated ones, {self.lesson.steps} steps a fold"),
            ("time", f"about {_long(self.seconds)} on this computer"),
            ("memory", f"about {self.memory / 2**30:.1f} GiB"),
        ]
        return rows


def planned(lessons: Lessons, model: CompactSAM, habits: Habits, lesson: Lesson, cache_mib: float, threads: int = 0) -> Plan:
    """A plan, with the time of a real step on this computer.

    Args:
        lessons: the cases.
        model: to start from.
        habits: of drawing.
        lesson: as asked for.
        cache_mib: that all frames together may take.
        threads: of the processor; 0: one or all, whichever is quicker now.
    """
    _choose_threads(model, habits, threads)
    each = bytes_of_frame(model, habits.size)
    room = int(cache_mib * 2**20 / each) - SCENES
    frames = max(min(MOST_FRAMES, room // len(lessons.cases)), 2)
    start = time.monotonic()
    trial = frames_of_scenes(model, habits, 16, 0)
    drawing = (time.monotonic() - start) / 16
    taught(model, [trial], trial, replace(lesson, steps=1))  # the first one sets things up
    start = time.monotonic()
    taught(model, [trial], trial, replace(lesson, steps=2))
    step = (time.monotonic() - start) / 2
    folds = len(lessons.folds())
    looks = sum(_looks(lessons, number) for number in range(len(lessons.cases)))
    look = _seconds_of_look(model, trial)
    count = frames * len(lessons.cases) + SCENES
    seconds = count * drawing + folds * lesson.steps * step + looks * look + _ONCE
    largest = max(case.voxels for case in lessons.cases)
    memory = psutil.Process().memory_info().rss + count * each + largest * _PER_VOXEL + (KEPT if lessons.is_3d else 2**28)
    return Plan(frames, folds, lesson, seconds, memory)


def _choose_threads(model: CompactSAM, habits: Habits, threads: int) -> None:
    """Beside other work several threads wait for each other: then a step on two takes ten times as long as on one."""
    if threads:
        torch.set_num_threads(threads)
        return
    trial = frames_of_scenes(model, habits, 8, 0)
    seconds = {}
    for count in sorted({1, psutil.cpu_count(logical=False) or 1}):
        torch.set_num_threads(count)
        taught(model, [trial], trial, Lesson(steps=1))
        start = time.monotonic()
        taught(model, [trial], trial, Lesson(steps=2))
        seconds[count] = time.monotonic() - start
    torch.set_num_threads(min(seconds, key=lambda count: seconds[count]))


@torch.no_grad()
def _seconds_of_look(model: CompactSAM, trial: Frames) -> float:
    """Of one frame that is encoded once and asked by every candidate."""
    image, prompts = trial.image[:1].float(), prompts_of(trial.drawn(torch.arange(1)))
    seconds = []
    for _ in range(2):  # the first one sets things up
        start = time.monotonic()
        embedding = model.encode(image)
        between = time.monotonic()
        asked(model, embedding, prompts.boxes, prompts.hints, prompts.kinds)
        seconds.append(between - start + len(SHARES) * (time.monotonic() - between))
    return seconds[-1]


def _looks(lessons: Lessons, number: int) -> float:
    """About how many slices are asked when a case is scored."""
    case = lessons.cases[number]
    objects = min(sum(case.objects.values()), MOST_OBJECTS[lessons.is_3d])
    return objects * (3 * _SHARE * case.voxels ** (1 / 3) if lessons.is_3d else 1)


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
