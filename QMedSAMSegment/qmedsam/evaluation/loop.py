"""Scores on labelled cases: one prompt per object, and beside it the ellipse that anybody can draw.

This room makes the rows; ``summary`` makes means of rows and knows nothing of images.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import Cancelled, QMedSAMError
from ..files import PathLike, read_volume, writing
from ..files.apart import Reader
from ..files.tables import finite
from ..geometry import Volume
from ..intensity import Intensity
from ..pictures.sheets import Tile, sheet_png, tile_of
from .candidates import MOST, Answered, candidates_markdown
from .cases import Case
from .corrections import Corrected, click_through, clicks_markdown
from .official import OfficialScore, official_csv, official_markdown, official_score
from .prompts import ORACLES, PROMPTS, Crop, Prompt, prompts_of, told
from .rows import rows_csv
from .scores import dsc, ellipsoid_mask, nsd
from .summary import NOT_PROMPTABLE, Score, choose, markdown, scores_csv, summarize

#: mm in 3D and where a slice has a spacing, pixels on 2D pictures (the challenge's value).
NSD_TOLERANCE = 2.0
#: Jitter that leaves half of every box at least.
MOST_INWARD = -0.25


class SegmentsBoxes(Protocol):
    """What an evaluation needs of a ``Segmenter``; ``correct`` too where it clicks."""

    @property
    def segment(self) -> Callable[..., Any]: ...


@dataclass
class Findings:
    """What is to be said of a case's mask: objects without a prompt by reason, and how it was understood."""

    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What was found of an object: its mask within ``crop`` (kji), and how sure the network was."""

    mask: np.ndarray
    crop: Crop
    confidence: float


def score_case(
    case: Case,
    segmenter: SegmentsBoxes,
    *,
    strategy: str = "auto",
    frame: str | None = None,
    prompt: str = "volume",
    jitter: float = 0.0,
    oracle: str | None = None,
    cancelled: Callable[[], bool] | None = None,
    official: list[OfficialScore] | None = None,
    findings: Findings | None = None,
    clicks: int = 0,
    corrected: list[Corrected] | None = None,
    answered: list[Answered] | None = None,
    read: Callable[..., Volume] = read_volume,
    most: int | None = None,
) -> Iterator[tuple[Score, Tile]]:
    """Segment all prompts of a case in one call (with an oracle: one per object) and score each against its own component.

    ``official`` collects the case's score by the challenge's conventions, ``findings`` what is to be said of its mask,
    ``corrected`` the scores after each of so many ``clicks``, ``answered`` those of each of the
    network's answers. An oracle says nothing of pictures. ``read`` as for :meth:`.cases.Case.load`. Of more than ``most``
    objects that many are scored, spread evenly.

    Raises:
        QMedSAMError: the case cannot be read or segmented.
        Cancelled: ``cancelled()`` turned true.
    """
    volume, labels = case.load(read)
    case = replace(case, is_3d=case.is_3d and len(volume.array_kji) > 1, modality=volume.modality)
    findings = Findings() if findings is None else findings
    prompts = _spread(prompts_of(case, labels, prompt, jitter, findings.left_out, volume), most)
    findings.notes += labels.notes
    if not prompts:
        return
    names = {**dict(case.names), **labels.names}
    settings = {
        "modality": case.modality or "auto",
        "strategy": strategy,
        "frame": frame,
        "cancelled": cancelled,
        "keep_masks": True,
    }
    answers: list[Answer]
    if oracle and case.is_3d:
        settings["strategy"] = "fixed"  # every box is one slice thick: nothing to walk through
        answers, seconds = [], 0.0
        for p in prompts:
            result = segmenter.segment(volume, told(case, p, labels.shape, oracle, jitter), **settings)
            if cancelled and cancelled():
                raise Cancelled
            answers.append(_stacked(result.objects))
            seconds += _without_loading(result.seconds)
    else:
        result = segmenter.segment(volume, [p.box for p in prompts], **settings)
        if cancelled and cancelled():
            raise Cancelled
        if result.errors:  # a mean over the others would be too good
            raise QMedSAMError(result.errors[0])
        answers = [Answer(found.mask_kji_crop, found.crop, float(found.confidence)) for found in result.objects]
        seconds = _without_loading(result.seconds)
    if official is not None:
        truth_kji = np.zeros(labels.shape, np.uint16)
        for p in prompts:
            truth_kji[p.crop][p.truth] = p.box.label
        about = (case.case_id, case.modality or "unknown", case.source, truth_kji, result.labels_kji)
        official.append(official_score(*about, volume.spacing_mm, case.is_3d))
    intensity = Intensity.of(volume, case.modality)
    spacing_kji = volume.spacing_mm[::-1] if case.is_3d else np.ones(3)
    kind = ("slice" if prompt == "slice" else "volume") if case.is_3d else "picture"
    flat = kind != "volume"
    for p, found in zip(prompts, answers):
        parts = [(p.truth, p.crop), (found.mask, found.crop), ellipsoid_mask(p.box, labels.shape)]
        truth, predicted, ellipse = _on_common_crop(parts, flat)
        score = Score(
            case.case_id,
            case.patient_id,
            p.label,
            names.get(p.label, ""),
            p.component,
            case.source,
            case.modality or "unknown",
            kind,
            int(p.truth.sum()),
            float(p.truth.sum(axis=(1, 2)).max()) / (labels.shape[1] * labels.shape[2]),
            dsc(truth, predicted),
            _nsd(truth, predicted, spacing_kji, flat),
            dsc(truth, ellipse),
            found.confidence,
            seconds / len(prompts),
        )
        if answered is not None:
            whose = (case.case_id, case.source, case.modality or "unknown", kind, p.label, p.component)
            for candidate in range(MOST):
                other = found
                if candidate:
                    (one,) = segmenter.segment(volume, [replace(p.box, candidate=candidate)], **settings).objects
                    other = Answer(one.mask_kji_crop, one.crop, float(one.confidence))
                real, mask = _on_common_crop([(p.truth, p.crop), (other.mask, other.crop)], flat)
                answered.append(Answered(*whose, candidate, dsc(real, mask), _nsd(real, mask, spacing_kji, flat)))
        if corrected is not None:
            row = (case.case_id, case.source, case.modality or "unknown", kind)
            run = {"modality": settings["modality"], "frame": frame}
            own = (found.mask, found.crop)
            corrected += click_through(segmenter, volume, p, own, clicks, row, run, NSD_TOLERANCE, spacing_kji)
            if cancelled and cancelled():
                raise Cancelled
        index = p.crop[0].start + int(p.truth.sum(axis=(1, 2)).argmax())
        name = case.case_id if len(case.case_id) <= 28 else f"{case.case_id[:16]}\u2026{case.case_id[-11:]}"
        caption = f"{name} {names.get(p.label, p.label)}\nDSC {score.dsc:.2f}, ellipse {score.ellipse_dsc:.2f}"
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
    oracle: str | None = None,
    not_promptable: Sequence[str] = NOT_PROMPTABLE,
    about: Mapping[str, Any] | None = None,
    official: bool = False,
    clicks: int = 0,
    candidates: bool = False,
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
        prompt: one of :data:`.prompts.PROMPTS`, see :func:`prompts_of`.
        jitter: see :func:`prompts_of`.
        oracle: one of :data:`.prompts.ORACLES`: what the run is told of objects in volumes beyond their 3D boxes.
        not_promptable: sources to report apart.
        about: further facts for the summary's settings (the model's name, the manifest's).
        official: also write ``official.csv`` and a table by the challenge's conventions (:mod:`qmedsam.evaluation.official`).
        clicks: also write ``clicks.csv`` and a table of the scores after each of so many simulated clicks
            (:mod:`qmedsam.evaluation.corrections`).
        candidates: also write ``candidates.csv`` and a table of the scores of the network's other answers.
        progress: called with done and total cases.
        cancelled: asked after every slice; then nothing is written.

    Returns:
        The summary, see :func:`summarize`.

    Raises:
        QMedSAMError: a wrong option, a folder that cannot be made, or not a single prompt scored.
        Cancelled: ``cancelled()`` turned true.
    """
    if prompt not in PROMPTS:
        raise QMedSAMError(f"There is no prompt '{prompt}'.", f"Use {', '.join(PROMPTS)}.")
    if clicks < 0 or (clicks and oracle is not None):
        raise QMedSAMError(f"{clicks} clicks cannot be simulated here.", "Give a number from 0, without --oracle.")
    if candidates and oracle is not None:
        raise QMedSAMError("An oracle leaves nothing to choose.", "Leave out --oracle or --candidates.")
    if not MOST_INWARD <= jitter <= 1:
        raise QMedSAMError(
            f"A jitter of {jitter} is not a share of the box's length.", f"Give a number from {MOST_INWARD} to 1, e.g. 0.05."
        )
    if official and prompt != "volume":
        raise QMedSAMError("The challenge scores whole volumes.", "Use the prompt 'volume' with --official.")
    if oracle is not None:
        if oracle not in ORACLES:
            raise QMedSAMError(f"There is no oracle '{oracle}'.", f"Use one of: {', '.join(ORACLES)}.")
        if official or prompt != "volume":
            raise QMedSAMError("An oracle is for 3D boxes.", "Use it without --official and with the prompt 'volume'.")
        if not any(case.is_3d for case in cases):
            raise QMedSAMError("An oracle says nothing of pictures, and there is no volume.", "Leave it out, or name volumes.")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QMedSAMError(f"The folder '{folder}' cannot be made.", "Choose another one for the results.") from error
    rows: list[Score] = []
    failed: list[dict[str, str]] = []
    unprompted: list[str] = []
    left_out: Counter[str] = Counter()
    notes: list[dict[str, str]] = []
    by_convention: list[OfficialScore] | None = [] if official else None
    corrected: list[Corrected] | None = [] if clicks else None
    answered: list[Answered] | None = [] if candidates else None
    with (
        tempfile.TemporaryDirectory() as scratch,
        Reader() as reader,
    ):  # tiles wait on disk: which ones are shown is known at the end
        for done, case in enumerate(cases):
            if progress:
                progress(done, len(cases))
            if cancelled and cancelled():
                raise Cancelled
            first, findings, clicked, asked = len(rows), Findings(), len(corrected or ()), len(answered or ())
            try:
                options: dict[str, Any] = {
                    "strategy": strategy,
                    "frame": frame,
                    "prompt": prompt,
                    "jitter": jitter,
                    "oracle": oracle,
                }
                options |= {"cancelled": cancelled, "official": by_convention, "findings": findings, "read": reader.read}
                options |= {"clicks": clicks, "corrected": corrected, "answered": answered}
                for score, tile in score_case(case, segmenter, **options):
                    _keep(tile, Path(scratch) / f"{len(rows)}.npz")
                    rows.append(score)
                if len(rows) == first:
                    unprompted.append(case.case_id)
                left_out += findings.left_out
                notes += ({"case": case.case_id, "note": note} for note in findings.notes)
            except QMedSAMError as error:
                del rows[first:]
                del (corrected or [])[clicked:]
                del (answered or [])[asked:]
                failed.append({"case": case.case_id, "reason": str(error)})
        if progress:
            progress(len(cases), len(cases))
        if not rows:
            reason = failed[0]["reason"] if failed else "No object is large enough for a prompt."
            raise QMedSAMError(f"Not one of {len(cases)} cases could be scored.", f"The first reason: {reason}")
        settings = {
            "strategy": "fixed" if oracle else strategy,
            "frame": frame or "the model's own",
            "prompt": prompt,
            "jitter": jitter,
            **({"oracle": f"{oracle} ({ORACLES[oracle]})"} if oracle else {}),
            **(about or {}),
        }
        summary = summarize(rows, not_promptable)
        summary = {"settings": settings, **summary, "failed": failed, "without_prompt": unprompted}
        summary |= {"left_out": {reason: count for reason, count in left_out.items() if count}, "notes": notes}
        _write(folder / "scores.csv", scores_csv(rows))
        _write(folder / "summary.json", json.dumps(finite(summary), indent=2) + "\n")
        text = markdown(summary)
        if by_convention:
            _write(folder / "official.csv", official_csv(by_convention))
            text += official_markdown(by_convention)
        if corrected:
            _write(folder / "clicks.csv", rows_csv(Corrected, corrected))
            text += clicks_markdown(corrected, not_promptable)
        if answered:
            _write(folder / "candidates.csv", rows_csv(Answered, answered))
            text += candidates_markdown(answered, not_promptable)
        _write(folder / "summary.md", text)
        # Last: a sheet that cannot be drawn must not cost the numbers of a run of hours.
        chosen = choose(rows, not_promptable)
        sheet = [(name, [_kept(Path(scratch) / f"{n}.npz") for n in numbers]) for name, numbers in chosen]
        sheet_png(folder / "sheet.png", sheet)
    return summary


def _spread(prompts: list[Prompt], most: int | None) -> list[Prompt]:
    """At most so many, numbered anew: a result's objects are in the order of their labels."""
    if most is None or len(prompts) <= most:
        return prompts
    kept = [prompts[n * len(prompts) // most] for n in range(most)]
    return [replace(p, box=replace(p.box, label=n)) for n, p in enumerate(kept, start=1)]


def _without_loading(seconds: Mapping[str, float]) -> float:
    return seconds.get("total", 0.0) - seconds.get("load", 0.0)


def _stacked(objects: Sequence[Any]) -> Answer:
    """One object out of its slices, each from a box of its own."""
    crops = [found.crop for found in objects]
    crop = tuple(slice(min(c[a].start for c in crops), max(c[a].stop for c in crops)) for a in range(3))
    mask = np.zeros([c.stop - c.start for c in crop], bool)
    area = certainty = 0.0
    for found in objects:
        mask[tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(found.crop, crop))] |= found.mask_kji_crop
        own = int(found.mask_kji_crop.sum())
        area, certainty = area + own, certainty + own * found.confidence
    return Answer(mask, crop, certainty / area if area else 0.0)  # type: ignore[arg-type]


def _nsd(truth: np.ndarray, predicted: np.ndarray, spacing_kji: np.ndarray, flat: bool) -> float:
    """Of masks on one crop; ``flat``: of their only slice, as a picture."""
    first, second, spacing = (truth[0], predicted[0], spacing_kji[1:]) if flat else (truth, predicted, spacing_kji)
    return nsd(first, second, spacing, NSD_TOLERANCE)


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
