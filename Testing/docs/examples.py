"""The files that the pages' examples speak of: small, generated, with an object where the page draws its box."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "engine"))  # its builders of series and cohorts

from qmedsam import Box, Volume  # noqa: E402
from qmedsam.files import image_of, write_boxes, write_segmentation  # noqa: E402


def write_examples(folder: Path) -> None:
    """Every file that the README and the pages of the site name, in an empty folder."""
    (folder / "Resources").symlink_to(ROOT / "Resources")
    (folder / "QMedSAMBatch").symlink_to(ROOT / "QMedSAMBatch")
    _liver(folder)
    _photo(folder / "polyp.jpg", (215, 150), (90, 105))
    (folder / "photos").mkdir()
    _photo(folder / "photos" / "p001.jpg", (426, 304), (110, 92))
    _photo(folder / "photos" / "p002.jpg", (285, 233), (130, 138))
    _series(folder)
    _scans(folder)
    _model(folder / "MODELS" / "mine")


def _ellipsoid(shape_kji, center_ijk, radii_ijk) -> np.ndarray:
    k, j, i = np.ogrid[: shape_kji[0], : shape_kji[1], : shape_kji[2]]
    (ci, cj, ck), (ri, rj, rk) = center_ijk, radii_ijk
    return ((i - ci) / ri) ** 2 + ((j - cj) / rj) ** 2 + ((k - ck) / rk) ** 2 <= 1


def _written(path: Path, volume: Volume) -> None:
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image_of(volume.array_kji, volume.ijk_to_ras), str(path), True)


def _liver(folder: Path) -> None:
    """``liver.nii.gz`` for the box 60,80,12 to 210,190,41, and two labelled cases of the same kind."""
    inside = _ellipsoid((46, 200, 220), (135, 135, 26.5), (72, 53, 14))
    noise = np.random.default_rng(0).normal(0, 12, inside.shape)
    volume = Volume((np.where(inside, 110, 20) + noise).astype(np.int16), np.diag([1.2, 1.2, 4.0, 1.0]), "CT")
    _written(folder / "liver.nii.gz", volume)
    for name, part in (("p1", np.s_[8:44:3]), ("p2", np.s_[9:45:3])):
        thin = Volume(volume.array_kji[part, ::2, ::2], np.diag([2.4, 2.4, 12.0, 1.0]), "CT")
        _written(folder / "images" / f"{name}.nii.gz", thin)
        labels = inside[part, ::2, ::2].astype(np.uint8)
        (folder / "labels").mkdir(exist_ok=True)
        write_segmentation(folder / "labels" / f"{name}.nii.gz", labels, thin, [(1, "liver", None)])


def _photo(path: Path, center_xy, radii_xy) -> None:
    import SimpleITK as sitk

    y, x = np.mgrid[:440, :600]
    inside = ((x - center_xy[0]) / radii_xy[0]) ** 2 + ((y - center_xy[1]) / radii_xy[1]) ** 2 <= 1
    colour = np.where(inside[..., None], (200, 90, 80), (150, 110, 100)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(path))


def _series(folder: Path) -> None:
    """``DICOM_FOLDER`` and ``ROIs.mrk.json``."""
    from qmedsam.files import read_volume
    from test_dicom_seg import write_series

    inside = _ellipsoid((12, 64, 72), (36, 30, 6), (18, 14, 4))
    write_series(folder / "DICOM_FOLDER", np.where(inside, 110, -80).astype(np.int16), np.eye(3))
    box = Box.from_voxels((17, 15, 2), (55, 45, 10), name="liver")
    write_boxes(folder / "ROIs.mrk.json", [box], read_volume(folder / "DICOM_FOLDER"))


def _scans(folder: Path) -> None:
    """``scans`` with boxes beside the volumes, and the files of the lists."""
    from cohort import write_case

    write_case(folder / "scans" / "p1", "ct", 1)
    write_case(folder / "scans" / "p2", "ct", 2)
    shutil.copytree(folder / "scans", folder / "CASES")
    shutil.copytree(folder / "DICOM_FOLDER", folder / "COHORT" / "series")
    shutil.copy(folder / "ROIs.mrk.json", folder / "COHORT" / "series.mrk.json")
    rows = "".join(f"scans/{name}/ct.nii.gz,scans/{name}/ct.mrk.json\n" for name in ("p1", "p2"))
    (folder / "cases.csv").write_text("volume,boxes\n" + rows)


def _model(folder: Path) -> None:
    """The shipped one under another name."""
    import json

    shutil.copytree(ROOT / "Resources" / "Models" / "qmedsam-compact", folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": "mine", "title": "Mine"}), encoding="utf-8")
