"""Labelled cases from a CSV manifest, and the prompts that their masks give (for evaluation and for training)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..files import PathLike, read_volume
from ..files.tables import read_text, table_of
from ..geometry import Volume
from ..intensity import known_modality

#: Smallest component that gets a prompt, and how many of a label's components do (issue of record: the largest ones).
MIN_PIXELS_2D = 30
MIN_VOXELS_3D = 100
MAX_COMPONENTS = 8

_COLUMNS = ("case_id", "modality", "dim", "source", "split", "path_image", "path_mask")


@dataclass(frozen=True)
class Case:
    """One row of a manifest."""

    case_id: str
    modality: str
    is_3d: bool
    source: str
    split: str
    patient_id: str
    image: Path
    mask: Path

    @property
    def group(self) -> str:
        """Modality and source: what scores are averaged over before the mean over sources."""
        return f"{self.modality}/{self.source}"

    def load(self) -> Tuple[Volume, np.ndarray]:
        """The image and its label array (kji)."""
        volume = read_volume(self.image)
        volume = Volume(volume.array_kji, volume.ijk_to_ras, self.modality, self.case_id)
        labels = read_volume(self.mask).array_kji
        if labels.ndim != 3 or labels.shape != volume.array_kji.shape[:3]:
            raise QMedSAMError(f"Image and mask of '{self.case_id}' differ in shape.", "Check the manifest's paths.")
        return volume, labels


def read_manifest(path: PathLike, split: Optional[str] = None) -> List[Case]:
    """The cases of a manifest (columns as in its header, a CSV as for ``qmedsam batch``; paths relative to it), or of one split.

    Raises:
        QMedSAMError: missing file, not a text in UTF-8, a missing column, a row without one of the values, or no case left.
    """
    path = Path(path)
    columns, rows = table_of(read_text(path, "a manifest"), path.name)
    missing = [c for c in _COLUMNS if c not in columns]
    if missing:
        raise QMedSAMError(f"'{path.name}' lacks the column(s) {', '.join(missing)}.", "See the documentation.")
    cases = []
    for line, row in rows:
        if split is not None and row["split"] != split:
            continue
        empty = [c for c in ("case_id", "modality", "dim", "path_image", "path_mask") if not row[c]]
        if empty:
            raise QMedSAMError(f"Line {line} of '{path.name}' has no {empty[0]}.", "Fill the cell, or delete the line.")
        cases.append(
            Case(
                row["case_id"],
                known_modality(row["modality"]),
                row["dim"].upper() == "3D",
                row["source"],
                row["split"],
                row.get("patient_id") or row["case_id"],
                path.parent / row["path_image"],
                path.parent / row["path_mask"],
            )
        )
    if not cases:
        raise QMedSAMError(f"'{path.name}' has no case" + (f" of the split '{split}'." if split else "."))
    return cases


def components(labels_kji: np.ndarray, is_3d: bool) -> Iterator[Tuple[int, np.ndarray, Tuple[slice, ...]]]:
    """The objects that get a prompt: ``(label, mask of the crop, crop)`` for the largest components of every label.

    2D: 8-connected, at least 30 pixels. 3D: 26-connected, at least 100 voxels. At most 8 of each label, largest first.
    """
    import SimpleITK as sitk

    least = MIN_VOXELS_3D if is_3d else MIN_PIXELS_2D
    for label in np.unique(labels_kji[labels_kji > 0]):
        mask = sitk.GetImageFromArray((labels_kji == label).astype(np.uint8))
        parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask, True), minimumObjectSize=least)
        array = sitk.GetArrayViewFromImage(parts)
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(parts)
        for part in list(statistics.GetLabels())[:MAX_COMPONENTS]:
            i, j, k, ni, nj, nk = statistics.GetBoundingBox(part)
            crop = (slice(k, k + nk), slice(j, j + nj), slice(i, i + ni))
            yield int(label), array[crop] == part, crop
