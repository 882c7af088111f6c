"""Labelled cases from a list or a folder, and the objects in their masks (for evaluation, training and teaching)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import QMedSAMError
from ..files import PathLike, name_of, read_volume
from ..files.labelled import LabelMap, read_label_map
from ..files.layouts import Pair, beside, pairs_of
from ..files.tables import read_text, table_of
from ..geometry import Volume
from ..intensity import known_modality, looks_like_ct

#: Smallest component that gets a prompt, and how many of a label's components do (issue of record: the largest ones).
MIN_PIXELS_2D = 30
MIN_VOXELS_3D = 100
MAX_COMPONENTS = 8

#: Names that a column may have; the first is ours.
_COLUMNS: Dict[str, Tuple[str, ...]] = {
    "image": ("path_image", "image", "volume", "img", "path"),
    "mask": ("path_mask", "mask", "segmentation", "label", "labels", "seg"),
    "case_id": ("case_id", "case", "name", "id"),
    "modality": ("modality",),
    "dim": ("dim",),
    "source": ("source", "dataset"),
    "split": ("split",),
    "patient_id": ("patient_id", "patient", "subject"),
    "series": ("series",),
}
_DIMS = {
    **dict.fromkeys(("2d", "2", "picture", "image", "slice"), False),
    **dict.fromkeys(("3d", "3", "volume"), True),
}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_PAGE = "Docs/HowTo/LabelledCases.md says what a list of labelled cases may hold."


@dataclass(frozen=True)
class Case:
    """An image and its mask.

    Attributes:
        case_id: says which it is.
        modality: ``""`` for the image's own.
        is_3d: a volume, not a picture.
        source: data set.
        split: ``train``, ``validation`` and so on.
        patient_id: whose it is.
        image, mask: their files.
        names: of labels, where the mask's file does not give them.
        series: DICOM series of the image.
    """

    case_id: str
    modality: str
    is_3d: bool
    source: str
    split: str
    patient_id: str
    image: Path
    mask: Path
    names: Tuple[Tuple[int, str], ...] = ()
    series: Optional[str] = None

    @property
    def group(self) -> str:
        """Modality and source: what scores are averaged over before the mean over sources."""
        return f"{self.modality or 'unknown'}/{self.source}"

    def load(self, read: Callable[..., Volume] = read_volume) -> Tuple[Volume, LabelMap]:
        """The image with its modality (the case's, the file's, or CT where the values look like it), and its labels on its grid.

        Args:
            read: what images are read by: that of a :class:`~qmedsam.files.apart.Reader` where the program has to go on.

        Raises:
            QMedSAMError: one of them cannot be read, they do not meet, or a volume is called a picture.
        """
        image = read(self.image, self.series)
        modality = self.modality or image.modality
        if not modality and image.array_kji.dtype != np.uint8 and not image.is_rgb and looks_like_ct(image.array_kji):
            modality = "CT"
        volume = replace(image, modality=modality, name=self.case_id)
        if not self.is_3d and volume.shape_ijk[2] > 1:
            raise QMedSAMError(
                f"'{self.image.name}' has {volume.shape_ijk[2]} slices, but its case is called 2D.", "Write 3D, or nothing."
            )
        return volume, read_label_map(self.mask, volume, self.image, read)


def read_manifest(path: PathLike, split: Optional[str] = None) -> List[Case]:
    """The cases of a list or a folder, or of one split.

    Args:
        path: a CSV as a spreadsheet saves it, whose first line names its columns: ``image`` and ``mask`` (paths relative to
            it), and if wanted ``case_id``, ``modality``, ``dim`` (2D, 3D), ``source``, ``split``, ``patient_id``, ``series``;
            or what :func:`qmedsam.files.layouts.pairs_of` knows (``dataset.json``, BIDS, two folders), or a folder with
            segmentations beside the images.
        split: only its cases. A list without splits is all ``train``.

    Raises:
        QMedSAMError: nothing there, not a text in UTF-8, a missing column, a row without one of its values or with a wrong
            one, a case or a pair of files listed twice, or no case left.
    """
    path = Path(path)
    cases = _from_layout(path) if path.is_dir() or path.suffix.lower() == ".json" else _from_table(path)
    if split is not None:
        if not any(case.split for case in cases):
            if split == "train":
                return cases
            raise QMedSAMError(f"'{path.name}' says nothing of splits.", "Leave --split out, or add a column 'split'.")
        cases = [case for case in cases if case.split == split]
    if not cases:
        raise QMedSAMError(f"'{path.name}' has no case" + (f" of the split '{split}'." if split else "."), _PAGE)
    return cases


def of_modalities(cases: Sequence[Case], names: Sequence[str]) -> List[Case]:
    """The cases of these modalities; where one is named, also those that tell none, as of it.

    Raises:
        QMedSAMError: an unknown modality.
    """
    wanted = {known_modality(name) for name in names}
    if len(wanted) == 1:
        cases = [case if case.modality else replace(case, modality=next(iter(wanted))) for case in cases]
    return [case for case in cases if case.modality in wanted]


def case_of(pair: Pair, source: str, modality: str = "") -> Case:
    """A case of a pair of files; ``modality`` where the pair does not tell it."""
    is_3d = pair.image.suffix.lower() not in _PICTURES
    kind = pair.modality or modality
    about = (pair.name, kind, is_3d, source, pair.split, pair.patient or pair.name)
    return Case(*about, pair.image, pair.mask, pair.names)


def _from_layout(path: Path) -> List[Case]:
    pairs = pairs_of(path)
    if pairs is None and path.is_dir():
        pairs = beside(path)
    if not pairs:
        raise QMedSAMError(f"'{path}' holds no images with masks that are laid out in a known way.", _PAGE)
    return [case_of(pair, (path if path.is_dir() else path.absolute().parent).resolve().name) for pair in pairs]


def _from_table(path: Path) -> List[Case]:
    columns, rows = table_of(read_text(path, "a list of labelled cases"), path.name)
    named = {field: next((c for c in names if c in columns), None) for field, names in _COLUMNS.items()}
    missing = [field for field in ("image", "mask") if named[field] is None]
    if missing:
        raise QMedSAMError(f"'{path.name}' lacks the column(s) {', '.join(missing)}.", _PAGE)
    cases: List[Case] = []
    lines: Dict[object, int] = {}
    masks: Dict[Path, Tuple[int, Path]] = {}
    for line, row in rows:
        values = {field: row[column] for field, column in named.items() if column is not None}
        # A column that is there is meant: half a table filled in gives half of a mean.
        empty = [named[f] for f in ("image", "mask", "case_id", "modality", "dim", "source") if not values.get(f, "-")]
        if empty:
            raise QMedSAMError(f"Line {line} of '{path.name}' has no {empty[0]}.", "Fill the cell, or delete the line.")
        try:
            case = _case(values, path)
        except QMedSAMError as error:
            raise QMedSAMError(f"Line {line} of '{path.name}': {error.message}", error.hint) from None
        before, mask = masks.setdefault(case.image, (line, case.mask))
        if mask != case.mask and not values.get("case_id"):
            raise QMedSAMError(
                f"Lines {before} and {line} of '{path.name}' are two masks of one image.",
                "Give each line a name of its own in a column case_id, or join the masks in one file.",
            )
        for key, what in ((case.case_id, f"case '{case.case_id}'"), ((case.image, case.mask), "pair of files")):
            if lines.setdefault(key, line) != line:
                raise QMedSAMError(f"Lines {lines[key]} and {line} of '{path.name}' are the same {what}.", "Keep one of them.")
        cases.append(case)
    return cases


def _case(values: Mapping[str, str], path: Path) -> Case:
    image, mask = path.parent / values["image"], path.parent / values["mask"]
    dim = values.get("dim", "")
    if dim and dim.lower() not in _DIMS:
        raise QMedSAMError(f"there is no dimension '{dim}'.", "Write 3D for a volume, 2D for a picture.")
    relative = Path(values["image"])
    name = values.get("case_id") or (relative.parent / name_of(image)).as_posix()
    return Case(
        name,
        known_modality(values["modality"]) if values.get("modality") else "",
        _DIMS[dim.lower()] if dim else image.suffix.lower() not in _PICTURES,
        values.get("source") or path.absolute().parent.name,
        values.get("split", ""),
        values.get("patient_id") or name,
        image,
        mask,
        series=values.get("series") or None,
    )


def components(
    labels: Union[LabelMap, np.ndarray], is_3d: bool, left_out: Optional[Counter[str]] = None
) -> Iterator[Tuple[int, np.ndarray, Tuple[slice, slice, slice]]]:
    """The objects that get a prompt: ``(label, mask of the crop, crop)`` for the largest components of every label.

    2D: 8-connected, at least 30 pixels. 3D: 26-connected, at least 100 voxels. At most 8 of each label, largest first.

    Args:
        labels: of a case, or one array ``(k, j, i)``.
        is_3d: which of the two.
        left_out: counts the components that get none, by reason.
    """
    import SimpleITK as sitk

    least = MIN_VOXELS_3D if is_3d else MIN_PIXELS_2D
    counts: Counter[str] = Counter() if left_out is None else left_out
    for layer in labels.layers if isinstance(labels, LabelMap) else (labels,):
        for label in np.unique(layer[layer > 0]):
            mask = sitk.GetImageFromArray((layer == label).astype(np.uint8))
            relabel = sitk.RelabelComponentImageFilter()
            relabel.SetMinimumObjectSize(least)
            parts = relabel.Execute(sitk.ConnectedComponent(mask, True))
            counts[f"smaller than {least} {'voxels' if is_3d else 'pixels'}"] += (
                relabel.GetOriginalNumberOfObjects() - relabel.GetNumberOfObjects()
            )
            array = sitk.GetArrayViewFromImage(parts)
            statistics = sitk.LabelShapeStatisticsImageFilter()
            statistics.Execute(parts)
            found = list(statistics.GetLabels())
            counts[f"beyond the {MAX_COMPONENTS} largest of a label"] += len(found[MAX_COMPONENTS:])
            for part in found[:MAX_COMPONENTS]:
                i, j, k, ni, nj, nk = statistics.GetBoundingBox(part)
                crop = (slice(k, k + nk), slice(j, j + nj), slice(i, i + ni))
                yield int(label), array[crop] == part, crop
