"""What DICOM files hold lies at the same millimetres whatever the order of frames, or is refused by name and reason."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
from dicoms import Plane, assert_scene, planes, save, write_enhanced, write_multiframe, write_slices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from qmedsam.errors import QMedSAMError
from qmedsam.files import count_frames, read_frames, read_volume
from qmedsam.files.dicom import frame_order, series_files
from shapes import rotation

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANGLES = st.tuples(*[st.floats(-3.1, 3.1)] * 3)


def said(action) -> str:
    with pytest.raises(QMedSAMError) as info:
        action()
    assert info.value.message.endswith(".") and info.value.hint
    return str(info.value)


def turned(plane: Plane, degrees: float) -> Plane:
    """A slice turned about the patient's left-right axis."""
    angle = np.radians(degrees)
    return replace(plane, rows=plane.rows @ rotation((angle, 0, 0)))


@pytest.mark.slow
@FAST
@given(ANGLES, st.integers(2, 9), st.floats(0.4, 6), st.randoms(), st.integers(1, 3), st.booleans())
def test_any_order_of_frames_is_the_same_place(tmp_path: Path, angles, count, step, random, times, series: bool) -> None:
    """Frames and slices in random order, several time points among them."""
    step = float(f"{step:.3g}")
    stack = [
        replace(p, time=t, tags={"TemporalPositionIdentifier": t + 1} if series else {})
        for t in range(times)
        for p in planes(count, step, rotation(angles).T)
    ]
    random.shuffle(stack)
    if series:
        source = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
        write_slices(source, stack, "MR")
    else:
        source = write_enhanced(tmp_path / "e.dcm", stack)
    assert count_frames(source) == times
    for time, volume in enumerate(read_frames(source)):
        assert volume.array_kji.shape == (count, 18, 22) and volume.measured
        assert_scene(volume, time, tolerance=3)  # positions are rounded to six digits
        assert np.allclose(volume.spacing_mm, [0.7, 0.8, step], atol=2e-3)
    if times > 1:
        assert f"holds {times} time points" in said(lambda: read_volume(source))
        assert_scene(read_volume(source, frame_index=times - 1), times - 1, tolerance=3)
        assert "no time point" in said(lambda: read_volume(source, frame_index=times))


@pytest.mark.slow
@FAST
@given(ANGLES, st.sampled_from(["skip", "tilt", "turned", "size", "double", "shuffled skip"]), st.booleans())
def test_what_is_no_stack_is_refused(tmp_path: Path, angles, fault: str, series: bool) -> None:
    stack = planes(9, 2.0, rotation(angles).T)
    if fault == "skip":
        del stack[3:6]
    elif fault == "shuffled skip":
        del stack[4]
        stack = stack[::2] + stack[1::2]
    elif fault == "tilt":
        stack = [replace(p, position=p.position + k * 2 * np.tan(np.radians(10)) * p.rows[1]) for k, p in enumerate(stack)]
    elif fault == "turned":
        stack[4] = turned(stack[4], 30)
    elif fault == "size":
        stack[4] = replace(stack[4], spacing=(0.4, 0.35))
    else:
        stack.append(stack[4])
    source = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
    if series:
        write_slices(source, stack)
    else:
        source = write_enhanced(source.with_suffix(".dcm"), stack)
    expected = {"tilt": "gantry tilt", "turned": "not parallel", "size": "size of their pixels", "double": "same position"}
    assert expected.get(fault, "not evenly spaced") in said(lambda: read_volume(source))


def test_a_turned_slice_and_a_scout_are_named(tmp_path: Path) -> None:
    for degrees in (1, 30, 90):
        stack = planes()
        stack[2] = turned(stack[2], degrees)
        write_slices(tmp_path / f"{degrees}", stack)
        text = said(lambda d=degrees: read_volume(tmp_path / f"{d}"))
        assert "'002.dcm' is turned" in text and "scout" in text
    scout = Plane(np.array([-50.0, 20, 30]), np.array([[1.0, 0, 0], [0, 0, -1]]), shape=(40, 50))
    write_slices(tmp_path / "scout", [scout, *planes()])
    text = said(lambda: read_volume(tmp_path / "scout"))
    assert "'000.dcm' has 50 x 40 pixels, most have 22 x 18" in text


def test_copies_of_files_are_named(tmp_path: Path) -> None:
    paths = write_slices(tmp_path / "s", planes())
    (tmp_path / "s" / "002 (copy).dcm").write_bytes(paths[2].read_bytes())
    text = said(lambda: read_volume(tmp_path / "s"))
    assert "'002 (copy).dcm'" in text and "'002.dcm'" in text and "twice" in text


def test_three_planes_are_no_volume(tmp_path: Path) -> None:
    first = np.array([[1.0, 0, 0], [0, 1, 0]])
    others = [np.array([[1.0, 0, 0], [0, 0, -1]]), np.array([[0, 1.0, 0], [0, 0, -1]])]
    stack = [Plane(np.zeros(3) + n, rows) for n, rows in enumerate([first, *others])]
    text = said(lambda: read_volume(write_enhanced(tmp_path / "a.dcm", stack)))
    assert "not parallel" in text and "localizer" in text


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("EchoTime", [10.0, 20.0], "2 echoes"),
        ("TriggerTime", [0.0, 300.0], "2 cardiac phases"),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]], "2 types of image"),
        ("AcquisitionNumber", [1, 2], "2 acquisitions"),
    ],
)
def test_what_differs_at_one_place_is_named(tmp_path: Path, name: str, value, what: str) -> None:
    stack = [replace(p, time=t, tags={name: value[t]}) for t in (1, 0) for p in planes()]
    write_slices(tmp_path / "s", stack, "MR")
    assert what in said(lambda: read_volume(tmp_path / "s"))
    for time in (0, 1):
        assert_scene(read_volume(tmp_path / "s", frame_index=time), time)


def test_time_points_that_run_against_each_other(tmp_path: Path) -> None:
    stack = [*planes(4), *(replace(p, time=1) for p in planes(4)[::-1])]
    for frames in (stack, stack[::-1]):
        for time, volume in enumerate(read_frames(write_enhanced(tmp_path / "a.dcm", frames))):
            assert_scene(volume, time)


def test_time_points_that_are_not_everywhere(tmp_path: Path) -> None:
    write_slices(tmp_path / "s", [replace(p, time=t) for t in (0, 1) for p in planes()][:-2])
    assert "not everywhere as many (1 to 2)" in said(lambda: read_volume(tmp_path / "s"))


# Multi-frame files that say nothing of single frames

STORED = np.random.default_rng(4).integers(0, 200, (6, 12, 14)).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "modality", "tags"),
    [
        (dicoms.US_MULTI, "US", {"FrameTime": 30, "FrameIncrementPointer": 0x00181063}),
        (dicoms.US_MULTI, "US", {}),
        (dicoms.XA, "XA", {"FrameTime": 66}),
    ],
)
def test_a_cine_is_time(tmp_path: Path, kind: str, modality: str, tags) -> None:
    path = write_multiframe(tmp_path / "a.dcm", STORED, kind, modality, **tags)
    assert "6 time points" in said(lambda: read_volume(path))
    assert np.array_equal(read_volume(path, frame_index=4).array_kji, STORED[4:5])
    assert [v.array_kji.shape for v in read_frames(path)] == [(1, 12, 14)] * 6


def test_depth_that_is_told_once(tmp_path: Path) -> None:
    def read(**tags):
        return read_volume(write_multiframe(tmp_path / "a.dcm", STORED, dicoms.SC_MULTI, "CT", **tags))

    told = read(PixelSpacing=[0.5, 0.4], SpacingBetweenSlices=2.5, SliceThickness=5)
    assert np.allclose(told.spacing_mm, [0.4, 0.5, 2.5]) and told.measured and not told.notes
    cone_beam = read(PixelSpacing=[0.5, 0.4], SliceThickness=0.6)
    assert np.allclose(cone_beam.spacing_mm, [0.4, 0.5, 0.6]) and cone_beam.measured
    assert "thickness" in cone_beam.notes[0]
    unknown = read(PixelSpacing=[0.5, 0.4])
    assert not unknown.measured and not unknown.has_ml and "voxels" in unknown.notes[0]
    assert not read(SpacingBetweenSlices=2.5).measured


def test_ultrasound_in_three_dimensions(tmp_path: Path) -> None:
    stack = planes(6, 0.9)
    volume = read_volume(write_enhanced(tmp_path / "a.dcm", [stack[n] for n in (3, 1, 5, 0, 2, 4)], dicoms.ENHANCED_US, "US"))
    assert np.allclose(volume.spacing_mm, [0.7, 0.8, 0.9])
    assert_scene(volume)


def test_regions_of_ultrasound_tell_the_size_of_pixels(tmp_path: Path) -> None:
    region = dicoms._item(RegionSpatialFormat=1, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3)
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.04, 0.05
    path = write_multiframe(
        tmp_path / "a.dcm", STORED[:1], dicoms.US_MULTI, "US", SequenceOfUltrasoundRegions=dicoms.Items([region])
    )
    volume = read_volume(path)
    assert np.allclose(volume.spacing_mm[:2], [0.4, 0.5]) and volume.measured


@pytest.mark.parametrize(
    ("kind", "modality", "what"),
    [(dicoms.SEG, "SEG", "segmentation"), (dicoms.RTDOSE, "RTDOSE", "dose"), (dicoms.RTSTRUCT, "RTSTRUCT", "contours")],
)
def test_objects_that_are_no_images(tmp_path: Path, kind: str, modality: str, what: str) -> None:
    other = write_multiframe(tmp_path / "s" / "other.dcm", STORED, kind, modality)
    assert what in said(lambda: read_volume(other))
    assert what in said(lambda: read_volume(tmp_path / "s"))
    # beside a series it neither counts as one nor spoils it
    write_slices(tmp_path / "s", planes())
    assert_scene(read_volume(tmp_path / "s"))
    assert_scene(read_volume(tmp_path / "s" / "003.dcm"))


def test_a_mosaic_is_no_picture(tmp_path: Path) -> None:
    write_slices(tmp_path / "s", planes(1), "MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    assert "mosaic" in said(lambda: read_volume(tmp_path / "s" / "000.dcm"))


def test_a_damaged_file_in_a_series_is_named(tmp_path: Path) -> None:
    paths = write_slices(tmp_path / "s", planes())
    whole = paths[3].read_bytes()
    for content in (whole[: len(whole) // 2], whole[:200]):
        paths[3].write_bytes(content)
        assert "'003.dcm'" in said(lambda: read_volume(tmp_path / "s"))
        # an innocent file of it is not to be had without its slice either
        assert "'003.dcm'" in said(lambda: read_volume(paths[0]))


def test_what_does_not_belong_to_a_series_does_not_spoil_it(tmp_path: Path) -> None:
    paths = write_slices(tmp_path / "s", planes())
    (other,) = write_slices(tmp_path / "o", planes(1), uid="1.2.99")
    (tmp_path / "s" / "half.dcm").write_bytes(other.read_bytes()[:900])
    for source in (tmp_path / "s", paths[0]):
        assert_scene(read_volume(source))


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_meta_headers(tmp_path: Path, implicit: bool) -> None:
    """As some archives hand them out: neither preamble nor transfer syntax. ``segment`` and ``batch`` see the same."""
    from qmedsam.batch import collect

    for path in write_slices(tmp_path / "in" / "s", planes()):
        plain = DicomBytesIO()
        plain.is_little_endian, plain.is_implicit_VR = True, implicit
        write_dataset(plain, pydicom.dcmread(path))
        path.write_bytes(plain.getvalue())
        assert path.read_bytes()[:4] == b"\x08\0\x16\0"
    assert_scene(read_volume(tmp_path / "in" / "s"))
    assert_scene(read_volume(tmp_path / "in" / "s" / "004.dcm"))
    (tmp_path / "in" / "s.json").write_text("[[2, 2, 1, 9, 9, 3]]")
    (case,) = collect([tmp_path / "in"], tmp_path / "out")
    assert case.volume == tmp_path / "in" / "s" and not case.problem


def test_no_size_of_pixels(tmp_path: Path) -> None:
    write_slices(tmp_path / "s", [replace(p, spacing=(0, 0)) for p in planes()])
    assert "size of its pixels" in said(lambda: read_volume(tmp_path / "s"))
    (path,) = write_slices(tmp_path / "one", [replace(planes()[0], spacing=(0, 0))])
    assert not read_volume(path).measured


def test_series_by_number_name_and_beginning(tmp_path: Path) -> None:
    for n, name in ((10, "Late"), (2, "Early")):
        for path in write_slices(tmp_path / "x", planes(), uid=f"1.2.{n}.7", SeriesNumber=n, SeriesDescription=name):
            path.rename(tmp_path / f"{n}-{path.name}")
    text = said(lambda: read_volume(tmp_path))
    assert "--series" in text and text.index("2: Early") < text.index("10: Late")
    for name in ("10", "late", "1.2.10", "1.2.10.7", "LAT"):
        assert read_volume(tmp_path, series=name).name == "Late"
        assert read_volume(tmp_path / "10-000.dcm", series=name).name == "Late"
    assert "2 series" in said(lambda: read_volume(tmp_path, series="a")), "a part of both descriptions"
    assert "does not belong" in said(lambda: read_volume(tmp_path / "10-000.dcm", series="Early"))
    assert "fit the name 1.2" in said(lambda: read_volume(tmp_path, series="1.2"))
    # Who writes a DICOM SEG asks for the files first: the same sentence, not that this is no DICOM.
    assert "2: Early" in said(lambda: series_files(tmp_path)) and "2: Early" in said(lambda: series_files(tmp_path, "portal"))


def test_frames_in_the_order_of_slices(tmp_path: Path) -> None:
    order = [3, 0, 2, 1]
    path = write_enhanced(tmp_path / "a.dcm", [planes()[n] for n in order])
    assert [order[n] for n in frame_order(path)] == [0, 1, 2, 3]
    backward = write_enhanced(tmp_path / "b.dcm", planes()[::-1])
    assert frame_order(backward) == (0, 1, 2, 3, 4, 5, 6)
    assert_scene(read_volume(backward))
    paths = write_slices(tmp_path / "s", planes()[::-1])
    assert series_files(tmp_path / "s") == tuple(map(str, paths[::-1]))


# Pixels


def run_lengths(values: np.ndarray) -> bytes:
    """RLE as DICOM has it, without a run: planes of bytes, the highest first."""
    planes_of_bytes = values.ravel().view(np.uint8).reshape(values.size, -1)[:, ::-1].T
    parts = []
    for plane in planes_of_bytes:
        content = plane.tobytes()
        pieces = [content[n : n + 128] for n in range(0, len(content), 128)]
        packed = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
        parts.append(packed + b"\x80" * (len(packed) % 2))
    offsets = np.cumsum([64, *map(len, parts)])[: len(parts)]
    return np.array([len(parts), *offsets, *[0] * (15 - len(parts))], "<u4").tobytes() + b"".join(parts)


def test_values_of_all_kinds_of_pixels(tmp_path: Path) -> None:
    """8 to 32 bits of both signs and byte orders, some of the bits unused, rescaled, through a table, in run lengths."""
    rng = np.random.default_rng(5)
    big, small, runs = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
        info = np.iinfo(dtype)
        values = rng.integers(info.min, info.max, (13, 15), dtype=dtype, endpoint=True)
        for syntax in (small, big, runs):
            dataset = dicoms._base(dicoms.CT, "OT", "1.2.3.8", Rows=13, Columns=15)
            dataset.BitsAllocated = dataset.BitsStored = info.bits
            dataset.HighBit, dataset.PixelRepresentation = info.bits - 1, int(info.min < 0)
            if syntax == runs:
                dataset.PixelData = encapsulate([run_lengths(values)])
                dataset["PixelData"].VR = "OB"
                dataset["PixelData"].is_undefined_length = True
            else:
                order = ">" if syntax == big else "<"
                content = values.astype(values.dtype.newbyteorder(order)).tobytes()
                dataset.PixelData = content + b"\0" * (len(content) % 2)
                dataset["PixelData"].VR = "OB" if info.bits == 8 else "OW"
            read = read_volume(save(dataset, tmp_path / "a.dcm", syntax)).array_kji
            assert np.array_equal(read[0], values), (dtype, syntax)


def test_unused_bits_rescale_and_tables(tmp_path: Path) -> None:
    values = np.arange(-2048, -2048 + 14 * 12).reshape(12, 14)
    dataset = dicoms._base(dicoms.CT, "CT", "1.2.3.8", Rows=12, Columns=14, RescaleSlope="2", RescaleIntercept="-10")
    dataset.BitsStored, dataset.HighBit = 12, 11
    stored = (values & 0xFFF) | 0xA000  # an overlay in the upper bits
    dataset.PixelData = stored.astype("<u2").tobytes()
    read = read_volume(save(dataset, tmp_path / "a.dcm")).array_kji
    assert np.array_equal(read[0], values * 2 - 10) and read.dtype == np.int16
    del dataset.RescaleSlope, dataset.RescaleIntercept
    table = (np.arange(300) ** 2 % 60000).astype("<u2")
    lut = dicoms._item(LUTData=table.tobytes(), ModalityLUTType="US")
    lut.add_new(0x00283002, "SS", [300, -2048, 16])
    dataset.ModalityLUTSequence = dicoms.Items([lut])
    read = read_volume(save(dataset, tmp_path / "b.dcm")).array_kji
    assert np.array_equal(read[0], table[values + 2048])


def test_inverted_pictures_are_bright_where_viewers_show_it(tmp_path: Path) -> None:
    values = np.arange(12 * 14).reshape(12, 14)
    dataset = dicoms._base(dicoms.CT, "CR", "1.2.3.8", Rows=12, Columns=14, PhotometricInterpretation="MONOCHROME1")
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.PixelData = values.astype("<u2").tobytes()
    assert np.array_equal(read_volume(save(dataset, tmp_path / "a.dcm")).array_kji[0], 4095 - values)


def test_colours_are_not_rescaled(tmp_path: Path) -> None:
    """A colour capture of a CT with rescale tags, as JPEG: a third of its rows came out in other colours."""
    image = pytest.importorskip("PIL.Image")
    ramp = np.linspace(0, 250, 48)[:, None] * np.ones((1, 64))
    color = np.stack([ramp, 250 - ramp, 0 * ramp + 90], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    image.fromarray(color).save(stream, "JPEG", quality=95)
    dataset = dicoms._base(dicoms.CT, "CT", "1.2.3.8", Rows=48, Columns=64, RescaleSlope="1", RescaleIntercept="-1024")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_FULL_422", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    volume = read_volume(save(dataset, tmp_path / "a.dcm", "1.2.840.10008.1.2.4.50"))
    assert volume.is_rgb and np.abs(volume.array_kji[0].astype(int) - color).max() < 12


def test_palette(tmp_path: Path) -> None:
    indices = np.random.default_rng(1).integers(0, 200, (9, 11)).astype(np.uint8)
    dataset = dicoms._base(dicoms.US_MULTI, "US", "1.2.3.8", Rows=9, Columns=11, PhotometricInterpretation="PALETTE COLOR")
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    tables = np.random.default_rng(2).integers(0, 255, (3, 256)).astype("<u2")
    for name, table in zip(("Red", "Green", "Blue"), tables):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", (table << 8).tobytes())
    dataset.PixelData = indices.tobytes() + b"\0"
    read = read_volume(save(dataset, tmp_path / "a.dcm"))
    assert np.array_equal(read.array_kji[0], tables[:, indices].transpose(1, 2, 0))


def test_frames_with_their_own_scale(tmp_path: Path) -> None:
    stack = planes(4)
    for n, plane in enumerate(stack):
        scale = dicoms._item(RescaleSlope=f"{1 + n / 2:g}", RescaleIntercept="5", RescaleType="US")
        plane.tags["PixelValueTransformationSequence"] = dicoms.Items([scale])
    read = read_volume(write_enhanced(tmp_path / "a.dcm", stack)).array_kji
    for n, plane in enumerate(stack):
        assert np.allclose(read[n], plane.pixels() * (1 + n / 2) + 5)


def test_a_length_that_cannot_be(tmp_path: Path) -> None:
    """GDCM took 4.2 GiB and 8 s for such a file of 1 KB."""
    import tracemalloc

    (path,) = write_slices(tmp_path / "s", planes(1))
    content = path.read_bytes()
    meta = content.index(b"\x02\0\x10\0UI")
    damaged = content[:meta] + b"\x02\0\x00\x01OB\0\0\xf0\xff\xff\xff" + content[meta:]
    path.write_bytes(damaged)
    tracemalloc.start()
    assert "damaged" in said(lambda: read_volume(path))
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
