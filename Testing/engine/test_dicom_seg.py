"""DICOM SEG: written from a synthetic oblique series, read back by highdicom and placed by hand from its own attributes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from qmedsam import Box, QMedSAMError, Segmenter
from qmedsam.files import image_of, read_volume, write_segmentation
from qmedsam.files.segmentations import Origin
from qmedsam.network.fake import FakeNetwork
from qmedsam.phantom.shapes import rotation

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402
from qmedsam.files.dicom_seg import codes_of  # noqa: E402

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"
UTF8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}
CASES = (("series", "ct"), ("plain", "plain.nrrd"))
SPACING = (0.7, 0.9, 2.5)  # of columns, rows and slices
ORIGIN_LPS = np.array([-31.0, 17.5, 210.25])


def write_series(folder: Path, array_kji: np.ndarray, axes_lps: np.ndarray, **attributes) -> str:
    """A CT whose file names and instance numbers say nothing about the slices' order; its series UID."""
    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    order = np.random.default_rng(7).permutation(len(array_kji))
    for k, place in enumerate(order):
        image = pydicom.Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Müller^Anna", "P-17", "19700131", "F"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260102", "101112", "S1", "A9"
        image.ReferringPhysicianName, image.PositionReferenceIndicator = "", ""
        image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 4, int(place) + 1
        image.SeriesDescription = "abdomen"
        image.ImagePositionPatient = [float(v) for v in np.round(ORIGIN_LPS + axes_lps[:, 2] * SPACING[2] * k, 6)]
        image.ImageOrientationPatient = [float(v) for v in np.round([*axes_lps[:, 0], *axes_lps[:, 1]], 8)]
        image.PixelSpacing, image.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        image.Rows, image.Columns = array_kji.shape[1:]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = (array_kji[k] + 1024).astype("<i2").tobytes()
        for key, value in attributes.items():
            setattr(image, key, value)
        image.save_as(folder / f"{place:03d}.dcm", enforce_file_format=True)
    return series


@pytest.fixture
def cube() -> np.ndarray:
    array = np.full((9, 40, 30), -100, np.int16)
    array[2:7, 8:20, 5:15] = 120
    array[3:5, 25:34, 16:27] = 90
    return array


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
    assert seg.pixel_array.any() and seg.DeviceSerialNumber == "qmedsam-compact"


def _of(**attributes):
    made = pydicom.Dataset()
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def write_multiframe(path: Path, like: Path, array_kji: np.ndarray, axes_lps: np.ndarray) -> None:
    """An enhanced CT: all slices as frames of one file, patient and study as in another image."""
    image, kept = pydicom.Dataset(), pydicom.dcmread(like, stop_before_pixels=True)
    for element in kept:
        if element.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            image.add(element)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedCTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.ImageType, image.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(array_kji)
    image.PixelData = (array_kji + 1024).astype("<i2").tobytes()
    measures = _of(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2], SpacingBetweenSlices=SPACING[2])
    values = _of(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    plane = _of(ImageOrientationPatient=kept.ImageOrientationPatient)
    image.SharedFunctionalGroupsSequence = [
        _of(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane], PixelValueTransformationSequence=[values])
    ]
    uid = generate_uid()
    image.DimensionOrganizationSequence = [_of(DimensionOrganizationUID=uid)]
    index = _of(DimensionOrganizationUID=uid, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113)
    image.DimensionIndexSequence = [index]
    positions = [[float(v) for v in np.round(ORIGIN_LPS + axes_lps[:, 2] * SPACING[2] * k, 6)] for k in range(len(array_kji))]
    image.PerFrameFunctionalGroupsSequence = [
        _of(
            PlanePositionSequence=[_of(ImagePositionPatient=position)],
            FrameContentSequence=[_of(DimensionIndexValues=[k], StackID="1", InStackPositionNumber=k)],
        )
        for k, position in enumerate(positions, start=1)
    ]
    image.save_as(path, enforce_file_format=True)


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
