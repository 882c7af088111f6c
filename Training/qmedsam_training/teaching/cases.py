"""The cases of a folder, read by the engine's one reader, and the targets in them: what their segments are called."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.errors import shown
from qmedsam.evaluation.cases import MIN_PIXELS_2D, MIN_VOXELS_3D, Case, components, read_manifest
from qmedsam.files.labelled import LabelMap
from qmedsam.files.nrrd import read_nrrd_header
from qmedsam.terminology import code_of_tags, folded

from ..data.splitting import chance_of

#: Fewest cases (of different patients): something to learn from, and something to say how good that is.
LEAST_CASES = 3
#: Cases from which on one part is held out once; below all are held out in turn.
_FOLDS = 3


@dataclass(frozen=True)
class Taught:
    """A case to learn from.

    Attributes:
        number: from 1; what reports and cards call it.
        case: with the names of its labels complete.
        key: changes when one of its files does.
        voxels: of its image.
        objects: how many it has of each target.
    """

    number: int
    case: Case
    key: str
    voxels: int
    objects: Mapping[str, int]

    @property
    def patient(self) -> Tuple[str, str]:
        """Whose it is."""
        return self.case.source, self.case.patient_id


@dataclass(frozen=True)
class Lessons:
    """All that is learned from.

    Attributes:
        cases: readable ones with at least one object.
        codes: of each target, in standard terminologies, as far as files say them.
        notes: on what was understood and left out, a sentence each.
    """

    cases: Sequence[Taught]
    codes: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default=())

    @property
    def targets(self) -> List[str]:
        """Names, in alphabetic order."""
        return sorted({target for case in self.cases for target in case.objects})

    @property
    def is_3d(self) -> bool:
        """Volumes, or pictures."""
        return self.cases[0].case.is_3d

    @property
    def modalities(self) -> List[str]:
        """Of the cases; empty where one has none that is known."""
        found = {taught.case.modality for taught in self.cases}
        return [] if "" in found else sorted(found)

    def objects(self, target: str) -> Tuple[int, int]:
        """How many of a target there are, and in how many cases."""
        counts = [case.objects.get(target, 0) for case in self.cases]
        return sum(counts), sum(count > 0 for count in counts)

    def folds(self) -> List[Set[Tuple[str, str]]]:
        """The patients that are held out together, in turn; each is in one of them."""
        patients = sorted({case.patient for case in self.cases}, key=chance_of)
        return [set(patients[n::_FOLDS]) for n in range(min(_FOLDS, len(patients)))]


def read_lessons(
    path: Path, names: Optional[Mapping[int, str]] = None, told: Callable[[int, int], None] = lambda done, total: None
) -> Lessons:
    """The labelled cases of a folder or a list.

    Args:
        path: whatever :func:`qmedsam.evaluation.cases.read_manifest` takes; of a list with splits its split ``train``.
        names: of label values, for masks that do not name them.
        told: called with done and total cases.

    Raises:
        QMedSAMError: fewer than three usable cases, pictures among volumes, targets whose names differ by case or blanks alone,
            or nothing readable at all.
    """
    cases = read_manifest(path)
    if any(case.split for case in cases):
        cases = [case for case in cases if case.split in ("", "train")]
    usable: List[Taught] = []
    notes: List[str] = []
    spelled: Dict[str, str] = {}
    codes: Dict[str, Set[str]] = {}
    for done, case in enumerate(cases):
        told(done, len(cases))
        try:
            one, said = read_case(case, len(usable) + 1, dict(names or {}))
        except QMedSAMError as error:
            notes.append(f"Left out '{shown(case.case_id)}': {error}")
            continue
        notes += said
        if not one.objects:
            least = f"{MIN_VOXELS_3D} voxels" if one.case.is_3d else f"{MIN_PIXELS_2D} pixels"
            notes.append(f"Left out '{shown(case.case_id)}': none of its segments has an object of at least {least}.")
            continue
        for target in one.objects:
            first = spelled.setdefault(folded(target), target)
            if first != target:
                raise QMedSAMError(
                    f"The targets '{shown(first)}' and '{shown(target)}' have names that differ by capitals or blanks alone.",
                    "Give them one name where they are the same structure, else clearly different ones.",
                )
        for target, code in _codes(one.case).items():
            codes.setdefault(target, set()).add(code)
        usable.append(one)
    told(len(cases), len(cases))
    _check(usable, notes, path)
    return Lessons(usable, {target: sorted(found) for target, found in codes.items()}, notes)


def labels_of(case: Case, labels: LabelMap) -> Dict[int, str]:
    """What each label of a case is called, its own names before the list's."""
    return {**dict(case.names), **labels.names}


def read_case(case: Case, number: int, names: Mapping[int, str]) -> Tuple[Taught, List[str]]:
    """A case with its objects counted, and notes on how it was understood.

    Raises:
        QMedSAMError: it cannot be read.
    """
    volume, labels = case.load()
    is_3d = case.is_3d and len(volume.array_kji) > 1
    called = {**{value: text for value, text in labels_of(case, labels).items() if text.strip()}, **names}
    values = sorted({int(value) for layer in labels.layers for value in np.unique(layer) if value})
    called = {value: called.get(value, f"label {value}").strip() for value in values}
    case = replace(case, is_3d=is_3d, modality=volume.modality, names=tuple(called.items()))
    counts = Counter(called[label] for label, _, _ in components(labels, is_3d))
    notes = [f"'{shown(case.case_id)}': {note}" for note in labels.notes]
    return Taught(number, case, _key(case), volume.array_kji.size, dict(counts)), notes


def _key(case: Case) -> str:
    """Of the files' names, sizes and times: a file that changed is drawn from anew."""
    digest = hashlib.sha256(repr((case.modality, case.is_3d, case.names)).encode())
    for place in (case.image, case.mask):
        for path in sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else (place,):
            digest.update(f"{path}{path.stat().st_size}{path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _codes(case: Case) -> Dict[str, str]:
    """Of the segments of a ``.seg.nrrd``, by their names."""
    if not case.mask.name.lower().endswith(".seg.nrrd"):
        return {}
    keys = read_nrrd_header(case.mask).keys
    targets = {name for _, name in case.names}
    found = {}
    for key, name in keys.items():
        number, _, field_ = key.partition("_")
        code = code_of_tags(keys.get(f"{number}_Tags", "")) if field_ == "Name" and number.startswith("Segment") else ""
        if code and name.strip() in targets:
            found[name.strip()] = code
    return found


def _check(cases: Sequence[Taught], notes: Sequence[str], path: Path) -> None:
    if not cases:
        raise QMedSAMError(
            f"'{path}' holds no case to learn from.", notes[0] if notes else "Put volumes and segmentations there."
        )
    flat = [taught.number for taught in cases if not taught.case.is_3d]
    if 0 < len(flat) < len(cases):
        raise QMedSAMError(
            f"{len(flat)} of the {len(cases)} cases are single pictures and the others are volumes.",
            "Teach them apart: each in a folder of its own.",
        )
    patients = len({taught.patient for taught in cases})
    if patients < LEAST_CASES:
        left = f" {len(notes)} were left out or come with a note; the first: {notes[0]}" if notes else ""
        raise QMedSAMError(
            f"{patients} usable case{'' if patients == 1 else 's'} cannot both teach and show what was learned.{left}",
            f"Add cases of other patients: {LEAST_CASES} at least, ten are a good start.",
        )
