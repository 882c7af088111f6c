"""Folders and lists of cases, joined to what is learned from; what must not be on both sides of a fold is one patient's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from qmedsam import QMedSAMError
from qmedsam.errors import shown
from qmedsam.evaluation.cases import MIN_PIXELS_2D, MIN_VOXELS_3D, Case, read_manifest
from qmedsam.files.dicom_masks import codes_of_segments, mask_file
from qmedsam.files.nrrd import read_nrrd_header
from qmedsam.terminology import code_of_tags, folded

from .cases import Lessons, Taught, read_case
from .settings import FEW, LEAST


def read_lessons(
    paths: Sequence[Path],
    names: Optional[Mapping[int, str]] = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Lessons:
    """The labelled cases of folders or lists, joined.

    An image that is there several times is one patient's, DICOM series of one PatientID are too (unless all have the same, as
    after some anonymisations), and a case that is there twice counts once: what was learned from must not be held out.

    Args:
        paths: each whatever :func:`qmedsam.evaluation.cases.read_manifest` takes; of a list with splits its split ``train``.
        names: of label values, for masks that do not name them; 0: of all others.
        told: called with done and total cases.

    Raises:
        QMedSAMError: fewer than :data:`.settings.LEAST` patients, pictures among volumes, targets whose names differ by case or
            blanks alone, or nothing readable at all.
    """
    cases = [case for number, path in enumerate(paths, start=1) for case in _listed(path, number if len(paths) > 1 else 0)]
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
    usable = _joined(usable, notes)
    _check(usable, notes, paths)
    return Lessons(usable, {target: sorted(found) for target, found in codes.items()}, notes)


def _listed(path: Path, number: int) -> List[Case]:
    """Of a folder or list; ``number``: of several, whose patients are others though they may be called alike."""
    cases = read_manifest(path)
    if any(case.split for case in cases):
        cases = [case for case in cases if case.split in ("", "train")]
    if not number:
        return cases
    place = (path if path.is_dir() else path.absolute().parent).resolve().name
    return [replace(case, case_id=f"{place}/{case.case_id}", source=f"{number}/{case.source}") for case in cases]


def _joined(cases: Sequence[Taught], notes: List[str]) -> List[Taught]:
    """Without cases that are there twice, and with one patient for one image."""
    result: List[Taught] = []
    first: Dict[Tuple[str, ...], Taught] = {}
    same: Dict[Tuple[str, str], Tuple[str, str]] = {}

    def owner(patient: Tuple[str, str]) -> Tuple[str, str]:
        while patient in same:
            patient = same[patient]
        return patient

    for one in cases:
        twin = first.get(one.digests)
        if twin is not None:
            notes.append(f"Left out '{shown(one.case.case_id)}': it is '{shown(twin.case.case_id)}' again.")
            continue
        other = first.setdefault(one.digests[:1], one)
        if owner(other.patient) != owner(one.patient):
            same[owner(one.patient)] = owner(other.patient)
            notes.append(f"'{shown(one.case.case_id)}' has the image of '{shown(other.case.case_id)}': held out together.")
        first[one.digests] = one
        result.append(replace(one, number=len(result) + 1))
    if len({one.person for one in result}) > 1:
        for person in sorted({one.person for one in result} - {""}):
            own = [one.patient for one in result if one.person == person]
            for patient in own[1:]:
                if owner(patient) != owner(own[0]):
                    same[owner(patient)] = owner(own[0])
    owners = [owner(one.patient) for one in result]
    return [replace(one, case=replace(one.case, source=a, patient_id=b)) for one, (a, b) in zip(result, owners)]


def _codes(case: Case) -> Dict[str, str]:
    """Of the segments of a ``.seg.nrrd`` or DICOM SEG, by their names."""
    targets = {name for _, name in case.names}
    if not case.mask.name.lower().endswith(".seg.nrrd"):
        seg = mask_file(case.mask)
        found = codes_of_segments(seg) if seg else {}
        return {name: code for name, code in found.items() if name in targets}
    keys = read_nrrd_header(case.mask).keys
    found = {}
    for key, name in keys.items():
        number, _, field_ = key.partition("_")
        code = code_of_tags(keys.get(f"{number}_Tags", "")) if field_ == "Name" and number.startswith("Segment") else ""
        if code and name.strip() in targets:
            found[name.strip()] = code
    return found


def _check(cases: Sequence[Taught], notes: Sequence[str], paths: Sequence[Path]) -> None:
    if not cases:
        where = " and ".join(f"'{path}'" for path in paths)
        raise QMedSAMError(
            f"{where} {'hold' if len(paths) > 1 else 'holds'} no case to learn from.",
            notes[0] if notes else "Put volumes and segmentations there.",
        )
    flat = [taught.number for taught in cases if not taught.case.is_3d]
    if 0 < len(flat) < len(cases):
        raise QMedSAMError(
            f"{len(flat)} of the {len(cases)} cases are single pictures and the others are volumes.",
            "Teach them apart: each in a folder of its own.",
        )
    patients = len({taught.patient for taught in cases})
    if patients < LEAST:
        left = f" {len(notes)} were left out or come with a note; the first: {notes[0]}" if notes else ""
        raise QMedSAMError(
            f"{patients} patient{'' if patients == 1 else 's'} cannot both teach and show what was learned.{left}",
            f"Add cases of other patients: {LEAST} at least, {FEW} are a good start.",
        )
