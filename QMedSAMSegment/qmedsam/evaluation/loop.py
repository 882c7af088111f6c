"""Scores on labelled cases: one prompt per object, and beside it the ellipse that anybody can draw.

This room makes the rows; ``summary`` makes means of rows and knows nothing of images.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import Cancelled, QMedSAMError
from ..files import PathLike, writing
from ..files.tables import finite
from ..geometry import Box, Volume
from ..intensity import Intensity
from ..pictures.sheets import Tile, sheet_png, tile_of
from .cases import Case, components
from .official import OfficialScore, official_csv, official_markdown, official_score
from .scores import dsc, ellipsoid_mask, nsd
from .summary import NOT_PROMPTABLE, Score, choose, markdown, scores_csv, summarize

#: mm in 3D and where a slice has a spacing, pixels on 2D pictures (the challenge's value).
NSD_TOLERANCE = 2.0
#: Jitter that leaves half of every box at least.
MOST_INWARD = -0.25

Crop = tuple[slice, slice, slice]


class SegmentsBoxes(Protocol):
    """What an evaluation needs of a ``Segmenter``."""

    def segment(self, volume: Volume, boxes: Sequence[Box], **settings: Any) -> Any: ...


@dataclass(frozen=True)
class Prompt:
    """A box and the object it asks for: ``truth`` is the object's mask within ``crop`` (kji), False outside."""

    label: int
    component: int
    truth: np.ndarray
    crop: Crop
    box: Box


def prompts_of(case: Case, labels_kji: np.ndarray, prompt: str = "volume", jitter: float = 0.0) -> list[Prompt]:
    """The prompts of a case, numbered from 1 in their boxes' labels.

    Args:
        case: where the labels come from; its id seeds the jitter.
        labels_kji: the case's label array.
        prompt: ``volume`` for the component's tight 3D box, ``slice`` for the tight rectangle on its largest axial slice.
        jitter: every side moves outward by 0..jitter of the box's length along it (inward below 0), at most to the
            image's border; along k only in 3D. Depends on case, label and component alone.
    """
    result: list[Prompt] = []
    seen: dict[int, int] = {}
    for label, mask, crop in components(labels_kji, case.is_3d):
        component = seen[label] = seen.get(label, 0) + 1
        flat = prompt == "slice" or not case.is_3d
        if flat:
            mask, crop = _largest_slice(mask, crop)
        lower = np.array([c.start for c in crop[::-1]]) - 0.5
        upper = np.array([c.stop for c in crop[::-1]]) - 0.5
        random = np.random.default_rng([zlib.crc32(case.case_id.encode()), label, component])
        moves = jitter * random.random((2, 3)) * (upper - lower) * (1, 1, not flat)
        lower = np.maximum(lower - moves[0], -0.5)
        upper = np.minimum(upper + moves[1], np.array(labels_kji.shape[::-1]) - 0.5)
        box = Box.from_edges(lower, upper, label=len(result) + 1, name=f"{label}.{component}")
        result.append(Prompt(label, component, mask, crop, box))
    return result


def score_case(
    case: Case,
    segmenter: SegmentsBoxes,
    *,
    strategy: str = "auto",
    frame: str | None = None,
    prompt: str = "volume",
    jitter: float = 0.0,
    cancelled: Callable[[], bool] | None = None,
    official: list[OfficialScore] | None = None,
) -> Iterator[tuple[Score, Tile]]:
    """Segment all prompts of a case in one call and score each against its own component.

    ``official`` collects the case's score by the challenge's conventions.

    Raises:
        QMedSAMError: the case cannot be read or segmented.
        Cancelled: ``cancelled()`` turned true.
    """
    volume, labels_kji = case.load()
    prompts = prompts_of(case, labels_kji, prompt, jitter)
    if not prompts:
        return
    settings = {"modality": case.modality, "strategy": strategy, "frame": frame, "cancelled": cancelled, "keep_masks": True}
    result = segmenter.segment(volume, [p.box for p in prompts], **settings)
    if cancelled and cancelled():
        raise Cancelled
    if official is not None:
        truth_kji = np.zeros(labels_kji.shape, np.uint16)
        for p in prompts:
            truth_kji[p.crop][p.truth] = p.box.label
        about = (case.case_id, case.modality, case.source, truth_kji, result.labels_kji)
        official.append(official_score(*about, volume.spacing_mm, case.is_3d))
    seconds = (result.seconds.get("total", 0.0) - result.seconds.get("load", 0.0)) / len(prompts)
    intensity = Intensity.of(volume, case.modality)
    spacing_kji = volume.spacing_mm[::-1] if case.is_3d else np.ones(3)
    flat = prompt == "slice" or not case.is_3d
    for p, found in zip(prompts, result.objects):
        parts = [(p.truth, p.crop), (found.mask_kji_crop, found.crop), ellipsoid_mask(p.box, labels_kji.shape)]
        truth, predicted, ellipse = _on_common_crop(parts, flat)
        masks = (truth[0], predicted[0], spacing_kji[1:]) if flat else (truth, predicted, spacing_kji)
        score = Score(
            case.case_id,
            case.patient_id,
            p.label,
            p.component,
            case.source,
            case.modality,
            2 if flat else 3,
            int(p.truth.sum()),
            float(p.truth.sum(axis=(1, 2)).max()) / labels_kji[0].size,
            dsc(truth, predicted),
            nsd(*masks, NSD_TOLERANCE),
            dsc(truth, ellipse),
            float(found.confidence),
            seconds,
        )
        index = p.crop[0].start + int(p.truth.sum(axis=(1, 2)).argmax())
        name = case.case_id if len(case.case_id) <= 28 else f"{case.case_id[:16]}\u2026{case.case_id[-11:]}"
        caption = f"{name} {p.label}\nDSC {score.dsc:.2f}, ellipse {score.ellipse_dsc:.2f}"
        yield score, tile_of(volume, index, parts[0], parts[1], p.box, intensity, caption)


def evaluate(
    cases: Sequence[Case],
    segmenter: SegmentsBoxes,
    folder: PathLike,
    *,
    strategy: str = "auto",
    frame: str | None = None,
    prompt: str = "volume",
    jitter: float = 0.0,
    not_promptable: Sequence[str] = NOT_PROMPTABLE,
    about: Mapping[str, Any] | None = None,
    official: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Score cases and write ``scores.csv``, ``summary.json``, ``summary.md`` and ``sheet.png`` into a folder.

    A case that cannot be read or segmented is listed in the summary and does not stop the run.

    Args:
        cases: from :func:`qmedsam.evaluation.cases.read_manifest`.
        segmenter: a :class:`qmedsam.segmenter.Segmenter`.
        folder: made if missing; the four files in it are replaced.
        strategy: as for ``Segmenter.segment``.
        frame: as for ``Segmenter.segment``.
        prompt: ``volume`` or ``slice``, see :func:`prompts_of`.
        jitter: see :func:`prompts_of`.
        not_promptable: sources to report apart.
        about: further facts for the summary's settings (the model's name, the manifest's).
        official: also write ``official.csv`` and a table by the challenge's conventions (:mod:`qmedsam.evaluation.official`).
        progress: called with done and total cases.
        cancelled: asked after every slice; then nothing is written.

    Returns:
        The summary, see :func:`summarize`.

    Raises:
        QMedSAMError: a wrong option, a folder that cannot be made, or not a single prompt scored.
        Cancelled: ``cancelled()`` turned true.
    """
    if prompt not in ("volume", "slice"):
        raise QMedSAMError(f"There is no prompt '{prompt}'.", "Use 'volume' or 'slice'.")
    if not MOST_INWARD <= jitter <= 1:
        raise QMedSAMError(
            f"A jitter of {jitter} is not a share of the box's length.", f"Give a number from {MOST_INWARD} to 1, e.g. 0.05."
        )
    if official and prompt != "volume":
        raise QMedSAMError("The challenge scores whole volumes.", "Use the prompt 'volume' with --official.")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QMedSAMError(f"The folder '{folder}' cannot be made.", "Choose another one for the results.") from error
    rows: list[Score] = []
    failed: list[dict[str, str]] = []
    unprompted: list[str] = []
    by_convention: list[OfficialScore] | None = [] if official else None
    with tempfile.TemporaryDirectory() as scratch:  # tiles wait on disk: which ones are shown is known at the end
        for done, case in enumerate(cases):
            if progress:
                progress(done, len(cases))
            if cancelled and cancelled():
                raise Cancelled
            first = len(rows)
            try:
                options = {"strategy": strategy, "frame": frame, "prompt": prompt, "jitter": jitter, "cancelled": cancelled}
                options["official"] = by_convention
                for score, tile in score_case(case, segmenter, **options):
                    _keep(tile, Path(scratch) / f"{len(rows)}.npz")
                    rows.append(score)
                if len(rows) == first:
                    unprompted.append(case.case_id)
            except QMedSAMError as error:
                del rows[first:]
                failed.append({"case": case.case_id, "reason": str(error)})
        if progress:
            progress(len(cases), len(cases))
        if not rows:
            reason = failed[0]["reason"] if failed else "No object is large enough for a prompt."
            raise QMedSAMError(f"Not one of {len(cases)} cases could be scored.", f"The first reason: {reason}")
        settings = {
            "strategy": strategy,
            "frame": frame or "the model's own",
            "prompt": prompt,
            "jitter": jitter,
            **(about or {}),
        }
        summary = summarize(rows, not_promptable)
        summary = {"settings": settings, **summary, "failed": failed, "without_prompt": unprompted}
        _write(folder / "scores.csv", scores_csv(rows))
        _write(folder / "summary.json", json.dumps(finite(summary), indent=2) + "\n")
        text = markdown(summary)
        if by_convention:
            _write(folder / "official.csv", official_csv(by_convention))
            text += official_markdown(by_convention)
        _write(folder / "summary.md", text)
        # Last: a sheet that cannot be drawn must not cost the numbers of a run of hours.
        sheet = [(name, [_kept(Path(scratch) / f"{n}.npz") for n in chosen]) for name, chosen in choose(rows, not_promptable)]
        sheet_png(folder / "sheet.png", sheet)
    return summary


def _largest_slice(mask: np.ndarray, crop: Crop) -> tuple[np.ndarray, Crop]:
    """The cross-section of a component with the largest area, and the crop tight around it."""
    k = int(mask.sum(axis=(1, 2)).argmax())
    rows, columns = np.flatnonzero(mask[k].any(axis=1)), np.flatnonzero(mask[k].any(axis=0))
    j0, j1, i0, i1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    k0, j, i = (c.start for c in crop)
    return mask[k : k + 1, j0:j1, i0:i1], (slice(k0 + k, k0 + k + 1), slice(j + j0, j + j1), slice(i + i0, i + i1))


def _on_common_crop(parts: Sequence[tuple[np.ndarray, Crop]], flat: bool) -> list[np.ndarray]:
    """Masks of different crops on the smallest crop that holds them all; ``flat``: on the first one's slices only."""
    low = [min(crop[a].start for _, crop in parts) for a in range(3)]
    high = [max(crop[a].stop for _, crop in parts) for a in range(3)]
    if flat:
        low[0], high[0] = parts[0][1][0].start, parts[0][1][0].stop
    result = []
    for mask, crop in parts:
        out = np.zeros([b - a for a, b in zip(low, high)], dtype=bool)
        start = [max(c.start, a) for c, a in zip(crop, low)]
        stop = [max(min(c.stop, b), s) for c, b, s in zip(crop, high, start)]
        target = tuple(slice(s - a, e - a) for s, e, a in zip(start, stop, low))
        out[target] = mask[tuple(slice(s - c.start, e - c.start) for s, e, c in zip(start, stop, crop))]
        result.append(out)
    return result


def _keep(tile: Tile, path: Path) -> None:
    image = np.round(255 * tile.image).astype(np.uint8)
    rectangle = np.array(tile.rectangle if tile.rectangle is not None else [])
    np.savez(
        path, image=image, truth=tile.truth, predicted=tile.predicted, rectangle=rectangle, mm=tile.pixel_mm, text=tile.caption
    )


def _kept(path: Path) -> Tile:
    with np.load(path) as kept:
        rectangle = tuple(kept["rectangle"].tolist()) or None
        mm = tuple(kept["mm"].tolist())
        return Tile(kept["image"] / np.float32(255), kept["truth"], kept["predicted"], rectangle, mm, str(kept["text"]))


def _write(path: Path, text: str) -> None:
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")
