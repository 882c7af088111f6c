"""One case from its files to its segmentation. Runs in any process; nothing that a case does gets out but its outcome."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple

from ..errors import QMedSAMError
from ..files import (
    Origin,
    boxes_of,
    check_fits,
    check_output,
    format_of,
    name_of,
    read_boxes,
    read_frames,
    read_segments,
    read_volume,
    write_segmentation,
)
from ..files.apart import Reader
from ..files.paths import existing_file, reason_of
from ..following import ALL, follow, frame_path
from ..geometry import Box, Volume
from ..intensity import Intensity
from ..models import ModelStore
from ..painting import unexplained
from ..segmenter import Segmentation, Segmenter
from .identity import key_of, routed_sha256, sha256, sizes_of
from .memory import check_memory
from .settings import DONE, FAILED, NOT_RUN, Case, Outcome, Settings

OVERLAYS = "overlays"
_OVERLAY_DPI = 72
_SEPARATORS = "-_. "
#: What a box file may be called beyond its volume's name without saying anything about the object.
_NO_NAMES = ("", "box", "boxes", "roi", "rois")


#: Volume, boxes, result, and what the segments are called.
_Done = Tuple[Volume, List[Box], Segmentation, List[Tuple[int, str, Any]]]


class SegmenterLike(Protocol):
    """What a case needs of :class:`qmedsam.Segmenter`."""

    def segment(self, volume: Volume, boxes: List[Box], *args: Any, **kwargs: Any) -> Segmentation: ...


class Bench:
    """Does cases one after another and keeps loaded networks from one to the next.

    Args:
        settings: of the run.
        folder: of the run.
        threads: CPU threads, 0 for all.
        memory: bytes that a case may take by its header; None asks nothing.
        segmenter: use this one for every model.
        apart: read what no check vouches for in a process of its own, which has a limit of time: this one has to go on.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        threads: int = 0,
        memory: Optional[int] = None,
        segmenter: Optional[SegmenterLike] = None,
        apart: bool = False,
    ) -> None:
        self._settings, self._folder, self._threads, self._memory = settings, folder, threads, memory
        self._given = segmenter
        self._reader = Reader(memory=memory) if apart else None
        self._read = self._reader.read if self._reader else read_volume
        self._segmenters: Dict[Optional[str], SegmenterLike] = {}

    def close(self) -> None:
        """End what was started for it."""
        if self._reader:
            self._reader.close()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Bench:
        """From what :func:`bench_json` gave, in another process."""
        settings = Settings.from_json(values["settings"])
        return cls(settings, Path(values["folder"]), values["threads"], values["memory"], apart=True)

    def do(self, case: Case, cancelled: Optional[Callable[[], bool]] = None) -> Outcome:
        """Segment a case. Whatever goes wrong becomes the outcome's message; KeyboardInterrupt alone passes through."""
        outcome = Outcome(case.name, FAILED, worker=f"{platform.node()}:{os.getpid()}")
        start = time.perf_counter()
        try:
            if case.problem:
                raise QMedSAMError(case.problem)
            if self._run(case, outcome, cancelled):
                outcome.state = FAILED if any(one["error"] for one in outcome.objects) else DONE
            else:
                outcome.state, outcome.message = NOT_RUN, "Stopped."
        except QMedSAMError as error:
            outcome.message = str(error)
        except MemoryError:
            outcome.message = "There was not enough memory. Crop the volume, or run fewer workers."
        except OSError as error:
            outcome.message = f"{reason_of(error)}: {error.filename}." if error.filename else f"{reason_of(error)}."
        except Exception as error:  # nobody watches a run over a night: one surprise must not end it
            lines = str(error).strip().splitlines()
            outcome.message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        outcome.seconds = time.perf_counter() - start
        return outcome

    def _run(self, case: Case, outcome: Outcome, cancelled: Optional[Callable[[], bool]]) -> bool:
        settings = self._settings
        _check_inputs(case)
        case.output.parent.mkdir(parents=True, exist_ok=True)
        check_output(case.output, case.volume, case.series)
        if self._memory:
            check_memory(case, self._memory)
        # Before the voxels are read: a file that changes meanwhile is then known to have changed.
        outcome.sizes = sizes_of(case)
        outcome.key, outcome.inputs = key_of(case, settings)
        name = case.model or settings.model
        segment = partial(
            self._segmenter(name).segment,
            modality=case.modality or settings.modality,
            strategy=settings.strategy,
            frame=settings.frame,
            window=case.window or settings.window,
            cancelled=cancelled,
            options=settings.options,
        )
        whole_series = case.frames_of(settings) == ALL
        done = self._all_frames(case, outcome, segment) if whole_series else self._frame(case, outcome, segment)
        if done is None:
            return False
        volume, boxes, result, segments = done
        if self._given is None:
            outcome.model_sha256 = routed_sha256(ModelStore(), name, result.modality, outcome.is_3d)
        if settings.pictures:
            self._draw(case, volume, result, segments, boxes, outcome)
        return True

    def _frame(self, case: Case, outcome: Outcome, segment: Callable[..., Segmentation]) -> Optional[_Done]:
        """Segment a volume, or one time point; None when it was stopped."""
        settings = self._settings
        number = case.frames_of(settings)
        volume = self._read(case.volume, case.series, number)
        check_fits(case.output, volume)
        notes: List[str] = []
        boxes = prompts_of(case, volume, settings.margin, notes, self._read)
        result = segment(replace(volume, notes=(*volume.notes, *notes)), boxes)
        if result.cancelled:
            return None
        boxes, segments = result.written(boxes)
        origin = Origin(case.volume, case.series, result.model, number or 0)
        write_segmentation(case.output, result.labels_kji, volume, segments, origin)
        _fill(outcome, result, flat=not volume.has_ml)
        outcome.output, outcome.output_sha256 = str(case.output), sha256(case.output)
        return volume, boxes, result, segments

    def _all_frames(self, case: Case, outcome: Outcome, segment: Callable[..., Segmentation]) -> Optional[_Done]:
        """Segment every time point, each into a file of its own; what is reported and drawn is the first one."""
        first: Optional[_Done] = None
        suffix = format_of(case.output)
        frames = (self._reader.frames if self._reader else read_frames)(case.volume, case.series)
        for number, (volume, boxes, result) in enumerate(
            follow(frames, lambda volume: prompts_of(case, volume, self._settings.margin, read=self._read), segment)
        ):
            if result.cancelled:
                return None
            boxes, segments = result.written(boxes)
            output = frame_path(case.output, number, suffix)
            check_output(output, case.volume, case.series)
            check_fits(output, volume)
            origin = Origin(case.volume, case.series, result.model, number)
            write_segmentation(output, result.labels_kji, volume, segments, origin)
            if first is None:
                first = volume, boxes, result, segments
                _fill(outcome, result, flat=not volume.has_ml)
                outcome.output, outcome.output_sha256 = str(output), sha256(output)
            else:
                outcome.others.append([output.name, sha256(output)])
        outcome.message = " ".join(filter(None, [outcome.message, f"{len(outcome.others) + 1} time points; the first is shown."]))
        return first

    def _segmenter(self, model: Optional[str]) -> SegmenterLike:
        if self._given is not None:
            return self._given
        if model not in self._segmenters:
            self._segmenters[model] = Segmenter(model, threads=self._threads)
        return self._segmenters[model]

    def _draw(self, case: Case, volume: Volume, result: Segmentation, segments: Any, boxes: List[Box], outcome: Outcome) -> None:
        """A picture that fails costs a sentence, not the case: the segmentation is on disk."""
        from ..pictures.overlays import overlay_png

        path = self._folder / OVERLAYS / overlay_name(case.name)
        intensity = Intensity.of(volume, result.modality, case.window or self._settings.window)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            overlay_png(path, volume, result.labels_kji, segments, boxes, intensity, dpi=_OVERLAY_DPI)
        except Exception as error:
            outcome.message = " ".join(filter(None, [outcome.message, f"No picture: {reason_of(error)}."]))
        else:
            outcome.overlay = path.relative_to(self._folder).as_posix()


def bench_json(settings: Settings, folder: Path, threads: int, memory: Optional[int]) -> Dict[str, Any]:
    """What another process needs to make the same bench."""
    return {"settings": settings.to_json(), "folder": str(folder), "threads": threads, "memory": memory}


def prompts_of(
    case: Case,
    volume: Volume,
    margin: float = 0.0,
    notes: Optional[List[str]] = None,
    read: Callable[..., Volume] = read_volume,
) -> List[Box]:
    """The boxes of a case, with labels that differ.

    One file's boxes are as in the file. Of several files (Slicer saves one ROI each) the boxes are numbered by position,
    and one that is only called as its file loses the volume's name: ``ct-liver.mrk.json`` of ``ct.nii.gz`` is the liver.
    """
    if not case.has_boxes:
        assert case.segmentation is not None
        names = dict(case.names)
        found = read_segments(case.segmentation, volume, margin, notes, read)
        return [replace(box, name=box.name or names.get(box.label, "")) for box in found]
    boxes = []
    if case.drawn:
        boxes += boxes_of([{"ijk": list(numbers), "name": name} for numbers, name in case.drawn], volume, case.name)
    for path in case.boxes:
        boxes += [replace(b, name=_short(b.name, path, case)) for b in read_boxes(path, volume)]
    if len({box.label for box in boxes}) < len(boxes):
        boxes = [replace(b, label=n) for n, b in enumerate(boxes, start=1)]
    return boxes


def overlay_name(case: str) -> str:
    """A file name that any system takes and no other case has."""
    digest = hashlib.sha256(case.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', case).strip('._')[:80]}-{digest}.png"


def _check_inputs(case: Case) -> None:
    if not case.volume.is_dir():
        existing_file(case.volume, "an image")
    for path in case.boxes:
        existing_file(path, "a box file")
    if case.segmentation and not case.segmentation.is_dir() and not case.has_boxes:
        existing_file(case.segmentation, "a segmentation")


def _short(name: str, path: Path, case: Case) -> str:
    start = name_of(case.volume)
    if name != name_of(path) or not name.startswith(start) or name[len(start) :][:1] not in tuple(_SEPARATORS):
        return name
    rest = name[len(start) :].strip(_SEPARATORS)
    return name if rest.lower() in _NO_NAMES else rest


def _fill(outcome: Outcome, result: Segmentation, flat: bool) -> None:
    outcome.model, outcome.modality, outcome.strategy = result.model, result.modality, result.strategy
    outcome.is_3d = len(result.labels_kji) > 1
    outcome.objects = [o.facts(flat) for o in result.objects]
    outcome.voxels = sum(o.voxels for o in result.objects)
    outcome.volume_ml = None if flat else float(sum(o.volume_ml for o in result.objects))
    done = [o for o in result.objects if not o.error]
    outcome.confidence = float(sum(o.confidence for o in done) / len(done))
    outcome.stages = dict(result.seconds)
    empty = [o.name for o in unexplained(result.objects, result.messages)]
    notes = [*result.messages, *([f"Nothing was found in the box of {', '.join(empty)}."] if empty else [])]
    outcome.message = " ".join(notes)
