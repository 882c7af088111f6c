"""Volumes, boxes and segmentations keep their values and their place through every file format."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from qmedsam.errors import QMedSAMError
from qmedsam.files import (
    DEFAULT_COLORS,
    ijk_to_ras_of,
    image_of,
    name_of,
    read_boxes,
    read_labels,
    read_volume,
    volume_of,
    write_boxes,
    write_segmentation,
    writing,
)
from qmedsam.files.boxes import _numbered
from qmedsam.geometry import Box, Volume

FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RANDOM = np.random.default_rng(5)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: What 3D Slicer 5.12.4 wrote for a ROI drawn as "R", renamed and saved (measurements and most of display left out).
SLICER_ROI = """{
    "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.4.json#",
    "markups": [
        {
            "type": "ROI",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "locked": false,
            "fixedNumberOfControlPoints": false,
            "labelFormat": "%N-%d",
            "lastUsedControlPointNumber": 1,
            "roiType": "Box",
            "center": [-1.0, -2.0, 3.0],
            "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
            "size": [4.0, 5.0, 6.0],
            "insideOut": false,
            "controlPoints": [{"id": "1", "label": "R-1", "position": [-1.0, -2.0, 3.0], "positionStatus": "defined"}],
            "display": {"visibility": true, "color": [0.4, 1.0, 1.0], "selectedColor": [1.0, 0.5, 0.25]}
        }
    ]
}"""


def rotation(a: float, b: float, c: float) -> np.ndarray:
    """Rotation about z, y and x, in radians."""
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    return z @ y @ x


angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)


@st.composite
def grids(draw) -> np.ndarray:
    """``ijk_to_ras`` of rotated, flipped (also left-handed), anisotropic grids with an origin."""
    flips = np.diag(draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)))
    spacing = np.array(draw(st.tuples(*[st.floats(0.2, 8.0)] * 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*draw(angles)) @ flips * spacing
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-400, 400)] * 3))
    return matrix


def volume_on(matrix: np.ndarray, shape=(5, 7, 9), dtype=np.int16) -> Volume:
    return Volume(RANDOM.integers(0, 200, shape).astype(dtype), matrix, name="test")


def same_corners(a: Box, b: Box) -> float:
    """Largest distance, in voxels, of a corner of one box from the nearest one of the other."""
    distance = np.linalg.norm(a.corners_ijk[:, None] - b.corners_ijk[None], axis=2)
    return max(distance.min(axis=0).max(), distance.min(axis=1).max())


# Volumes


@FAST
@given(grids(), st.sampled_from(["nrrd", "nii.gz", "nii", "mha"]))
def test_geometry_and_values_survive_files(tmp_path: Path, matrix: np.ndarray, suffix: str) -> None:
    volume = volume_on(matrix)
    path = tmp_path / f"image.{suffix}"
    sitk.WriteImage(image_of(volume.array_kji, matrix), str(path))
    read = read_volume(path)
    assert np.array_equal(read.array_kji, volume.array_kji)
    corners = np.array([[*c, 1] for c in itertools.product((0, 8), (0, 6), (0, 4))]).T
    # NIfTI stores quaternions and offsets as float32, 400 mm to 3e-5
    assert np.abs((read.ijk_to_ras - matrix) @ corners).max() < (2e-3 if "nii" in suffix else 1e-9)
    assert read.name == "image"


def test_compressed_file_beside_its_plain_namesake(tmp_path: Path) -> None:
    for suffix, value in (("nii", 1), ("nii.gz", 2)):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), value)), str(tmp_path / f"a.{suffix}"))
    assert (read_volume(tmp_path / "a.nii").array_kji == 1).all()
    assert (read_volume(tmp_path / "a.nii.gz").array_kji == 2).all()


def test_ras_is_where_lps_says() -> None:
    image = sitk.GetImageFromArray(np.arange(24).reshape(2, 3, 4))
    image.SetSpacing((2, 3, 4))
    image.SetOrigin((10, 20, 30))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1))
    x, y, z = image.TransformIndexToPhysicalPoint((3, 2, 1))
    assert np.allclose(ijk_to_ras_of(image) @ [3, 2, 1, 1], [-x, -y, z, 1])
    assert volume_of(image).array_kji[1, 2, 3] == image[3, 2, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64])
def test_voxel_types_are_kept(tmp_path: Path, dtype) -> None:
    array = RANDOM.integers(0, 100, (3, 4, 5)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    read = read_volume(tmp_path / "a.nrrd").array_kji
    assert read.dtype == dtype
    assert np.array_equal(read, array)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    grey = np.tile(np.arange(0, 200, 5, dtype=np.uint8), (30, 1))
    color = np.stack([grey, 200 - grey, grey // 2], axis=-1)
    for name, array in (("grey", grey), ("color", color)):
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3), str(tmp_path / f"{name}.{suffix}"))
        read = read_volume(tmp_path / f"{name}.{suffix}")
        assert read.array_kji.shape == (1, *array.shape)
        assert read.is_rgb == (name == "color")
        assert np.abs(read.array_kji[0].astype(int) - array).max() <= (8 if suffix == "jpg" else 0)


def test_alpha_palette_and_grey_in_colour(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    color = RANDOM.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    image.fromarray(np.dstack([color, np.full((20, 30), 9, np.uint8)])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_volume(tmp_path / "rgba.png").array_kji[0], color)
    palette = image.fromarray(color).quantize(8)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_volume(tmp_path / "palette.png").array_kji[0], np.asarray(palette.convert("RGB")))
    image.fromarray(np.repeat(color[..., :1], 3, axis=2)).save(tmp_path / "grey.png")
    assert np.array_equal(read_volume(tmp_path / "grey.png").array_kji, color[None, ..., 0])


def test_sixteen_bit_colours_become_eight_bit(tmp_path: Path) -> None:
    color = RANDOM.integers(0, 255, (4, 5, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(color.astype(np.uint16) * 257, isVector=True), str(tmp_path / "a.png"))
    read = read_volume(tmp_path / "a.png").array_kji
    assert read.dtype == np.uint8
    assert np.array_equal(read[0], color)


@pytest.mark.parametrize("suffix", ["nrrd", "nii.gz"])
def test_trailing_dimension_of_one_is_dropped(tmp_path: Path, suffix: str) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(0.3, 0.2, 0.1) * [1, 2, 3]
    volume = volume_on(matrix)
    sitk.WriteImage(sitk.JoinSeries([image_of(volume.array_kji, matrix)]), str(tmp_path / f"a.{suffix}"))
    read = read_volume(tmp_path / f"a.{suffix}")
    assert np.array_equal(read.array_kji, volume.array_kji)
    assert np.allclose(read.ijk_to_ras, matrix, atol=1e-5)


def test_sheared_nrrd_is_read_as_it_is(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = [[1, 0.3, 0], [0, 1, 0.2], [0, 0, 2]]
    volume = volume_on(matrix)
    sitk.WriteImage(image_of(volume.array_kji, matrix), str(tmp_path / "a.nrrd"))
    assert np.allclose(read_volume(tmp_path / "a.nrrd").ijk_to_ras, matrix)


@pytest.mark.parametrize(
    ("name", "shape", "expected", "modality"),
    [
        ("2DBox_US_0525", (6, 7, 3), (1, 6, 7, 3), "US"),
        ("3DBox_CT_0566", (4, 6, 7), (4, 6, 7), "CT"),
        ("CT_abc.v2", (4, 6, 7), (4, 6, 7), "CT"),
        ("whatever", (6, 7), (1, 6, 7), ""),
        ("MR_x", (4, 6, 7, 3), (4, 6, 7, 3), "MR"),
    ],
)
def test_challenge_volume(tmp_path: Path, name: str, shape, expected, modality: str) -> None:
    images = RANDOM.integers(0, 255, shape).astype(np.uint8)
    np.savez_compressed(tmp_path / f"{name}.npz", imgs=images, spacing=[0.5, 0.6, 3.0])
    volume = read_volume(tmp_path / f"{name}.npz")
    assert volume.array_kji.shape == expected
    assert np.array_equal(volume.array_kji.reshape(shape), images)
    assert (volume.modality, volume.name) == (modality, name)
    assert np.allclose(volume.ijk_to_ras, LPS @ np.diag([0.5, 0.6, 3.0, 1]))


def test_challenge_volume_with_direction(tmp_path: Path) -> None:
    image = image_of(np.zeros((3, 4, 5), np.uint8), LPS @ np.block([[rotation(1, 2, 3), np.ones((3, 1))], [np.eye(4)[3:]]]))
    np.savez(
        tmp_path / "a.npz",
        imgs=sitk.GetArrayFromImage(image),
        spacing=image.GetSpacing(),
        direction=image.GetDirection(),
        origin=image.GetOrigin(),
    )
    assert np.allclose(read_volume(tmp_path / "a.npz").ijk_to_ras, ijk_to_ras_of(image))


def test_name_of(tmp_path: Path) -> None:
    assert [name_of(p) for p in ("a/b.c.nii.gz", "liver.seg.nrrd", "R 1.mrk.json", "x.y.png", "noend")] == [
        "b.c",
        "liver",
        "R 1",
        "x.y",
        "noend",
    ]
    (tmp_path / "s.1").mkdir()
    assert name_of(tmp_path / "s.1") == "s.1"


# DICOM


def write_series(folder: Path, uid: str = "1.2.3.4", count: int = 6, **options) -> np.ndarray:
    """An axial series; file names run against the slice order.

    Options: modality, description, skip (slice numbers left out), tilt (mm per slice), slopes, types, offset, prefix, same_place.
    """
    folder.mkdir(exist_ok=True)
    array = RANDOM.integers(0, 1000, (count, 8, 10)).astype(np.int16) + np.int16(options.get("offset", 0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(count):
        if k in options.get("skip", ()):
            continue
        slope = options.get("slopes", [1] * count)[k]
        image = sitk.GetImageFromArray(array[k].astype(options.get("types", [np.int16] * count)[k]))
        image.SetSpacing((0.7, 0.8))
        place = 0 if options.get("same_place") else k
        tags = {
            "0008|0060": options.get("modality", "CT"),
            "0008|103e": options.get("description", "Abdomen"),
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{k}",
            "0020|0013": str(k + 1),
            "0020|0032": f"10\\{20 + options.get('tilt', 0) * place}\\{-50 + 2.5 * place}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": str(slope),
        }
        if options.get("no_place"):
            del tags["0020|0032"]
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{options.get('prefix', '')}{count - k:03d}.dcm"))
        writer.Execute(image)
    return array


@pytest.mark.parametrize(("tag", "modality"), [("CT", "CT"), ("PT", "PET"), ("MR", "MR"), ("XX", "")])
def test_dicom_folder_and_file(tmp_path: Path, tag: str, modality: str) -> None:
    array = write_series(tmp_path / "d", modality=tag)
    for path in (tmp_path / "d", tmp_path / "d" / "002.dcm"):
        volume = read_volume(path)
        assert np.array_equal(volume.array_kji, array)
        assert (volume.modality, volume.name) == (modality, "Abdomen")
        expected = LPS @ np.array([[0.7, 0, 0, 10], [0, 0.8, 0, 20], [0, 0, 2.5, -50], [0, 0, 0, 1]])
        assert np.allclose(volume.ijk_to_ras, expected)


@pytest.mark.parametrize("tag", ["PT", "MR"])
def test_slices_with_their_own_slopes(tmp_path: Path, tag: str) -> None:
    array = write_series(tmp_path / "d", modality=tag, slopes=[1, 4, 1, 4, 1, 1])
    for path in (tmp_path / "d").iterdir():  # the writer knows whole slopes only
        tag = b"\x28\0\x53\x10\x02\0\0\0"
        path.write_bytes(path.read_bytes().replace(tag + b"4 ", tag + b".5"))
    read = read_volume(tmp_path / "d").array_kji
    assert np.array_equal(read[[0, 2, 4, 5]], array[[0, 2, 4, 5]])
    assert np.abs(read[[1, 3]] - array[[1, 3]] / 8).max() < 0.5  # the writer cut the stored values
    assert (read[[1, 3]] % 1 == 0.5).any()


@pytest.mark.parametrize("first", [np.uint8, np.uint16])
def test_slices_with_their_own_voxel_types(tmp_path: Path, first) -> None:
    array = write_series(tmp_path / "d", modality="MR", types=[first] + [np.int16] * 5, offset=-500)
    assert array[1:].min() < -5
    assert np.array_equal(read_volume(tmp_path / "d").array_kji[1:], array[1:])


def test_single_dicom_slice(tmp_path: Path) -> None:
    array = write_series(tmp_path / "d", count=1)
    volume = read_volume(tmp_path / "d" / "001.dcm")
    assert np.array_equal(volume.array_kji, array)
    assert volume.modality == "CT"


def test_dicom_file_without_a_place_stands_alone(tmp_path: Path) -> None:
    array = write_series(tmp_path / "d", modality="US", no_place=True)
    assert np.array_equal(read_volume(tmp_path / "d" / "001.dcm").array_kji, array[-1:])


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    first = write_series(tmp_path / "d")
    second = write_series(tmp_path / "d", uid="1.2.3.5", count=3, modality="PT", description="PET wb", prefix="b")
    with pytest.raises(QMedSAMError) as info:
        read_volume(tmp_path / "d")
    assert "2 DICOM series" in info.value.message
    for part in ("Abdomen (6 files, 1.2.3.4)", "PET wb (3 files, 1.2.3.5)"):
        assert part in info.value.hint
    assert np.array_equal(read_volume(tmp_path / "d", series="1.2.3.5").array_kji, second)
    assert np.array_equal(read_volume(tmp_path / "d" / "003.dcm").array_kji, first)
    with pytest.raises(QMedSAMError, match=r"no DICOM series 9\.9"):
        read_volume(tmp_path / "d", series="9.9")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip": (2,)}, "not evenly spaced (2.50 to 5.00 mm apart)"),
        ({"skip": (1,)}, "not evenly spaced"),
        ({"tilt": 0.5}, "gantry tilt"),
        ({"same_place": True}, "holds 6 time points"),
        ({"no_place": True, "modality": "US"}, "do not say where they lie"),
    ],
)
def test_dicom_that_is_no_regular_stack(tmp_path: Path, options, said: str) -> None:
    write_series(tmp_path / "d", **options)
    with pytest.raises(QMedSAMError, match=re.escape(said)):
        read_volume(tmp_path / "d")


# Boxes


@FAST
@given(grids(), angles, st.tuples(*[st.floats(0.5, 60)] * 3), st.tuples(*[st.floats(-80, 80)] * 3))
def test_rotated_roi_survives_slicer_file(tmp_path: Path, matrix, turn, half_mm, center) -> None:
    volume = volume_on(matrix)
    boxes = [
        Box.from_ras(center, rotation(*turn) * half_mm, matrix, label=7, name="Leber, groß", color=(0.25, 0.5, 1.0)),
        Box.from_voxels([1, 2, 0], [4, 3, 3], label=2, name="second"),
    ]
    write_boxes(tmp_path / "r.mrk.json", boxes, volume)
    read = read_boxes(tmp_path / "r.mrk.json", volume)
    for before, after in zip(boxes, read):
        assert same_corners(before, after) < 1e-6 * (1 + np.abs(before.corners_ijk).max())
        assert (before.label, before.name, before.color) == (after.label, after.name, after.color)
    assert len(read) == 2
    for markup in json.loads((tmp_path / "r.mrk.json").read_text(encoding="utf-8"))["markups"]:
        axes = np.reshape(markup["orientation"], (3, 3))
        assert np.linalg.det(axes) == pytest.approx(1)
        assert np.allclose(axes.T @ axes, np.eye(3))


def test_roi_written_by_slicer(tmp_path: Path) -> None:
    (tmp_path / "Liver.mrk.json").write_text(SLICER_ROI, encoding="utf-8")
    matrix = np.diag([2.0, 2.0, 4.0, 1.0])
    (box,) = read_boxes(tmp_path / "Liver.mrk.json", volume_on(matrix))
    # RAS center (1, 2, 3), sizes 4 x 5 x 6 mm
    assert np.allclose(box.corners_ijk.min(axis=0), [(1 - 2) / 2, (2 - 2.5) / 2, 0])
    assert np.allclose(box.corners_ijk.max(axis=0), [(1 + 2) / 2, (2 + 2.5) / 2, 6 / 4])
    assert (box.name, box.label, box.color) == ("Liver", 1, (1.0, 0.5, 0.25))


def test_roi_orientation_has_its_axes_in_columns(tmp_path: Path) -> None:
    turn = rotation(np.radians(30), 0, 0)
    content = json.loads(SLICER_ROI)
    content["markups"][0].update(orientation=turn.ravel().tolist(), size=[20, 2, 2], coordinateSystem="RAS", center=[0, 0, 0])
    (tmp_path / "a.mrk.json").write_text(json.dumps(content))
    (box,) = read_boxes(tmp_path / "a.mrk.json", volume_on(np.eye(4)))
    assert np.allclose(box.half_axes_ijk[:, 0], 10 * np.array([np.cos(np.radians(30)), np.sin(np.radians(30)), 0]))


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"coordinateSystem": "RAS"}, (-1, -1, 1)),
        ({"coordinateSystem": 0}, (-1, -1, 1)),
        ({"coordinateSystem": 1}, (1, 1, 1)),
        ({"coordinateUnits": ["mm", "UCUM", "millimeter"]}, (1, 1, 1)),
        ({"coordinateUnits": "um"}, (1e-3, 1e-3, 1e-3)),
        ({"roiType": "BoundingBox"}, (1, 1, 1)),
    ],
)
def test_systems_and_units_of_rois(tmp_path: Path, change, factor) -> None:
    content = json.loads(SLICER_ROI)
    content["markups"][0].update(change)
    (tmp_path / "a.mrk.json").write_text(json.dumps(content))
    (box,) = read_boxes(tmp_path / "a.mrk.json", volume_on(np.eye(4)))
    assert np.allclose(box.center_ijk, np.array([1.0, 2, 3]) * factor)


def test_several_rois_in_one_file(tmp_path: Path) -> None:
    content = json.loads(SLICER_ROI)
    first = content["markups"][0]
    named = {**first, "name": "Kidney"}
    bare = {k: v for k, v in first.items() if k not in ("controlPoints", "display")}
    placed = {k: v for k, v in first.items() if k != "center"}
    content["markups"] = [first, named, bare, placed]
    (tmp_path / "all.mrk.json").write_text(json.dumps(content))
    boxes = read_boxes(tmp_path / "all.mrk.json", volume_on(np.eye(4)))
    assert [b.name for b in boxes] == ["R", "Kidney", "all_3", "R"]
    assert [b.label for b in boxes] == [1, 2, 3, 4]
    assert boxes[2].color is None
    assert np.allclose(boxes[3].center_ijk, boxes[0].center_ijk)


def test_flat_roi_keeps_its_plane(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(0.4, 1.1, -0.3) @ np.diag([1, -1, 1])
    volume = volume_on(matrix)
    flat = Box(np.array([4.0, 3, 2]), np.diag([2.0, 3.0, 0.0]))
    write_boxes(tmp_path / "f.mrk.json", [flat], volume)
    (read,) = read_boxes(tmp_path / "f.mrk.json", volume)
    assert same_corners(flat, read) < 1e-9
    assert read.name == "ROI_1"


def test_sheared_box_is_not_a_slicer_roi(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[0, 1] = 0.2
    with pytest.raises(QMedSAMError, match="right angles"):
        write_boxes(tmp_path / "f.mrk.json", [Box.from_voxels([0, 0, 0], [3, 3, 3])], volume_on(matrix))
    assert not list(tmp_path.iterdir())


@FAST
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 6), min_size=1, max_size=5))
def test_plain_boxes_hold_both_ends(tmp_path: Path, rows) -> None:
    volume = volume_on(np.eye(4))
    paired = [all(a < b for a, b in zip(r[::2], r[1::2])) and any(a > b for a, b in zip(r[:3], r[3:])) for r in rows]
    assume(not any(paired))  # i0,i1,j0,j1,k0,k1: refused, see below
    (tmp_path / "b.json").write_text(json.dumps([list(r) for r in rows]))
    np.savez(tmp_path / "b.npz", boxes=np.array(rows))
    (tmp_path / "o.json").write_text(json.dumps({"boxes": [{"ijk": r, "name": "n", "label": n} for n, r in enumerate(rows, 5)]}))
    plain, npz, objects = (read_boxes(tmp_path / name, volume) for name in ("b.json", "b.npz", "o.json"))
    for n, row in enumerate(rows):
        low, high = np.minimum(row[:3], row[3:]), np.maximum(row[:3], row[3:])
        for box in (plain[n], npz[n], objects[n]):
            assert np.allclose(box.corners_ijk.min(axis=0), low - 0.5)
            assert np.allclose(box.corners_ijk.max(axis=0), high + 0.5)
        assert (plain[n].label, npz[n].label, objects[n].label) == (n + 1, n + 1, n + 5)


@pytest.mark.parametrize(
    "numbers,said",
    [
        ([6, 21, 8, 19, 1, 4], "seem to be in the order i0,i1,j0,j1,k0,k1.*6,8,1,21,19,4"),
        ([0.1, 0.2, 0.25, 0.9, 0.8, 0.75], "shares of the image"),
    ],
)
def test_numbers_that_mean_something_else_are_named(tmp_path: Path, numbers, said: str) -> None:
    """They gave 399 ml with a confidence of 0.66, or nothing at all, without a word."""
    from qmedsam.commands.parsing import parse_box

    (tmp_path / "b.json").write_text(json.dumps([numbers]))
    with pytest.raises(QMedSAMError, match=said):
        read_boxes(tmp_path / "b.json", volume_on(np.eye(4)))
    with pytest.raises(QMedSAMError, match=said):
        parse_box(",".join(map(str, numbers)), volume_on(np.eye(4)), 1)
    box = parse_box("6 8 1  21 19 4", volume_on(np.eye(4)), 1)  # spaces do
    assert box.corners_ijk.max(axis=0).tolist() == [21.5, 19.5, 4.5]


def test_a_label_that_is_used_twice_is_found_without_comparing_all_pairs() -> None:
    """16,000 boxes took 6 s."""
    compared = []

    class Watched(int):
        __hash__ = int.__hash__

        def __eq__(self, other) -> bool:
            compared.append(other)
            return int(self) == int(other)

    boxes = [Box.from_voxels([0, 0, 0], [3, 3, 3], label=Watched(n)) for n in range(1, 61)]
    assert len(_numbered(boxes, "They give")) == 60 and len(compared) <= 60
    with pytest.raises(QMedSAMError, match="They give the label 7 to several boxes"):
        _numbered([*boxes, Box.from_voxels([0, 0, 0], [3, 3, 3], label=7)], "They give")


def test_four_numbers_are_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("[[2, 3, 5, 7]]")
    np.savez(tmp_path / "b.npz", boxes=[[2, 3, 5, 7]])
    for name in ("b.json", "b.npz"):
        (box,) = read_boxes(tmp_path / name, volume_on(np.eye(4), shape=(1, 10, 10)))
        assert np.allclose(box.corners_ijk.min(axis=0), [1.5, 2.5, -0.5])
        assert np.allclose(box.corners_ijk.max(axis=0), [5.5, 7.5, 0.5])
        with pytest.raises(QMedSAMError, match="the image has 4 slices"):
            read_boxes(tmp_path / name, volume_on(np.eye(4), shape=(4, 10, 10)))


@FAST
@given(grids(), angles)
def test_plain_ras_box_is_from_ras(tmp_path: Path, matrix, turn) -> None:
    axes = rotation(*turn) * [3.0, 5.0, 7.0]
    entry = {"ras": {"center": [1, 2, 3], "half_axes": axes.tolist()}, "name": "x", "color": [0, 0.5, 1]}
    (tmp_path / "b.json").write_text(json.dumps({"boxes": [entry]}))
    (box,) = read_boxes(tmp_path / "b.json", volume_on(matrix))
    expected = Box.from_ras([1, 2, 3], axes, matrix)
    assert np.allclose(box.corners_ijk, expected.corners_ijk)
    back = (matrix @ np.c_[box.corners_ijk, np.ones(8)].T).T[:, :3]
    assert np.allclose(np.linalg.norm(back - [1, 2, 3], axis=1), np.sqrt(9 + 25 + 49))
    assert (box.name, box.color) == ("x", (0.0, 0.5, 1.0))


# Segmentations


def labelled(volume: Volume) -> np.ndarray:
    labels = np.zeros(volume.array_kji.shape[:3], np.uint8)
    labels[0, 1:3, 2:5] = 1
    labels[-1, 4:, :3] = 3
    return labels


@FAST
@given(grids())
def test_seg_nrrd_keeps_geometry_names_and_colours(tmp_path: Path, matrix) -> None:
    volume = volume_on(matrix)
    labels = labelled(volume)
    write_segmentation(tmp_path / "s.seg.nrrd", labels, volume, [(1, "Liver left\nlobe", (0.1, 0.2, 0.3)), (3, "", None)])
    read = slicerio.read_segmentation(str(tmp_path / "s.seg.nrrd"))
    assert np.array_equal(read["voxels"], labels.transpose())
    assert np.allclose(read["ijkToLPS"], LPS @ matrix, atol=1e-12)
    first, second = read["segments"]
    assert (first["name"], first["labelValue"], first["color"], first["layer"]) == ("Liver left lobe", 1, [0.1, 0.2, 0.3], 0)
    assert (second["name"], second["labelValue"], second["color"]) == ("Segment_3", 3, list(DEFAULT_COLORS[2]))
    assert first["id"] != second["id"]
    assert first["extent"] == [0, 8, 0, 6, 0, 4]
    assert np.array_equal(read_labels(tmp_path / "s.seg.nrrd"), labels)
    assert np.allclose(read_volume(tmp_path / "s.seg.nrrd").ijk_to_ras, matrix)


@FAST
@given(grids(), st.sampled_from([".nii.gz", ".nii", ".mha", ".nrrd", ".seg.nrrd"]))
def test_label_maps_lie_on_their_volume(tmp_path: Path, matrix, suffix: str) -> None:
    volume = volume_on(matrix)
    labels = labelled(volume)
    write_segmentation(tmp_path / f"s{suffix}", labels, volume, [(1, "", None), (3, "", None)])
    image = sitk.ReadImage(str(tmp_path / f"s{suffix}"))
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    assert np.allclose(ijk_to_ras_of(image), matrix, atol=2e-4 if "nii" in suffix else 1e-9)
    assert np.array_equal(read_labels(tmp_path / f"s{suffix}"), labels)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".mha", ".nrrd", ".npz"])
@pytest.mark.parametrize("top", [255, 256, 300])
def test_label_type_grows_with_the_labels(tmp_path: Path, suffix: str, top: int) -> None:
    volume = volume_on(np.eye(4))
    labels = np.zeros(volume.array_kji.shape, np.int64)
    labels[1, 2, 3] = top
    write_segmentation(tmp_path / f"s{suffix}", labels, volume, [(top, "", None)])
    read = read_labels(tmp_path / f"s{suffix}")
    assert read.dtype == (np.uint8 if top <= 255 else np.uint16)
    assert np.array_equal(read, labels)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".mha", ".nrrd", ".npz", ".NPZ"])
def test_pictures_and_empty_results_can_be_written(tmp_path: Path, suffix: str) -> None:
    volume = volume_on(LPS, shape=(1, 6, 7, 3), dtype=np.uint8)
    labels = np.zeros((1, 6, 7), bool)
    write_segmentation(tmp_path / f"empty{suffix}", labels, volume, [(1, "nothing", None)])
    labels[0, 2:4, 1:6] = True
    write_segmentation(tmp_path / f"s{suffix}", labels, volume, [(1, "a", None)])
    assert not read_labels(tmp_path / f"empty{suffix}").any()
    assert np.array_equal(read_labels(tmp_path / f"s{suffix}"), labels)
    if suffix.lower() == ".npz":
        assert np.load(tmp_path / f"s{suffix}")["segs"].shape == (6, 7)


def test_names_in_any_script(tmp_path: Path) -> None:
    volume = volume_on(np.eye(4))
    names = ["Größe", "肾脏", "plain"]
    segments = [(n, name, None) for n, name in enumerate(names, 1)]
    write_segmentation(tmp_path / "s.seg.nrrd", labelled(volume), volume, segments)
    header, _, _ = (tmp_path / "s.seg.nrrd").read_bytes().partition(b"\n\n")
    lines = header.decode("utf-8").splitlines()
    assert [f"Segment{n}_Name:={name}" in lines for n, name in enumerate(names)] == [True] * 3
    assert np.array_equal(read_labels(tmp_path / "s.seg.nrrd"), labelled(volume))


def test_sheared_grid_goes_to_nrrd_but_not_to_nifti(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[0, 1] = 0.3
    volume = volume_on(matrix)
    segments = [(1, "", None), (3, "", None)]
    write_segmentation(tmp_path / "s.seg.nrrd", labelled(volume), volume, segments)
    assert np.allclose(read_volume(tmp_path / "s.seg.nrrd").ijk_to_ras, matrix)
    with pytest.raises(QMedSAMError, match="sheared"):
        write_segmentation(tmp_path / "s.nii.gz", labelled(volume), volume, segments)
    assert [p.name for p in tmp_path.iterdir()] == ["s.seg.nrrd"]


def test_default_colours_differ() -> None:
    for a, b in itertools.combinations(DEFAULT_COLORS, 2):
        assert np.linalg.norm(np.subtract(a, b)) > 0.2
    assert all(0 <= c <= 1 for color in DEFAULT_COLORS for c in color)


# All or nothing


def test_a_writer_that_is_stopped_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    """Full disks are tried on full disks (``test_writers.py``)."""
    volume = volume_on(np.eye(4))
    segments = [(1, "", None), (3, "", None)]

    def fail(_image, file, *_args, **_keywords) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    for name in ("new.seg.nrrd", "old.seg.nrrd"):
        if name.startswith("old"):
            write_segmentation(tmp_path / name, labelled(volume), volume, segments)
        with monkeypatch.context() as patch:
            patch.setattr(sitk, "WriteImage", fail)
            with pytest.raises(KeyboardInterrupt):
                write_segmentation(tmp_path / name, np.zeros_like(labelled(volume)), volume, segments)
    assert [p.name for p in tmp_path.iterdir()] == ["old.seg.nrrd"]
    assert np.array_equal(read_labels(tmp_path / "old.seg.nrrd"), labelled(volume))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QMedSAMError, match="a pipe"), writing(tmp_path / "pipe") as beside:
        beside.write_text("x")
    assert (tmp_path / "pipe").is_fifo()


def test_files_are_replaced_with_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("x")
    for text in ("first", "second"):
        with writing(tmp_path / "a.txt") as beside:
            beside.write_text(text)
    assert (tmp_path / "a.txt").read_text() == "second"
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2
