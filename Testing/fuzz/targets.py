"""What the fuzzer does with an input: the calls that a user's file of that kind ends in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np

#: By reader: suffixes that the input is given (they lie as often as users do), and the calls.
Target = Tuple[Tuple[str, ...], Tuple[Callable[[Path], object], ...]]


def _volume(path: Path) -> None:
    from qmedsam.files import count_frames, read_frames

    count = count_frames(path)
    for volume, _ in zip(read_frames(path), range(3)):
        assert count >= 1 and volume.array_kji.size and np.isfinite(volume.ijk_to_ras).all()


def _one(path: Path) -> None:
    from qmedsam.files import read_volume

    read_volume(path)


def _memory(path: Path) -> None:
    from qmedsam.batch.memory import check_memory
    from qmedsam.batch.settings import Case

    check_memory(Case("x", path, path.with_suffix(".seg.nrrd"), (path,)), 1 << 30)


def _folder(path: Path) -> None:
    """The input among sound slices of a series."""
    import dicoms
    from qmedsam.files import read_volume
    from qmedsam.files.dicom import series_files

    folder = path.parent / "series"
    if not folder.exists():
        dicoms.write_slices(folder, dicoms.planes(4))
    shutil.copyfile(path, folder / "input")
    series_files(folder)
    read_volume(folder)


def _segments(path: Path) -> None:
    from qmedsam.files import read_segments
    from qmedsam.geometry import Volume

    read_segments(path, Volume(np.zeros((5, 12, 14), np.uint8)))


def _masks(path: Path) -> None:
    """As the labels of an image, as ``evaluate`` and training take them; and a structure set as it is read back."""
    from qmedsam.files import read_rtstruct
    from qmedsam.files.labelled import read_label_map
    from qmedsam.geometry import Volume

    volume = Volume(np.zeros((5, 12, 14), np.uint8), np.eye(4))
    labels = read_label_map(path, volume)
    assert labels.shape == (5, 12, 14)
    if "1.2.840.10008.5.1.4.1.1.481.3" in str(path.read_bytes()):
        read_rtstruct(path, volume)


def _labels(path: Path) -> None:
    from qmedsam.files import read_labels

    read_labels(path)


def _boxes(path: Path) -> None:
    """What is read is written, and read again."""
    from qmedsam.errors import QMedSAMError
    from qmedsam.files import read_boxes, write_boxes
    from qmedsam.geometry import Volume

    volume = Volume(np.zeros((5, 12, 14), np.uint8))
    boxes = read_boxes(path, volume)
    assert all(np.isfinite(box.corners_ijk).all() and box.label > 0 for box in boxes)
    written = path.parent / "written.mrk.json"
    try:
        write_boxes(written, boxes, volume)
    except QMedSAMError:
        return
    assert len(read_boxes(written, volume)) == len(boxes)


def _list(path: Path) -> None:
    from qmedsam.batch.lists import read_list

    for case in read_list(path, path.parent, "auto"):
        assert case.name


def _model(path: Path) -> None:
    from qmedsam.models import ModelStore

    store = ModelStore(folders=[path.parent / "user"], user=path.parent / "user")
    try:
        store.add(path)
    finally:
        outside = [p.name for p in path.parent.iterdir() if p.name not in ("user", path.name)]
        assert not outside, f"files outside the folder of models: {outside}"
        store.models()
        shutil.rmtree(path.parent / "user", ignore_errors=True)


_IMAGE = (_memory, _volume, _one)
TARGETS: Dict[str, Target] = {
    "dicom": ((".dcm", "", ".nii"), _IMAGE),
    "dicom-folder": ((".dcm",), (_folder,)),
    "dicom-seg": ((".dcm", ""), (_segments, _masks)),
    "rtstruct": ((".dcm", ""), (_segments, _masks)),
    "nifti": ((".nii", ".nii.gz", ".hdr", ".dcm"), _IMAGE),
    "nrrd": ((".nrrd", ".nhdr", ".seg.nrrd"), _IMAGE),
    "segmentation": ((".seg.nrrd", ".nrrd"), (_segments, _labels)),
    "metaimage": ((".mha", ".mhd", ".nrrd"), _IMAGE),
    "png": ((".png", ".jpg"), _IMAGE),
    "jpeg": ((".jpg", ".png"), _IMAGE),
    "bmp": ((".bmp",), _IMAGE),
    "tiff": ((".tif", ".png"), _IMAGE),
    "npz": ((".npz",), (*_IMAGE, _boxes, _labels, _segments)),
    "boxes": ((".mrk.json", ".json"), (_boxes,)),
    "list": ((".csv", ".jsonl", ".tsv"), (_list,)),
    "models": ((".zip",), (_model,)),
}
