"""RTSTRUCT: contours filled again are the mask, and another program (plastimatch) opens them in the same place."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import dicoms
import numpy as np
import pytest
import SimpleITK as sitk
from fulldisk import limited
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from qmedsam import QMedSAMError
from qmedsam.files import Origin, check_output, ijk_to_ras_of, read_rtstruct, read_volume, write_segmentation
from qmedsam.phantom.shapes import rotation

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("contourpy")

from dicom_series import cubes, write_multiframe, write_series  # noqa: E402
from qmedsam.files.contours import contours_of, filled  # noqa: E402

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"
SEGMENTS = [
    (7, "right kidney", (0.8, 0.3, 0.1)),
    (3, "печень\\x" + "y" * 80, None),
    (300, "", (0.0, 0.2, 1.0)),
    (5, "empty", None),
]


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(a.sum() + b.sum(), 1)


def scene(shape_kji=(9, 40, 30)) -> np.ndarray:
    """Labels with a hole in a hole, parts that touch at corners, single voxels and the edge of the image."""
    k, j, i = np.mgrid[tuple(slice(n) for n in shape_kji)]
    radius = np.hypot(j - 18, i - 14) + 0.3 * np.abs(k - 4)
    labels = np.zeros(shape_kji, np.uint16)
    labels[(radius < 13) & (radius > 9)] = 7
    labels[(radius < 6) & (radius > 3)] = 7
    labels[(radius <= 2) & (k > 2)] = 3
    labels[:, :3, :5] = 300
    labels[4, 33:38:2, 4:26:3] = 3
    labels[5, [30, 31, 32, 33], [20, 21, 22, 23]] = 300
    return labels


# Contours


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_filled_contours_are_the_mask(mask: np.ndarray) -> None:
    """Together, and one by one added up: a hole is part of its contour."""
    contours = contours_of(mask)
    assert np.array_equal(filled(contours, mask.shape), mask)
    alone = [filled([contour], mask.shape) for contour in contours]
    assert np.array_equal(np.any([np.zeros_like(mask), *alone], axis=0), mask)
    assert sum(one.sum() for one in alone) == mask.sum()
    for contour in contours:
        assert len(contour) >= 4 and not np.array_equal(contour[0], contour[-1])


@given(arrays.arrays(bool, (9, 9)), st.integers(1, 5))
def test_other_programs_rules_fill_them_too(mask: np.ndarray, seed: int) -> None:
    """No centre of a pixel lies on a contour: by the winding number as by counting crossings."""
    from matplotlib.path import Path as Polygon

    centres = np.argwhere(np.ones_like(mask))[:, ::-1]
    inside = np.zeros(mask.size, bool)
    for contour in contours_of(mask):
        turned = np.roll(contour, seed, axis=0)
        inside |= Polygon(np.vstack([turned, turned[:1]]), closed=True).contains_points(centres)
    assert np.array_equal(inside.reshape(mask.shape), mask)


def test_what_lies_in_two_contours_is_a_hole() -> None:
    """As other programs draw one: two rings without a channel, in either direction."""
    square = np.array([[0.5, 0.5], [8.5, 0.5], [8.5, 8.5], [0.5, 8.5]])
    hole = square / 2 + 2
    for inner in (hole, hole[::-1], np.vstack([hole, hole[:1]])):
        mask = filled([square, inner], (10, 10))
        assert mask.sum() == 64 - 16 and not mask[4, 4] and mask[1, 1]
    assert filled([square - 5], (10, 10)).sum() == 16 and not filled([square + 20], (10, 10)).any()


# Structure sets


@pytest.fixture
def axes() -> np.ndarray:
    return rotation(25, -15, 40)


def written(folder: Path, axes: np.ndarray, **attributes):
    """Volume, labels and the file of a scene on an oblique series."""
    write_series(folder / "ct", cubes(), axes, **attributes)
    path = folder / "out.rtstruct.dcm"
    check_output(path, folder / "ct")
    volume = read_volume(folder / "ct")
    labels = scene(volume.array_kji.shape)
    write_segmentation(path, labels, volume, SEGMENTS, Origin(folder / "ct", None, "qmedsam-compact"))
    return volume, labels, path


def test_read_back_it_is_the_label_map(tmp_path: Path, axes) -> None:
    volume, labels, path = written(tmp_path, axes)
    read, segments = read_rtstruct(path, volume)
    for label, *_ in SEGMENTS[:3]:
        assert dsc(read == label, labels == label) >= 0.995
    assert np.array_equal(read, labels)
    names = {number: name for number, name, _ in segments}
    assert names == {7: "right kidney", 3: "печень_x" + "y" * 56, 300: "Segment_300", 5: "empty"}
    colors = {number: color for number, _, color in segments}
    assert np.allclose(colors[7], (0.8, 0.3, 0.1), atol=1 / 255) and colors[300] == (0, 51 / 255, 1)


def test_what_the_standard_asks_for(tmp_path: Path, axes) -> None:
    _, labels, path = written(tmp_path, axes)
    made = pydicom.dcmread(path)
    images = {i.SOPInstanceUID: i for i in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    first = next(iter(images.values()))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3" and made.Modality == "RTSTRUCT"
    assert made.SpecificCharacterSet == "ISO_IR 192" and made.file_meta.TransferSyntaxUID.is_implicit_VR
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyID", "FrameOfReferenceUID"):
        assert getattr(made, keyword) == getattr(first, keyword), keyword
    assert made.SeriesInstanceUID != first.SeriesInstanceUID
    frame = made.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert frame.FrameOfReferenceUID == first.FrameOfReferenceUID and series.SeriesInstanceUID == first.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == set(images)
    assert {r.ROINumber for r in made.StructureSetROISequence} == {7, 3, 300, 5}
    assert {o.ReferencedROINumber for o in made.RTROIObservationsSequence} == {7, 3, 300, 5}
    for drawn in made.ROIContourSequence:
        here = labels == drawn.ReferencedROINumber
        assert ("ContourSequence" in drawn) == bool(here.any())
        for contour in drawn.get("ContourSequence", ()):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            x, y = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            apart = (points - np.array(image.ImagePositionPatient, float)) @ np.cross(x, y)
            assert contour.ContourGeometricType == "CLOSED_PLANAR" and contour.NumberOfContourPoints == len(points)
            assert np.abs(apart).max() < 0.01, "a contour lies on the image that it refers to"
            assert all(len(str(v)) <= 16 for v in contour.ContourData)
    # Only what an element can hold: the contours of long outlines go beyond 64 KiB.
    again = pydicom.dcmread(path, defer_size=None)
    assert len(again.ROIContourSequence) == 4


def test_frames_of_a_multi_frame_image(tmp_path: Path, axes) -> None:
    write_series(tmp_path / "ct", cubes(), axes)
    write_multiframe(tmp_path / "enhanced.dcm", tmp_path / "ct" / "000.dcm", cubes(), axes)
    volume = read_volume(tmp_path / "enhanced.dcm")
    labels = scene(volume.array_kji.shape)
    write_segmentation(tmp_path / "a.rtstruct.dcm", labels, volume, SEGMENTS, Origin(tmp_path / "enhanced.dcm"))
    made, source = pydicom.dcmread(tmp_path / "a.rtstruct.dcm"), pydicom.dcmread(tmp_path / "enhanced.dcm")
    frames = source.PerFrameFunctionalGroupsSequence
    x, y = np.array(source.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient).reshape(2, 3)
    for contour in made.ROIContourSequence[0].ContourSequence:
        reference = contour.ContourImageSequence[0]
        place = frames[reference.ReferencedFrameNumber - 1].PlanePositionSequence[0].ImagePositionPatient
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert np.abs((points - np.array(place, float)) @ np.cross(x, y)).max() < 0.01


@pytest.mark.parametrize("oblique", [False, True])
def test_plastimatch_opens_it_in_the_same_place(tmp_path: Path, oblique: bool) -> None:
    """Another program, which planning of radiotherapy uses: every structure by its name, voxel by voxel."""
    pytest.importorskip("plastimatch")
    program = Path(sysconfig.get_path("scripts")) / "plastimatch"
    axes = rotation(0, 0, 0) if not oblique else rotation(8, -5, 12)
    volume, labels, path = written(tmp_path, axes)
    line = [program, "convert", "--input", path, "--referenced-ct", tmp_path / "ct", "--output-prefix", tmp_path / "masks"]
    done = subprocess.run([*map(str, line), "--prefix-format", "nrrd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {p.stem: sitk.ReadImage(str(p)) for p in (tmp_path / "masks").iterdir()}
    for name, label in (("right kidney", 7), ("Segment_300", 300)):
        image = found[name]
        # On the series' own grid, whatever order it has.
        there = np.linalg.inv(volume.ijk_to_ras) @ ijk_to_ras_of(image)
        k, j, i = np.nonzero(sitk.GetArrayViewFromImage(image))
        ijk = (there @ np.c_[i, j, k, np.ones(len(i))].T)[:3].T
        assert np.abs(ijk - np.round(ijk)).max() < 0.05
        mask = np.zeros(labels.shape, bool)
        mask[tuple(np.round(ijk).astype(int).T[::-1])] = True
        assert dsc(mask, labels == label) >= 0.995, name


def test_a_thousand_points_and_more(tmp_path: Path) -> None:
    """A contour longer than an explicit element: 64 KiB, some 2,000 points."""
    array = np.full((2, 128, 128), -100, np.int16)
    write_series(tmp_path / "ct", array, np.eye(3))
    volume = read_volume(tmp_path / "ct")
    labels = np.zeros(array.shape, np.uint8)
    labels[0, 2:126, 2:126] = 1
    labels[0, 4:124:3, 4:124:3] = 0  # a sieve of 1,600 holes: one contour
    write_segmentation(tmp_path / "a.rtstruct.dcm", labels, volume, [(1, "sieve", None)], Origin(tmp_path / "ct"))
    (contour,) = pydicom.dcmread(tmp_path / "a.rtstruct.dcm").ROIContourSequence[0].ContourSequence
    assert sum(len(str(v)) + 1 for v in contour.ContourData) > 65536
    assert np.array_equal(read_rtstruct(tmp_path / "a.rtstruct.dcm", volume)[0], labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.rtstruct.dcm", "a.dcm"])
def test_a_disk_that_is_full(tmp_path: Path, axes, name: str) -> None:
    if name == "a.dcm":
        pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", cubes(), axes)
    volume = read_volume(tmp_path / "ct")
    labels, path = scene(volume.array_kji.shape), tmp_path / name

    def write() -> None:
        write_segmentation(path, labels, volume, SEGMENTS, Origin(tmp_path / "ct"))

    write()
    needed, before = path.stat().st_size, path.read_bytes()
    for size in (0, 200, needed // 2, needed - 100):  # UIDs are of different lengths
        with limited(size), pytest.raises(QMedSAMError, match="could not be written"):
            write()
        assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [name, "ct"], size


# What cannot be


def test_what_has_no_place_is_refused_before_the_run(tmp_path: Path, axes) -> None:
    write_series(tmp_path / "ct", cubes()[:1], axes)
    (file,) = (tmp_path / "ct").iterdir()
    image = pydicom.dcmread(file)
    del image.ImagePositionPatient, image.ImageOrientationPatient
    dicoms.written(image, file)
    with pytest.raises(QMedSAMError, match="where it lies in the patient"):
        check_output(tmp_path / "a.rtstruct.dcm", file)
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(QMedSAMError, match="refers to DICOM images"):
        check_output(tmp_path / "a.rtstruct.dcm", tmp_path / "a.nrrd")


@pytest.mark.parametrize("package", ["pydicom", "contourpy"])
def test_what_is_missing_is_named(tmp_path: Path, axes, monkeypatch, package: str) -> None:
    write_series(tmp_path / "ct", cubes(), axes)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(QMedSAMError, match=package) as error:
        check_output(tmp_path / "a.rtstruct.dcm", tmp_path / "ct")
    assert "qmedsam[dicom]" in error.value.hint


def test_foreign_structure_sets(tmp_path: Path, axes) -> None:
    """Files that are none, contours between the slices, numbers that are none."""
    volume, _, path = written(tmp_path, axes)
    (tmp_path / "text.dcm").write_text("no structure set")
    for file in (tmp_path / "text.dcm", tmp_path / "ct" / "003.dcm"):
        with pytest.raises(QMedSAMError, match="not a DICOM structure set"):
            read_rtstruct(file, volume)

    def edited(edit) -> Path:
        made = pydicom.dcmread(path)
        edit(made)
        dicoms.written(made, tmp_path / "edited.dcm")
        return tmp_path / "edited.dcm"

    def shift(made) -> None:
        for contour in made.ROIContourSequence[0].ContourSequence:
            contour.ContourData = [float(v) + 3 for v in contour.ContourData]

    with pytest.raises(QMedSAMError, match="do not lie on the slices"):
        read_rtstruct(edited(shift), volume)

    def far(made) -> None:
        for contour in made.ROIContourSequence[0].ContourSequence:
            contour.ContourData = ["1e308"] * len(contour.ContourData)

    with pytest.raises(QMedSAMError, match="do not lie on the slices"):
        read_rtstruct(edited(far), volume)

    def cut(made) -> None:
        made.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]

    with pytest.raises(QMedSAMError, match="not a DICOM structure set"):
        read_rtstruct(edited(cut), volume)

    def point(made) -> None:
        for contour in made.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "POINT"

    assert not (read_rtstruct(edited(point), volume)[0] == 7).any()


@pytest.mark.parametrize("name", ["a.rtstruct.dcm", "RTSTRUCT.dcm", "liver_rtstruct.dcm", "x-RtStruct.DCM"])
def test_the_name_says_which_object_it_is(tmp_path: Path, axes, name: str) -> None:
    write_series(tmp_path / "ct", cubes(), axes)
    volume = read_volume(tmp_path / "ct")
    labels = (volume.array_kji > 0).astype(np.uint8)
    write_segmentation(tmp_path / name, labels, volume, [(1, "liver", None)], Origin(tmp_path / "ct"))
    assert pydicom.dcmread(tmp_path / name).Modality == "RTSTRUCT"


@pytest.mark.slow
def test_the_command_line_and_a_cohort_write_it(tmp_path: Path, axes) -> None:
    from qmedsam import Segmenter
    from qmedsam.batch import Case, Settings, run_batch
    from qmedsam.files import FORMATS
    from qmedsam.network.fake import FakeNetwork

    write_series(tmp_path / "ct", cubes(), axes)
    (tmp_path / "boxes.json").write_text('{"boxes": [{"ijk": [5, 8, 2, 14, 19, 6], "name": "spleen"}]}', encoding="utf-8")
    case = Case("ct", tmp_path / "ct", tmp_path / "out" / f"ct{FORMATS['rtstruct']}", (tmp_path / "boxes.json",))
    settings = Settings(strategy="fixed", format="rtstruct", pictures=False)
    outcome = run_batch([case], tmp_path / "out", settings, segmenter=Segmenter(network=FakeNetwork(256))).outcomes[0]
    assert outcome.state == "done", outcome.message
    labels, segments = read_rtstruct(case.output, read_volume(tmp_path / "ct"))
    assert labels.sum() == 600 and segments[0][1] == "spleen"
    pytest.importorskip("openvino")
    line = ["segment", tmp_path / "ct", "--box", "5,8,2,14,19,6", "-o", tmp_path / "a.rtstruct.dcm", "--strategy", "fixed"]
    command = [sys.executable, "-m", "qmedsam", *map(str, line)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ENGINE, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert pydicom.dcmread(tmp_path / "a.rtstruct.dcm").Modality == "RTSTRUCT"
