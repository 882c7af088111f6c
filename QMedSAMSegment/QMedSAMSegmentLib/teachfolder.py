"""A folder of cases to teach a model with: numbered, without names, as ``qmedsam-train teach`` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from qmedsam import QMedSAMError, Volume
from qmedsam.files import writing
from qmedsam.files.saving import save_image

from .boxtags import tagOf
from .geometry import ijkToWorld
from .grids import onVolumeGrid
from .segments import ensureLabelmaps, ijkToSegmentation
from .volumes import volumeFromNode

#: The list of a folder's cases, and its columns: the last two are ours. Where all cases have a modality it is in one more.
LIST = "cases.csv"
_COLUMNS = ("image", "mask", "case_id", "patient_id", "kind", "segments")
_BETWEEN = "|"
_COMPRESSION = 4


class Structure(NamedTuple):
    """A segment of a case: its name, Slicer's terminology entry (may be empty), and its voxels on the volume's grid."""

    name: str
    terminology: str
    mask_kji: np.ndarray


@dataclass(frozen=True)
class TaughtCase:
    """A case of a folder.

    Attributes:
        number: its own; never given again while the folder holds later ones.
        files: image and masks, relative to the folder.
        segments: names.
        modality: or empty.
    """

    number: int
    files: Tuple[str, ...]
    segments: Tuple[str, ...]
    modality: str


class TeachFolder:
    """Adds, lists and removes cases. The list is written last, so that a case is whole or not there.

    Args:
        path: made when the first case is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def list(self) -> Path:
        """What ``qmedsam-train teach`` is given."""
        return self.path / LIST

    def cases(self) -> List[TaughtCase]:
        """Those of the list, in its order; none where there is no list.

        Raises:
            QMedSAMError: the list cannot be read, or is one of something else.
        """
        found: Dict[int, TaughtCase] = {}
        for row in self._rows():
            number = int(row["patient_id"])
            before = found.get(number)
            files = (before.files if before else (row["image"],)) + (row["mask"],)
            segments = (before.segments if before else ()) + tuple(row["segments"].split(_BETWEEN))
            found[number] = TaughtCase(number, files, segments, row["kind"])
        return list(found.values())

    def counts(self) -> Dict[str, int]:
        """In how many cases each segment is drawn."""
        counts: Dict[str, int] = {}
        for case in self.cases():
            for name in case.segments:
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def add(self, volume: Volume, structures: Sequence[Structure]) -> TaughtCase:
        """Copy a case: voxels, place and modality, and what the segments are called. Nothing else of the patient.

        Segments that overlap go into files of their own.

        Raises:
            QMedSAMError: no segment with a voxel, two of one name, or the folder cannot be written to.
        """
        drawn = [one for one in structures if one.mask_kji.any()]
        if not drawn:
            raise QMedSAMError("None of the chosen segments has a voxel on this volume.", "Choose segments that are drawn.")
        names = [one.name for one in drawn]
        if len(set(names)) < len(names) or any(_BETWEEN in name or not name.strip() for name in names):
            raise QMedSAMError(
                "Two chosen segments have the same name, or one has none.", "Give every segment a name of its own."
            )
        rows = self._rows()
        number = max((int(row["patient_id"]) for row in rows), default=0) + 1
        image = f"case-{number:03}.nrrd"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            plain = Volume(volume.array_kji, volume.ijk_to_ras)  # without the name
            with writing(self.path / image) as partial:
                save_image(partial, plain.array_kji, plain, level=_COMPRESSION)
            for n, layer in enumerate(_layers(drawn), start=1):
                mask = f"case-{number:03}-{n}.seg.nrrd"
                labels_kji = np.zeros(plain.array_kji.shape[:3], np.uint8)
                for value, one in enumerate(layer, start=1):
                    labels_kji[one.mask_kji] = value
                with writing(self.path / mask) as partial:
                    save_image(partial, labels_kji, plain, _fields(layer), level=_COMPRESSION)
                segments = _BETWEEN.join(one.name for one in layer)
                row = (image, mask, f"case {number}" + (f" ({n})" if n > 1 else ""), str(number), volume.modality, segments)
                rows.append(dict(zip(_COLUMNS, row)))
            self._write(rows)
        except OSError as error:
            raise QMedSAMError(f"'{self.path}' cannot be written to ({error.strerror}).", "Choose another folder.") from error
        return self.cases()[-1]

    def remove(self, number: int) -> None:
        """Delete a case of the list with its files.

        Raises:
            QMedSAMError: there is none of this number.
        """
        gone = [case for case in self.cases() if case.number == number]
        if not gone:
            raise QMedSAMError(f"There is no case {number} in '{self.path}'.", "Look at the list again.")
        self._write([row for row in self._rows() if int(row["patient_id"]) != number])
        for name in gone[0].files:
            (self.path / name).unlink(missing_ok=True)

    def _rows(self) -> List[Dict[str, str]]:
        import csv
        import io

        if not self.list.is_file():
            return []
        try:
            rows = list(csv.DictReader(io.StringIO(self.list.read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise QMedSAMError(f"'{self.list}' cannot be read.", "Choose another folder.") from error
        if not all(map(_ours, rows)):
            raise QMedSAMError(f"'{self.list}' is not a list of this section's.", "Choose an empty folder, or one that it made.")
        return rows

    def _write(self, rows: Sequence[Dict[str, str]]) -> None:
        import csv
        import io

        text = io.StringIO()
        told = bool(rows) and all(row["kind"] for row in rows)  # an empty cell would stand for a value that was forgotten
        columns = (*_COLUMNS, "modality") if told else _COLUMNS
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "modality": row["kind"]} for row in rows)
        with writing(self.list) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")


def _ours(row: Dict[str, str]) -> bool:
    """Whether a row is one that this section wrote, of files in its folder."""
    if not all(isinstance(row.get(name), str) for name in _COLUMNS) or not row["patient_id"].isdecimal():
        return False
    return all(row[name] and Path(row[name]).name == row[name] for name in ("image", "mask"))


def presentCase(volumeNode: Any, segmentationNode: Any, segmentIds: Sequence[str]) -> Tuple[Volume, List[Structure]]:
    """A volume of the scene and some of its segments, as they are to be learned.

    Args:
        volumeNode: grey or RGB, under no or a linear transform.
        segmentationNode: segments on any grid; they are brought onto the volume's.
        segmentIds: which of them.

    Raises:
        QMedSAMError: no volume, no segment, or a bent transform.
    """
    if volumeNode is None or segmentationNode is None or not segmentIds:
        raise QMedSAMError("There is no case to add.", "Choose a volume, a segmentation and at least one of its segments.")
    volume = volumeFromNode(volumeNode)
    ensureLabelmaps(segmentationNode)
    toNode = ijkToSegmentation(ijkToWorld(volumeNode), segmentationNode)
    found = []
    for segmentId in segmentIds:
        mask = onVolumeGrid(segmentationNode, segmentId, toNode, volume.array_kji.shape[:3])
        name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
        found.append(Structure(name.strip(), tagOf(segmentationNode, segmentId, "TerminologyEntry"), mask))
    return volume, found


def _layers(structures: Sequence[Structure]) -> List[List[Structure]]:
    """As few groups as hold them without overlap."""
    layers: List[List[Structure]] = []
    for one in structures:
        free = next((layer for layer in layers if not any((one.mask_kji & other.mask_kji).any() for other in layer)), None)
        if free is None:
            layers.append([one])
        else:
            free.append(one)
    return layers


def _fields(layer: Sequence[Structure]) -> Dict[str, str]:
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for n, one in enumerate(layer):
        about = {"ID": f"Segment_{n + 1}", "Name": one.name, "LabelValue": str(n + 1), "Layer": "0"}
        about["Tags"] = f"TerminologyEntry:{one.terminology}|" if one.terminology else "Segmentation.Status:inprogress|"
        fields.update({f"Segment{n}_{key}": value for key, value in about.items()})
    return fields
