"""DICOM SEG: written from a synthetic oblique series, read back by highdicom and placed by hand from its own attributes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Optional

import dicoms
import numpy as np
import pytest
import SimpleITK as sitk
from qmedsam import Box, QMedSAMError, Segmenter
from qmedsam.files import check_output, image_of, read_volume, write_segmentation
from qmedsam.files.segmentations import Origin
from qmedsam.network.fake import FakeNetwork
from qmedsam.phantom.shapes import rotation

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

from dicom_series import SPACING, cubes, write_multiframe, write_series  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
)
from qmedsam.evaluation.cases import read_manifest  # noqa: E402
from qmedsam.files.dicom_masks import codes_of_segments, mask_file  # noqa: E402
from qmedsam.files.dicom_seg import codes_of  # noqa: E402

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"
UTF8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}
CASES = (("series", "ct"), ("plain", "plain.nrrd"))


@pytest.fixture
def cube() -> np.ndarray:
    return cubes()


@pytest.fixture
def axes() -> np.ndarray:
    return rotation(25, -15, 40)


def _segmented(folder: Path):
    volume = read_volume(folder)
    boxes = [
        Box.from_voxels((5, 8, 2), (14, 19, 6), name="right kidney", label=7, color=(0.8, 0.3, 0.1)),
        Box.from_voxels((16, 25, 3), (26, 33, 4), name="Kostkiěvič", label=3),
    ]
    result = Segmenter(network=FakeNetwork(input_size=256)).segment(volume, boxes, strategy="fixed")
    return volume, result.labels_kji, [(o.label, o.name, box.color) for o, box in zip(result.objects, boxes)]


def test_a_seg_lies_on_its_series_and_keeps_its_references(tmp_path, cube, axes) -> None:
    series = write_series(tmp_path / "ct", cube, axes)
    volume, labels, segments = _segmented(tmp_path / "ct")
    assert set(np.unique(labels)) == {0, 3, 7} and (labels == 7).sum() == 600
    path = tmp_path / "out.dcm"
    write_segmentation(path, labels, volume, segments, Origin(tmp_path / "ct", None, "qmedsam-compact"))
    seg = hd.seg.segread(path)

    # Voxel by voxel, from the attributes of each frame alone.
    shared = seg.SharedFunctionalGroupsSequence[0]
    x, y = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    to_ijk = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ volume.ijk_to_ras)
    read = np.zeros_like(labels)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    referred = {}
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence):
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points = corner + np.outer(columns * column_mm, x) + np.outer(rows * row_mm, y)
        ijk = (to_ijk @ np.c_[points, np.ones(len(points))].T)[:3].T
        assert np.abs(ijk - np.round(ijk)).max() < 1e-3
        i, j, k = np.round(ijk).astype(int).T
        assert not read[k, j, i].any()
        read[k, j, i] = segments[number - 1][0]
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        referred[str(source.ReferencedSOPInstanceUID)] = corner
    assert np.array_equal(read, labels)

    # Each frame refers to the image of its own place.
    images = [pydicom.dcmread(file) for file in (tmp_path / "ct").iterdir()]
    places = {str(image.SOPInstanceUID): np.array(image.ImagePositionPatient, float) for image in images}
    assert len(referred) == 5 and all(np.allclose(corner, places[uid], atol=1e-3) for uid, corner in referred.items())
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series

    source = images[0]
    kept = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")
    for keyword in (*kept, "AccessionNumber", "FrameOfReferenceUID"):
        assert getattr(seg, keyword) == getattr(source, keyword), keyword
    assert seg.SeriesInstanceUID != series and seg.Modality == "SEG"

    kidney, other = seg.SegmentSequence
    assert (kidney.SegmentLabel, other.SegmentLabel) == ("right kidney", "Kostkiěvič")
    code = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("64033007", "SCT")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"
    algorithm = kidney.SegmentationAlgorithmIdentificationSequence[0]
    from qmedsam import __version__

    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("QMedSAM", __version__)
    assert "qmedsam-compact" in algorithm.AlgorithmParameters and kidney.SegmentAlgorithmType == "SEMIAUTOMATIC"
    rgb = hd.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb()
    assert np.allclose(np.array(rgb) / 255, (0.8, 0.3, 0.1), atol=0.02) and "RecommendedDisplayCIELabValue" not in other


@pytest.mark.parametrize("given", ["file", "folder of two series"])
def test_the_series_is_found_from_a_file_or_by_its_uid(tmp_path, cube, axes, given: str) -> None:
    first = write_series(tmp_path / "ct", cube, axes)
    source, series = tmp_path / "ct" / "003.dcm", None
    if given != "file":
        write_series(tmp_path / "other", cube[:4], axes)
        for file in (tmp_path / "other").iterdir():
            file.rename(tmp_path / "ct" / f"other-{file.name}")
        source, series = tmp_path / "ct", first
    volume = read_volume(source, series)
    labels = (volume.array_kji > 0).astype(np.uint8)
    write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "", None)], Origin(source, series))
    seg = hd.seg.segread(tmp_path / "out.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first and seg.pixel_array.sum() == labels.sum()
    assert seg.SegmentSequence[0].SegmentLabel == "Segment_1"


def test_an_empty_segment_is_described_and_has_no_frame(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)
    volume = read_volume(tmp_path / "ct")
    labels = (volume.array_kji > 100).astype(np.uint8)
    segments = [(1, "liver", None), (2, "liver lesion", None)]
    write_segmentation(tmp_path / "out.dcm", labels, volume, segments, Origin(tmp_path / "ct"))
    seg = hd.seg.segread(tmp_path / "out.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["liver", "liver lesion"] and seg.NumberOfFrames == 5
    write_segmentation(tmp_path / "none.dcm", 0 * labels, volume, segments, Origin(tmp_path / "ct"))
    assert not hd.seg.segread(tmp_path / "none.dcm").pixel_array.any()


@pytest.mark.parametrize(
    "name, codes",
    [
        ("Liver", ("91723000", "10200004", None, None)),
        ("left adrenal gland", ("91723000", "23451007", None, "7771000")),
        ("liver lesion", ("49755003", "52988006", "10200004", None)),
        ("Tumour", ("49755003", "108369006", None, None)),
        ("left lung nodule 2", ("49755003", "27925004", "39607008", "7771000")),
        ("Segment_1", ("85756007", "85756007", None, None)),
        ("", ("85756007", "85756007", None, None)),
    ],
)
def test_names_give_the_codes_of_slicers_terminology(name: str, codes: tuple) -> None:
    found = codes_of(name)
    assert tuple(None if code is None else code.value for code in found) == codes
    assert all(code is None or code.scheme_designator == "SCT" for code in found)


def test_what_is_no_dicom_gives_a_sentence_and_no_file(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)
    volume = read_volume(tmp_path / "ct")
    labels = np.zeros(volume.array_kji.shape, np.uint8)
    (tmp_path / "ct.nrrd").write_bytes(b"NRRD0004\n")
    (tmp_path / "empty").mkdir()
    for origin in (None, Origin(tmp_path / "ct.nrrd"), Origin(tmp_path / "empty"), Origin(tmp_path / "gone")):
        with pytest.raises(QMedSAMError, match=r"refers to DICOM images") as error:
            write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "", None)], origin)
        assert ".seg.nrrd" in error.value.hint
    assert not (tmp_path / "out.dcm").exists()


def test_a_series_that_changed_meanwhile_is_refused(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)
    volume = read_volume(tmp_path / "ct")
    (tmp_path / "ct" / "004.dcm").unlink()
    labels = np.zeros(volume.array_kji.shape, np.uint8)
    with pytest.raises(QMedSAMError, match=r"lie in the patient|where the segmented ones were"):
        write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "", None)], Origin(tmp_path / "ct"))
    write_series(tmp_path / "moved", cube, np.eye(3))
    with pytest.raises(QMedSAMError, match="where the segmented ones were"):
        write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "", None)], Origin(tmp_path / "moved"))
    assert not (tmp_path / "out.dcm").exists()


def test_without_highdicom_the_hint_says_what_to_install(tmp_path, cube, axes, monkeypatch) -> None:
    write_series(tmp_path / "ct", cube, axes)
    volume = read_volume(tmp_path / "ct")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(QMedSAMError, match="highdicom") as error:
        write_segmentation(tmp_path / "o.dcm", np.zeros((9, 40, 30), np.uint8), volume, [(1, "", None)], Origin(tmp_path / "ct"))
    assert "qmedsam[dicom]" in error.value.hint and not (tmp_path / "o.dcm").exists()


@pytest.mark.slow
def test_a_cohort_of_series(tmp_path, cube, axes) -> None:
    """The series lies in a folder of its own; what is no DICOM fails with a sentence, before it is segmented."""
    from qmedsam.batch import Case, Settings, run_batch

    write_series(tmp_path / "ct", cube, axes)
    (tmp_path / "boxes.json").write_text('{"boxes": [{"ijk": [5, 8, 2, 14, 19, 6], "name": "spleen"}]}', encoding="utf-8")
    sitk.WriteImage(image_of(cube, np.eye(4)), str(tmp_path / "plain.nrrd"))
    cases = [Case(n, tmp_path / v, tmp_path / "out" / f"{n}.dcm", (tmp_path / "boxes.json",)) for n, v in CASES]
    segmenter = Segmenter(network=FakeNetwork(input_size=256))
    result = run_batch(cases, tmp_path / "out", Settings(strategy="fixed", format="dicom-seg"), segmenter=segmenter)
    assert [outcome.state for outcome in result.outcomes] == ["done", "failed"]
    assert "refers to DICOM images, but 'plain.nrrd' is not DICOM" in result.outcomes[1].message
    seg = hd.seg.segread(tmp_path / "out" / "series.dcm")
    assert seg.pixel_array.sum() == 600 and seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "78961009"
    assert not (tmp_path / "out" / "plain.dcm").exists()


@pytest.mark.parametrize("place", ["seg/1.dcm", "ct-seg.dcm", "ct.dcm"])
def test_a_folder_of_series_with_their_segs_is_labelled_cases(tmp_path, cube, axes, place) -> None:
    """As archives lay them out (a folder each), and a SEG beside its series, as a batch may write it."""
    for name in ("anna", "berta"):
        folder = tmp_path / name
        (folder / place).parent.mkdir(parents=True)
        write_series(folder / "ct", cube, axes)
        volume, labels, segments = _segmented(folder / "ct")
        write_segmentation(folder / place, labels, volume, segments, origin=Origin(folder / "ct"))
    cases = read_manifest(tmp_path)
    assert [(case.image, case.mask) for case in cases] == [
        (tmp_path / name / "ct", tmp_path / name / Path(place).parts[0]) for name in ("anna", "berta")
    ]
    _, found = cases[0].load()
    assert found.names == {1: "right kidney", 2: "Kostkiěvič"} and int((found.layers[0] == 1).sum()) == 600
    assert codes_of_segments(mask_file(cases[0].mask)) == {"right kidney": "SCT:64033007/SCT:24028007"}, "no tissue"


@pytest.mark.slow
def test_the_command_line_writes_it_by_its_suffix(tmp_path, cube, axes) -> None:
    pytest.importorskip("openvino")
    write_series(tmp_path / "ct", cube, axes)
    sitk.WriteImage(image_of(cube, np.eye(4)), str(tmp_path / "plain.nrrd"))
    for source, code in (("ct", 0), ("plain.nrrd", 2)):
        line = ["segment", tmp_path / source, "--box", "5,8,2,14,19,6", "-o", tmp_path / f"{source}.dcm", "--strategy", "fixed"]
        command = [sys.executable, "-m", "qmedsam", *map(str, line)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=ENGINE, env=UTF8)
        assert done.returncode == code, done.stderr
    assert "refers to DICOM images" in " ".join(done.stderr.split()) and not (tmp_path / "plain.nrrd.dcm").exists()
    seg = hd.seg.segread(tmp_path / "ct.dcm")
    assert seg.pixel_array.any() and seg.DeviceSerialNumber == "qmedsam-volume"


def test_frames_of_a_multi_frame_image_are_referred_to_by_number(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)
    write_multiframe(tmp_path / "enhanced.dcm", tmp_path / "ct" / "000.dcm", cube, axes)
    volume, series = read_volume(tmp_path / "enhanced.dcm"), read_volume(tmp_path / "ct")
    assert np.array_equal(volume.array_kji, series.array_kji) and np.allclose(volume.ijk_to_ras, series.ijk_to_ras)
    labels = (volume.array_kji > 100).astype(np.uint8)
    write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "liver", None)], Origin(tmp_path / "enhanced.dcm"))
    seg, source = hd.seg.segread(tmp_path / "out.dcm"), pydicom.dcmread(tmp_path / "enhanced.dcm")
    frames = source.PerFrameFunctionalGroupsSequence
    found = set()
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence):
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = int(reference.ReferencedFrameNumber)
        there = frames[number - 1].PlanePositionSequence[0].ImagePositionPatient
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert np.allclose(groups.PlanePositionSequence[0].ImagePositionPatient, there, atol=1e-3)
        assert np.array_equal(frame, labels[number - 1])
        found.add(number - 1)
    assert found == set(np.flatnonzero(labels.any(axis=(1, 2))))


# Series as they come: anonymised, of any script, of a projection


def _edited(folder: Path, edit) -> None:
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        edit(image)
        dicoms.written(image, file)


def _written(folder: Path, segments=((1, "liver", None),), source: Optional[Path] = None) -> pydicom.Dataset:
    """What a run does: look first, then read, then write."""
    source = source or folder / "ct"
    check_output(folder / "out.dcm", source)
    volume = read_volume(source)
    labels = (volume.array_kji > 100).astype(np.uint8)
    write_segmentation(folder / "out.dcm", labels, volume, list(segments), Origin(source))
    seg = hd.seg.segread(folder / "out.dcm")
    assert seg.pixel_array.sum() == labels.sum() > 0
    return seg


ANONYMOUS = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator", "SliceThickness", "SeriesNumber"),
    *("SpecificCharacterSet", "InstanceNumber"),
]


@pytest.mark.parametrize(
    "gone",
    [ANONYMOUS, ["StudyID"], ["PatientID"], ["SliceThickness"], ["FrameOfReferenceUID"]],
    ids=lambda gone: "+".join(gone)[:30],
)
def test_an_anonymised_series(tmp_path, cube, axes, gone) -> None:
    write_series(tmp_path / "ct", cube, axes)

    def anonymise(image) -> None:
        for keyword in gone:
            delattr(image, keyword)

    _edited(tmp_path / "ct", anonymise)
    seg = _written(tmp_path)
    assert float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == pytest.approx(SPACING[2])
    for keyword in ("PatientName", "PatientID", "StudyID", "StudyDate"):
        assert keyword in seg and (keyword not in gone or not seg.get(keyword))
    one = seg.FrameOfReferenceUID
    assert _written(tmp_path).FrameOfReferenceUID == one, "the same for all that is made of a series"


@pytest.mark.parametrize(
    "keyword, value", [("PatientSex", "X"), ("StudyDate", "before 2026"), ("StudyTime", "noon"), ("PatientBirthDate", "1970-1-1")]
)
def test_values_that_the_standard_does_not_know_are_left_empty(tmp_path, cube, axes, keyword, value) -> None:
    write_series(tmp_path / "ct", cube, axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _edited(tmp_path / "ct", lambda image: image.__setattr__(keyword, value))
    assert not _written(tmp_path).get(keyword)


@pytest.mark.parametrize(
    "characters, name",
    [
        (None, "Mueller^Anna"),
        ("ISO_IR 100", "Müller^Anna"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
@pytest.mark.filterwarnings("error")  # they would stand on the user's terminal
def test_names_of_any_script_are_written_in_utf_8(tmp_path, cube, axes, characters, name) -> None:
    """Whatever the series' own character set: it need not have the letters of the segments."""
    write_series(tmp_path / "ct", cube, axes)

    def speak(image) -> None:
        if characters is None:
            del image.SpecificCharacterSet
        else:
            image.SpecificCharacterSet = characters
        image.PatientName = name

    _edited(tmp_path / "ct", speak)
    segments = [(1, "печень ćwiczenie 肝臓", None), (2, "a\\b" + "x" * 80, None)]
    seg = _written(tmp_path, segments)
    again = pydicom.dcmread(tmp_path / "out.dcm")
    assert again.SpecificCharacterSet == "ISO_IR 192" and str(again.PatientName) == name
    assert seg.SegmentSequence[0].SegmentLabel == segments[0][1]
    assert seg.SegmentSequence[1].SegmentLabel == "a_b" + "x" * 61


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_what_is_really_needed_is_asked_for_before_the_run(tmp_path, cube, axes, keyword) -> None:
    write_series(tmp_path / "ct", cube, axes)
    _edited(tmp_path / "ct", lambda image: image.__setattr__(keyword, ""))
    source = next((tmp_path / "ct").iterdir()) if keyword == "SeriesInstanceUID" else tmp_path / "ct"
    with pytest.raises(QMedSAMError, match=keyword):
        check_output(tmp_path / "out.dcm", source)


def test_a_stack_without_places_is_refused_before_the_run(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)
    _edited(tmp_path / "ct", lambda image: image.pop("ImagePositionPatient"))
    with pytest.raises(QMedSAMError):  # by the reader or by the writer: nothing is segmented first
        check_output(tmp_path / "out.dcm", tmp_path / "ct")
        read_volume(tmp_path / "ct")


def test_orientations_that_are_rounded_differently_are_one(tmp_path, cube, axes) -> None:
    write_series(tmp_path / "ct", cube, axes)

    def round_off(image) -> None:
        digits = 4 + image.InstanceNumber % 3
        image.ImageOrientationPatient = [round(float(v), digits) for v in image.ImageOrientationPatient]

    _edited(tmp_path / "ct", round_off)
    _written(tmp_path)


@pytest.mark.parametrize("kind", [DigitalXRayImageStorageForPresentation, DigitalMammographyXRayImageStorageForPresentation])
def test_a_projection_is_referred_to_without_a_place(tmp_path, cube, axes, kind) -> None:
    write_series(tmp_path / "ct", cube[:5], axes)
    (source, *others) = sorted((tmp_path / "ct").iterdir())
    for file in others:
        file.unlink()
    image = pydicom.dcmread(source)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID"):
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind
    image.Modality, image.ImagerPixelSpacing = ("DX" if "Mammo" not in kind.name else "MG"), [0.1, 0.1]
    image.PixelData = (cube[3] + 1024).astype("<i2").tobytes()
    dicoms.written(image, source)
    seg = _written(tmp_path, source=source)
    reference = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert np.array_equal(np.squeeze(seg.pixel_array), cube[3] > 100)


def test_frames_that_say_everything_anew(tmp_path, cube, axes) -> None:
    """Sizes and orientation may stand in the groups of every frame."""
    write_series(tmp_path / "ct", cube, axes)
    write_multiframe(tmp_path / "enhanced.dcm", tmp_path / "ct" / "000.dcm", cube, axes)
    image = pydicom.dcmread(tmp_path / "enhanced.dcm")
    shared = image.SharedFunctionalGroupsSequence[0]
    volume = read_volume(tmp_path / "enhanced.dcm")
    for group in image.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    dicoms.written(image, tmp_path / "enhanced.dcm")
    check_output(tmp_path / "out.dcm", tmp_path / "enhanced.dcm")
    labels = (volume.array_kji > 100).astype(np.uint8)
    write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "liver", None)], Origin(tmp_path / "enhanced.dcm"))
    assert hd.seg.segread(tmp_path / "out.dcm").pixel_array.sum() == labels.sum()


def test_frames_in_another_order_than_the_slices(tmp_path, cube, axes) -> None:
    """Each slice is written as the frame that lies where it lies."""
    write_series(tmp_path / "ct", cube, axes)
    order = np.random.default_rng(1).permutation(len(cube))
    write_multiframe(tmp_path / "enhanced.dcm", tmp_path / "ct" / "000.dcm", cube, axes, order)
    volume = read_volume(tmp_path / "ct")
    labels = (volume.array_kji > 100).astype(np.uint8)
    write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "liver", None)], Origin(tmp_path / "enhanced.dcm"))
    seg, source = hd.seg.segread(tmp_path / "out.dcm"), pydicom.dcmread(tmp_path / "enhanced.dcm")
    assert seg.pixel_array.sum() == labels.sum()
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence):
        number = int(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        there = source.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(groups.PlanePositionSequence[0].ImagePositionPatient, there, atol=1e-3)
        assert np.array_equal(frame, labels[order[number - 1]])


@pytest.mark.parametrize("time_point", [0, 1])
def test_a_time_point_refers_to_its_own_frames(tmp_path, cube, axes, time_point: int) -> None:
    write_series(tmp_path / "ct", cube, axes)
    write_multiframe(tmp_path / "enhanced.dcm", tmp_path / "ct" / "000.dcm", cube, axes, [*range(9), *range(9)])
    image = pydicom.dcmread(tmp_path / "enhanced.dcm")
    image.NumberOfFrames = 18
    for n, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = n // 9 + 1
        group.FrameContentSequence[0].InStackPositionNumber = n % 9 + 1
    dicoms.written(image, tmp_path / "enhanced.dcm")
    volume = read_volume(tmp_path / "enhanced.dcm", frame_index=time_point)
    labels = (volume.array_kji > 100).astype(np.uint8)
    origin = Origin(tmp_path / "enhanced.dcm", time_point=time_point)
    write_segmentation(tmp_path / "out.dcm", labels, volume, [(1, "liver", None)], origin)
    numbers = {
        int(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for groups in hd.seg.segread(tmp_path / "out.dcm").PerFrameFunctionalGroupsSequence
    }
    assert numbers == {9 * time_point + k + 1 for k in np.flatnonzero(labels.any(axis=(1, 2)))}
