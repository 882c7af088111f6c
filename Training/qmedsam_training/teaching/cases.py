"""Cases to learn from, read by the engine's one reader, and the targets in them: what their segments are called."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Set, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.errors import shown
from qmedsam.evaluation.cases import Case, components
from qmedsam.files.dicom_header import read_dicom_header, value_of
from qmedsam.files.kinds import known_kind
from qmedsam.files.labelled import LabelMap

from ..data.splitting import chance_of

#: Parts of the patients that are held out in turn.
_FOLDS = 3


@dataclass(frozen=True)
class Taught:
    """A case to learn from.

    Attributes:
        number: from 1; what reports and cards call it.
        case: with the names of its labels complete.
        digests: of the contents of its image and its mask.
        voxels: of its image.
        objects: how many it has of each target.
        person: whose it is as its DICOM files say; empty where they do not, and for other images.
    """

    number: int
    case: Case
    digests: Tuple[str, str]
    voxels: int
    objects: Mapping[str, int]
    person: str = ""

    @property
    def key(self) -> str:
        """Changes when one of its files does, or how they are understood."""
        about = (self.case.modality, self.case.is_3d, self.case.names, self.digests)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

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
    called = {value: (called.get(value) or names.get(0, f"label {value}")).strip() for value in values}
    case = replace(case, is_3d=is_3d, modality=volume.modality, names=tuple(called.items()))
    counts = Counter(called[label] for label, _, _ in components(labels, is_3d))
    notes = [f"'{shown(case.case_id)}': {note}" for note in labels.notes]
    digests = (_digest(case.image), _digest(case.mask))
    return Taught(number, case, digests, volume.array_kji.size, dict(counts), _person(case.image)), notes


def _digest(place: Path) -> str:
    """Of a file's content, or that of all files of a folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else (place,):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _person(place: Path) -> str:
    """Whose a DICOM series is, as its first file says; empty for other images."""
    files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith(".")) if place.is_dir() else [place]
    try:
        if not files or known_kind(files[0]) != "dicom":
            return ""
        return value_of(read_dicom_header(files[0]).dataset, "PatientID", str, "").strip()
    except QMedSAMError:
        return ""
