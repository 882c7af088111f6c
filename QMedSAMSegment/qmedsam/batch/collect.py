"""From folders, globs and lists to cases."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

from ..errors import QMedSAMError
from ..files import PathLike, name_of
from ..files.layouts import Pair, pairs_of
from ..files.neighbours import Neighbours, holds_dicom, look_into
from ..files.paths import place_of
from .journal import JOURNAL
from .lists import LISTS, read_list
from .settings import Case, check_format, suffix_of


def collect(sources: Sequence[PathLike], folder: PathLike, format: str = "auto") -> List[Case]:
    """The cases of a run.

    In folders (with all their subfolders) and for globs a volume's boxes are the ``.mrk.json`` and ``.json`` files beside it
    whose name is its own or begins with it (``ct.nii.gz``: ``ct.mrk.json``, ``ct-boxes.json``, ``ct-liver.mrk.json``; of
    several volumes whose names fit the longest counts). Without any, an existing segmentation gives them: ``ct.seg.nrrd``,
    or a label map ``ct-seg``, ``-label``, ``-mask``, ``-truth``. A folder with DICOM files is one volume; its boxes lie
    beside it or are the box files in it. A challenge ``.npz`` carries its own. Images and masks that are laid out as nnU-Net,
    the Medical Segmentation Decathlon, MONAI's data lists or BIDS do it are pairs.

    Args:
        sources: folders, globs, lists (see :func:`~qmedsam.batch.lists.read_list`) and single volumes.
        folder: of the outputs; ``NAME.seg.nrrd`` or whatever ``format`` says is put there, in the sources' subfolders.
        format: a key of :data:`qmedsam.files.FORMATS`, or ``auto``.

    Returns:
        Cases ordered by source, then by path. One that cannot be run (no boxes, a bad row) carries its ``problem``.

    Raises:
        QMedSAMError: a source that is not there or holds no volume, the folder of the outputs is a source, two cases would
            write the same output, or one would write over an input.
    """
    check_format(format)
    finder = _Finder(Path(folder).absolute(), format)
    cases: List[Case] = []
    loose: List[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_file() and path.suffix.lower() in LISTS:
            cases += read_list(path, finder.folder, format)
        elif path.is_dir() and not holds_dicom(path):
            cases += finder.of_folder(path)
        elif path.is_file() and path.suffix.lower() == ".json" and (pairs := pairs_of(path)):
            cases += finder.of_pairs(pairs)
        elif path.exists():
            loose.append(path)
        else:
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
            if not found:
                raise QMedSAMError(f"There is nothing at '{path}'.", "Check the path for a typing error.")
            cases += finder.cases(found, _fixed_part(path))
    if loose:
        cases += finder.cases(loose, Path(os.path.commonpath([path.absolute().parent for path in loose])))
    return _checked(cases)


class _Finder:
    """Makes cases of volumes; looks into every folder once."""

    def __init__(self, folder: Path, format: str) -> None:
        self.folder, self.format = folder, format
        self._seen: Dict[Path, Neighbours] = {}

    def cases(self, paths: Sequence[Path], root: Path) -> List[Case]:
        """Of volumes and folders; named relative to ``root``."""
        if any(path.is_dir() and _same(path, self.folder) for path in paths):
            raise QMedSAMError(f"'{self.folder}' is the folder of the volumes.", "Write the results into another one.")
        volumes = [volume for path in paths for volume in self._volumes(path.absolute())]
        if not volumes:
            where = f"'{paths[0]}'" if len(paths) == 1 else f"The {len(paths)} files given"
            raise QMedSAMError(
                f"{where} {'is' if len(paths) == 1 else 'are'} no image and no folder of images.",
                "Give volumes, folders of them (for DICOM the folder of the series), or a list (.csv, .jsonl).",
            )
        return [self._case(volume, root.absolute()) for volume in dict.fromkeys(volumes)]

    def of_folder(self, path: Path) -> List[Case]:
        """Of a folder, which may be laid out in a known way; what lies beside the images counts first."""
        pairs = pairs_of(path)
        if not pairs:
            return self.cases([path], path)
        if all(pair.mask.parent.parent == path for pair in pairs):  # images here, masks there
            return self.of_pairs(pairs)
        masks = {place_of(pair.mask) for pair in pairs}
        cases = [case for case in self.cases([path], path) if place_of(case.volume) not in masks]
        of_image: Dict[str, List[Pair]] = {}
        for pair in pairs:
            of_image.setdefault(place_of(pair.image), []).append(pair)
        result: List[Case] = []
        for case in cases:
            own = [] if case.has_boxes or case.segmentation else of_image.get(place_of(case.volume), [])
            result += self.of_pairs(own) or [case]
        return result

    def of_pairs(self, pairs: Sequence[Pair]) -> List[Case]:
        """A case for every mask."""
        cases = []
        for pair in pairs:
            output = self.folder / f"{pair.name}{suffix_of(self.format, pair.image)}"
            mask, modality = pair.mask.absolute(), pair.modality or None
            cases.append(Case(pair.name, pair.image.absolute(), output, segmentation=mask, modality=modality, names=pair.names))
        return cases

    def _volumes(self, path: Path) -> Iterator[Path]:
        if path.is_file():
            # 'scans/*' also finds the boxes and segmentations; they are no volumes of their own.
            if path in self._near(path.parent).volumes:
                yield path
            return
        if holds_dicom(path):
            yield path
        seen = set()  # a linked folder may hold a link back to one above it
        for current, folders, files in os.walk(path, followlinks=True):
            here, place = Path(current), place_of(Path(current))
            if place in seen or JOURNAL in files or place == place_of(self.folder):  # the results of a run are no cases
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if here != path and holds_dicom(here):
                yield here
            yield from self._near(here).volumes

    def _near(self, folder: Path) -> Neighbours:
        if folder not in self._seen:
            self._seen[folder] = look_into(folder)
        return self._seen[folder]

    def _case(self, path: Path, root: Path) -> Case:
        near, name = self._near(path.parent), name_of(path)
        below = path.parent.relative_to(root) if root in (path.parent, *path.parent.parents) else Path()
        case = Case((below / name).as_posix(), path, self.folder / below / (name + suffix_of(self.format, path)))
        boxes, segmentations = near.boxes.get(path, []), near.segmentations.get(path, [])
        if path.is_dir():
            boxes = boxes or self._near(path).loose_boxes
        if boxes:
            return replace(case, boxes=tuple(boxes))
        if len(segmentations) == 1:
            return replace(case, segmentation=segmentations[0])
        if segmentations:
            names = ", ".join(p.name for p in segmentations)
            return replace(case, problem=f"'{path.name}' has several segmentations ({names}). Name one in a list of cases.")
        if path.suffix.lower() == ".npz":
            return replace(case, boxes=(path,))
        return replace(case, problem=f"There are no boxes for '{path.name}'. Put '{name}.mrk.json' beside it.")


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first wildcard: names then do not depend on what else is found."""
    parts = pattern.parts
    first = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _checked(cases: List[Case]) -> List[Case]:
    """With unique names.

    Raises:
        QMedSAMError: an output is written twice, or is an input.
    """
    written: Dict[str, Case] = {}
    for case in cases:
        other = written.setdefault(place_of(case.output), case)
        if other is not case and place_of(other.volume) == place_of(case.volume):
            raise QMedSAMError(
                f"'{case.volume}' is there twice, and both results would be written to '{case.output}'.",
                "Join its boxes or masks in one file, or give every line an 'output' of its own in a list (.csv, .jsonl).",
            )
        if other is not case:
            raise QMedSAMError(
                f"'{other.volume}' and '{case.volume}' would both be written to '{case.output}'.",
                "Rename one of them, or give every case an 'output' of its own in a list (.csv, .jsonl).",
            )
    for case in cases:
        for path in (case.volume, *case.boxes, *([case.segmentation] if case.segmentation else [])):
            if place_of(path) in written:
                raise QMedSAMError(f"'{path}' is an input and would be written over.", "Choose another folder for the results.")
    names: Dict[str, int] = {}
    for n, case in enumerate(cases):
        names[case.name] = names.get(case.name, 0) + 1
        if names[case.name] > 1:
            cases[n] = replace(case, name=f"{case.name} ({names[case.name]})")
    return cases


def _same(one: Path, other: Path) -> bool:
    return place_of(one) == place_of(other)
