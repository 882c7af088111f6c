"""Whatever a file holds: a sentence and a hint, never a traceback and never a half-written file."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qmedsam.errors import QMedSAMError
from qmedsam.files import check_target, read_boxes, read_labels, read_volume, write_boxes, write_segmentation
from qmedsam.geometry import Box, Volume
from qmedsam.models import ModelStore

ARRAY = np.random.default_rng(3).integers(-500, 1500, (6, 20, 30)).astype(np.int16)
VOLUME = Volume(ARRAY, np.eye(4))
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def complaint(action: Callable[[], object]) -> str:
    """What the user reads; fails unless it is a QMedSAMError with a sentence and a hint."""
    with pytest.raises(QMedSAMError) as info:
        action()
    error = info.value
    assert error.message.endswith(".")
    assert len(error.message) < 300
    assert error.hint
    for internal in ("Traceback", "ITK ERROR", "0x", ".cxx", ".hxx", "sitk::"):
        assert internal not in str(error)
    return str(error)


def written(path: Path, array: np.ndarray = ARRAY) -> Path:
    vector = array.ndim == 3 and path.suffix in (".png", ".jpg", ".bmp") and array.shape[2] == 3
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def nifti_with(path: Path, *changes: tuple) -> Path:
    """A NIfTI file with bytes of its header replaced: (offset, struct format, values...)."""
    header = bytearray(written(path).read_bytes())
    for offset, form, *values in changes:
        struct.pack_into("<" + form, header, offset, *values)
    path.write_bytes(header)
    return path


SUFFIXES = ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd", "png", "jpg", "bmp", "tif", "dcm", "npz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_empty_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    assert "no file" in complaint(lambda: read_volume(tmp_path / f"none.{suffix}"))
    (tmp_path / f"empty.{suffix}").touch()
    assert "empty" in complaint(lambda: read_volume(tmp_path / f"empty.{suffix}"))
    (tmp_path / f"text.{suffix}").write_text("This is a letter, not an image.\n" * 40)
    complaint(lambda: read_volume(tmp_path / f"text.{suffix}"))
    (tmp_path / f"noise.{suffix}").write_bytes(np.random.default_rng(1).bytes(5000))
    complaint(lambda: read_volume(tmp_path / f"noise.{suffix}"))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha", "png", "jpg", "bmp", "npz"])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, imgs=ARRAY)
    elif suffix in ("png", "jpg", "bmp"):
        written(path, np.random.default_rng(2).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    else:
        written(path)
    read_volume(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "No such file" not in complaint(lambda: read_volume(path))


def test_what_stands_before_and_behind_a_photograph(tmp_path: Path) -> None:
    """Motion photos have a video behind the picture; cameras put a thumbnail, which is a JPEG too, before it."""
    array = np.random.default_rng(2).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    content = written(tmp_path / "a.jpg", array).read_bytes()
    (tmp_path / "b.jpg").write_bytes(content + b"video " * 2000)
    assert np.array_equal(read_volume(tmp_path / "b.jpg").array_kji, read_volume(tmp_path / "a.jpg").array_kji)
    thumbnail = b"\xff\xd8 thumbnail \xff\xd9"
    head = content[:2] + b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    (tmp_path / "c.jpg").write_bytes(head + content[2:])
    read_volume(tmp_path / "c.jpg")
    for share in (0.3, 0.9):
        (tmp_path / "d.jpg").write_bytes(head + content[2 : int(len(content) * share)])
        assert "ends too early" in complaint(lambda: read_volume(tmp_path / "d.jpg"))


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((4, 5, 2), np.uint8)).save(tmp_path / "a.png")
    assert "transparency" in complaint(lambda: read_volume(tmp_path / "a.png"))


def test_gzip_in_members_is_not_called_truncated(tmp_path: Path) -> None:
    content = written(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array_kji, ARRAY)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(content[:3000]))
    assert "ends too early" in complaint(lambda: read_volume(tmp_path / "c.nii.gz"))


def test_geometry_that_is_no_grid(tmp_path: Path) -> None:
    sheared = nifti_with(tmp_path / "a.nii", (252, "hh", 0, 2), (280, "4f", 0, 0.3, 0, 0))
    assert "sheared" in complaint(lambda: read_volume(sheared))
    for value in (0.0, float("nan")):
        assert "voxel size" in complaint(lambda v=value: read_volume(nifti_with(tmp_path / "b.nii", (80, "f", v))))
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        "space directions: (1,0,0) (0,{},0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "c.nrrd").write_bytes(header.format(0).encode() + b"12345678")
    assert "geometry" in complaint(lambda: read_volume(tmp_path / "c.nrrd"))


def test_impossible_sizes(tmp_path: Path) -> None:
    assert "size" in complaint(lambda: read_volume(nifti_with(tmp_path / "a.nii", (42, "h", -5))))
    assert "too early" in complaint(lambda: read_volume(nifti_with(tmp_path / "b.nii", (42, "3h", *[30000] * 3))))
    (tmp_path / "c.nhdr").write_text(
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw\ndata file: c.raw\n\n"
    )
    complaint(lambda: read_volume(tmp_path / "c.nhdr"))


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_time_vectors_and_complex_numbers(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(ARRAY)
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / f"time.{suffix}"))
    assert "2 time points" in complaint(lambda: read_volume(tmp_path / f"time.{suffix}"))
    for channels in (2, 3, 5):
        vectors = np.random.default_rng(0).random((4, 5, 6, channels)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / f"v{channels}.{suffix}"))
        assert "vectors" in complaint(lambda c=channels: read_volume(tmp_path / f"v{c}.{suffix}"))
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY.astype(np.complex64)), str(tmp_path / f"complex.{suffix}"))
    complaint(lambda: read_volume(tmp_path / f"complex.{suffix}"))


def test_headers_without_their_data(tmp_path: Path) -> None:
    for header, data in (("a.mhd", "a.raw"), ("a.nhdr", "a.raw")):
        written(tmp_path / header)
        whole = (tmp_path / data).read_bytes()
        (tmp_path / data).write_bytes(whole[:-100])
        said = complaint(lambda h=header: read_volume(tmp_path / h))
        assert "'a.raw'" in said and f"{len(whole) - 100} bytes" in said
        (tmp_path / data).unlink()
        assert "'a.raw', which is not there" in complaint(lambda h=header: read_volume(tmp_path / h))


def test_folders_without_dicom(tmp_path: Path) -> None:
    assert "no DICOM images" in complaint(lambda: read_volume(tmp_path))
    written(tmp_path / "a.nrrd")
    (tmp_path / "letter.txt").write_text("hello")
    assert "no DICOM images" in complaint(lambda: read_volume(tmp_path))


def test_damaged_dicom(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", ARRAY[0])
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        complaint(lambda: read_volume(path))


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((3, 4, 5))},
        {"imgs": np.zeros(5)},
        {"imgs": np.zeros((2, 3, 4, 5))},
        {"imgs": np.zeros((0, 4, 5))},
        {"imgs": np.array(["a", "b"])},
        {"imgs": np.array([[{}, {}]], dtype=object)},
        {"imgs": np.zeros((3, 4, 5)), "spacing": [1.0, 2.0]},
        {"imgs": np.zeros((3, 4, 5)), "spacing": ["a", "b", "c"]},
        {"imgs": np.zeros((3, 4, 5)), "spacing": [1.0, 0.0, 2.0]},
        {"imgs": np.zeros((3, 4, 5)), "spacing": [1.0, np.nan, 2.0]},
        {"imgs": np.zeros((3, 4, 5)), "direction": np.zeros(9)},
    ],
)
def test_foreign_npz(tmp_path: Path, arrays) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    complaint(lambda: read_volume(tmp_path / "a.npz"))


def test_npy_named_npz(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, ARRAY)
    complaint(lambda: read_volume(tmp_path / "a.npz"))


def test_warnings_are_silent_and_stay_as_they_were(tmp_path: Path, capfd) -> None:
    path = nifti_with(tmp_path / "a.nii", (76 + 4, "f", 1.7))  # pixdim that the sform contradicts: ITK warns
    for state in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(state)
        read_volume(path)
        assert sitk.ProcessObject.GetGlobalWarningDisplay() == state
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@FAST
@given(st.sampled_from(["nii", "nii.gz", "nrrd", "mha", "png", "npz", "dcm"]), st.data())
def test_no_damage_gives_a_traceback(tmp_path: Path, suffix: str, data) -> None:
    """Any few bytes changed, or any end cut off: an image or a complaint."""
    folder = tmp_path / "sound"
    folder.mkdir(exist_ok=True)
    path = folder / f"a.{suffix}"
    if not path.exists():
        if suffix == "npz":
            np.savez_compressed(path, imgs=ARRAY, spacing=[1.0, 2.0, 3.0])
        else:
            written(path, (ARRAY[0] + 500).astype(np.uint8) if suffix in ("png", "dcm") else ARRAY)
    content = bytearray(path.read_bytes())
    head = min(len(content), 400) - 1
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"a.{suffix}"
    damaged.write_bytes(content[: data.draw(st.sampled_from((len(content), len(content), head, len(content) // 2)))])
    try:
        read_volume(damaged)
    except QMedSAMError as error:
        assert error.message


# Boxes

ROI = {
    "type": "ROI",
    "roiType": "Box",
    "coordinateSystem": "LPS",
    "center": [1, 2, 3],
    "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "size": [4, 5, 6],
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"markups": []}, "no box"),
        ({"markups": 5}, "no list of markups"),
        ({"markups": ["ROI"]}, "no list of markups"),
        ({"markups": [ROI, {"type": "Fiducial"}, {"type": "Plane"}]}, "Fiducial, Plane"),
        ({"markups": [{**ROI, "roiType": "Sphere"}]}, "Sphere"),
        ({"markups": [{k: v for k, v in ROI.items() if k != "center"}]}, "center"),
        ({"markups": [{k: v for k, v in ROI.items() if k != "size"}]}, "size"),
        ({"markups": [{**ROI, "size": [0, 0, 0]}]}, "has no size"),
        ({"markups": [{**ROI, "size": [4, "x", 6]}]}, "size"),
        ({"markups": [{**ROI, "orientation": [0] * 9}]}, "right angles"),
        ({"markups": [{**ROI, "orientation": [1, 0, 0]}]}, "orientation"),
        ({"markups": [{**ROI, "coordinateSystem": "XYZ"}]}, "coordinate system"),
        ({"markups": [{**ROI, "coordinateUnits": "inch"}]}, "unit"),
        ({"markups": [{**ROI, "display": {"color": [255, 0, 0]}}]}, "color"),
        ({"markups": [{**ROI, "labelValue": 2}, ROI]}, "label 2"),
        ([], "no box"),
        ({}, "no list of boxes"),
        ("text", "no list of boxes"),
        (None, "no list of boxes"),
        ({"boxes": {"ijk": [1]}}, "no list of boxes"),
        ([[1, 2, 3]], "4 or 6 numbers"),
        ([[1, 2, 3, 4]], "6 slices"),
        ([[1, 2, 3, 4, 5, None]], "4 or 6 numbers"),
        ([[1, 2, 3, 4, 5, True]], "4 or 6 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "4 or 6 numbers"),
        ([[1, 2, 3, 4, 5, float("inf")]], "4 or 6 numbers"),
        ([{"name": "x"}], "neither"),
        ([{"ras": {"center": [1, 2, 3]}}], "half_axes"),
        ([{"ras": {"center": [1, 2, 3], "half_axes": [1, 2, 3]}}], "half_axes"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "label": -1}], "label"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "label": "1"}], "label"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "label": 1.5}], "label"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "label": 70000}], "label"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "name": 5}], "name"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "color": [1, 2, 3]}], "color"),
        ([{"ijk": [1, 2, 3, 4, 5, 6], "label": 3}, {"ijk": [1, 2, 3, 4, 5, 6], "label": 3}], "label 3"),
    ],
)
def test_wrong_boxes(tmp_path: Path, content, said: str) -> None:
    (tmp_path / "b.mrk.json").write_text(json.dumps(content))
    assert said in complaint(lambda: read_boxes(tmp_path / "b.mrk.json", VOLUME))


def test_files_that_hold_no_boxes(tmp_path: Path) -> None:
    complaint(lambda: read_boxes(tmp_path / "none.json", VOLUME))
    complaint(lambda: read_boxes(tmp_path, VOLUME))
    for name, content in (("a.json", b""), ("b.json", b"{"), ("c.json", b"\xff\xfe\x00"), ("d.json", b"[" * 100_000)):
        (tmp_path / name).write_bytes(content)
        complaint(lambda n=name: read_boxes(tmp_path / n, VOLUME))
    (tmp_path / "e.fcsv").write_text("# Markups")
    assert ".mrk.json" in complaint(lambda: read_boxes(tmp_path / "e.fcsv", VOLUME))
    for name, arrays in (
        ("f", {"imgs": ARRAY}),
        ("g", {"boxes": np.zeros((2, 5))}),
        ("h", {"boxes": np.zeros((0, 6))}),
        ("i", {"boxes": np.zeros(6)}),
        ("j", {"boxes": np.full((1, 6), np.nan)}),
        ("k", {"boxes": np.array([["a"] * 6])}),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        complaint(lambda n=name: read_boxes(tmp_path / f"{n}.npz", VOLUME))


def test_boxes_that_cannot_be_written(tmp_path: Path) -> None:
    box = Box.from_voxels([1, 1, 1], [3, 3, 3])
    complaint(lambda: write_boxes(tmp_path / "a.fcsv", [box], VOLUME))
    complaint(lambda: write_boxes(tmp_path / "a.mrk.json", [], VOLUME))
    complaint(lambda: write_boxes(tmp_path / "none" / "a.mrk.json", [box], VOLUME))
    twice = Box.from_voxels([1, 1, 1], [3, 3, 3], label=2)
    assert "label 2" in complaint(lambda: write_boxes(tmp_path / "a.mrk.json", [twice, box], VOLUME))
    assert not list(tmp_path.iterdir())


# Segmentations


@pytest.mark.parametrize(
    ("labels", "segments", "said"),
    [
        (np.zeros((5, 20, 30), np.uint8), [(1, "", None)], "shape"),
        (np.zeros(ARRAY.shape, np.float32), [(1, "", None)], "whole numbers"),
        (np.full(ARRAY.shape, 2, np.uint8), [(1, "", None)], "label 2 has no segment"),
        (np.full(ARRAY.shape, -1, np.int8), [(1, "", None)], "label -1 has no segment"),
        (np.ones(ARRAY.shape, np.uint8), [(1, "a", None), (1, "b", None)], "different numbers"),
        (np.zeros(ARRAY.shape, np.uint8), [(0, "a", None)], "from 1"),
        (np.zeros(ARRAY.shape, np.uint8), [(70000, "a", None)], "65535"),
    ],
)
def test_labels_that_cannot_be_written(tmp_path: Path, labels, segments, said: str) -> None:
    assert said in complaint(lambda: write_segmentation(tmp_path / "a.seg.nrrd", labels, VOLUME, segments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nii.gz", "a.mha", "a.npz"])
def test_places_that_cannot_be_written_to(tmp_path: Path, name: str) -> None:
    labels = np.zeros(ARRAY.shape, np.uint8)
    assert "no folder" in complaint(lambda: write_segmentation(tmp_path / "none" / name, labels, VOLUME, []))
    (tmp_path / name).mkdir()
    assert "is a folder" in complaint(lambda: write_segmentation(tmp_path / name, labels, VOLUME, []))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """A Latin-1 name as Linux hands it over; ITK aborts the process over it, and with it the whole batch."""
    path = tmp_path / "l\udce9sion.nii.gz"
    actions = [lambda: read_volume(path), lambda: read_labels(path), lambda: read_boxes(path, VOLUME)]
    actions += [
        lambda: check_target(path),
        lambda: check_target(tmp_path / "a.nrrd", path),
        lambda: read_volume(path.with_suffix("")),
    ]
    actions += [lambda: write_segmentation(path, np.zeros(ARRAY.shape, np.uint8), VOLUME, [])]
    for action in actions:
        assert "l?sion" in complaint(action)


@pytest.mark.parametrize("name", ["a", "a.txt", "a.seg", "a.stl", "a.nii.bz2"])
def test_unknown_suffix_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    said = complaint(lambda: write_segmentation(tmp_path / name, np.zeros(ARRAY.shape, np.uint8), VOLUME, []))
    assert ".seg.nrrd, .nii.gz, .nii, .nrrd, .mha, .npz" in said


def test_files_that_hold_no_labels(tmp_path: Path) -> None:
    complaint(lambda: read_labels(tmp_path / "none.seg.nrrd"))
    complaint(lambda: read_labels(written(tmp_path / "float.nrrd", np.random.default_rng(0).random((3, 4, 5)))))
    complaint(lambda: read_labels(written(tmp_path / "negative.nrrd")))
    complaint(lambda: read_labels(written(tmp_path / "color.png", np.arange(60, dtype=np.uint8).reshape(4, 5, 3))))
    np.savez(tmp_path / "a.npz", imgs=ARRAY)
    complaint(lambda: read_labels(tmp_path / "a.npz"))
    layers = sitk.GetImageFromArray(np.ones((3, 4, 5, 2), np.uint8), isVector=True)
    sitk.WriteImage(layers, str(tmp_path / "overlapping.seg.nrrd"))
    complaint(lambda: read_labels(tmp_path / "overlapping.seg.nrrd"))


def test_pages_of_a_tiff_in_a_circle(tmp_path: Path) -> None:
    """libtiff goes round in it for ever."""
    content = bytearray(written(tmp_path / "a.tif").read_bytes())
    places = []
    place = struct.unpack_from("<I", content, 4)[0]
    while place:
        places.append(place)
        following = place + 2 + 12 * struct.unpack_from("<H", content, place)[0]
        place = struct.unpack_from("<I", content, following)[0]
    struct.pack_into("<I", content, following, places[2])
    (tmp_path / "a.tif").write_bytes(content)
    assert "ends too early" in complaint(lambda: read_volume(tmp_path / "a.tif"))


def test_names_in_a_zip_that_are_no_text(tmp_path: Path) -> None:
    """Not in Python's words of codecs and bytes."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("mödel/manifest.json", "{}")
    content = (tmp_path / "m.zip").read_bytes()
    (tmp_path / "m.zip").write_bytes(content.replace("ö".encode(), b"\xff\xff"))
    store = ModelStore(folders=[tmp_path / "user"], user=tmp_path / "user")
    assert "codec" not in complaint(lambda: store.add(tmp_path / "m.zip"))
