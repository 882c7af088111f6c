"""Cases as files, for the tests of ``qmedsam.batch``: small phantoms, and all that can be wrong with a case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Dict

import numpy as np
from qmedsam.files import image_of, write_boxes, write_segmentation
from qmedsam.geometry import Volume
from qmedsam.phantom import Phantom, ellipsoid_phantom

#: Bad cases of :func:`write_cohort`, and a word of the sentence that each has to be listed with.
BAD: Dict[str, str] = {
    "truncated": "ends too early",
    "nan": "no finite value",
    "no-boxes": "There are no boxes",
    "outside": "lies outside the image",
    "huge": "ends too early",
    "torn-boxes": "is not a JSON file",
    "text": "is not an image",
}


def phantom(n: int, shape=(12, 40, 44)) -> Phantom:
    """A small ellipsoid; another one for every ``n``, on a turned grid."""
    return ellipsoid_phantom(shape, (1.0, 1.0, 2.5), (20 + n % 5, 19, 5.5), (12.0, 9.0, 9.0), turn=(4, 0, 3 * n), seed=n)


def write_volume(path: Path, volume: Volume) -> Path:
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image_of(volume.array_kji, volume.ijk_to_ras), str(path), True)
    return path


def write_case(folder: Path, name: str, n: int = 0, suffix: str = ".nii.gz", boxes: str = ".mrk.json") -> Path:
    """A volume with a boxes file beside it."""
    made = phantom(n)
    path = write_volume(folder / (name + suffix), made.volume)
    write_boxes(folder / (name + boxes), made.boxes, made.volume)
    return path


def write_cohort(folder: Path) -> Dict[str, str]:
    """Four good cases of different kinds, and the bad ones of :data:`BAD`; name to what its sentence must hold ("" if good)."""
    write_case(folder, "patient 1/ct", 1)
    write_case(folder, "patient 2/ct", 2, ".nrrd")
    made = phantom(3)
    write_volume(folder / "again.nii.gz", made.volume)
    write_segmentation(folder / "again.seg.nrrd", made.labels_kji, made.volume, [(1, "Tumör", (0.1, 0.8, 0.1))])
    write_volume(folder / "slice.nii.gz", Volume(made.volume.array_kji[5:6], made.volume.ijk_to_ras))
    (folder / "slice.json").write_text(json.dumps({"boxes": [{"ijk": [10, 9, 36, 29], "name": "disc"}]}))

    whole = write_case(folder, "truncated", 4).read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    nothing = Volume(np.full_like(made.volume.array_kji, np.nan), made.volume.ijk_to_ras)
    write_volume(folder / "nan.nrrd", nothing)
    write_boxes(folder / "nan.mrk.json", made.boxes, made.volume)
    write_volume(folder / "no-boxes.nii.gz", made.volume)
    write_volume(folder / "outside.nii.gz", made.volume)
    (folder / "outside.json").write_text("[[900, 9, 1, 950, 29, 5]]")
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 90000 90000 90000\n"
    header += "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    (folder / "huge.nrrd").write_text(header + "space origin: (0,0,0)\n\n" + "x" * 100)
    (folder / "huge.json").write_text("[[1, 1, 1, 9, 9, 9]]")
    write_volume(folder / "torn-boxes.nii.gz", made.volume)
    (folder / "torn-boxes.mrk.json").write_text('{"markups": [{"type": "ROI", "cen')
    (folder / "text.nii.gz").write_text("this is no image")
    shutil.copy(folder / "nan.mrk.json", folder / "text.mrk.json")
    return {**dict.fromkeys(("patient 1/ct", "patient 2/ct", "again", "slice"), ""), **BAD}
