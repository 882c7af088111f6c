"""What a file is, its content says; time points, units and pages mean what their format says they mean."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qmedsam.errors import QMedSAMError
from qmedsam.files import count_frames, image_of, read_boxes, read_frames, read_labels, read_segments, read_volume
from qmedsam.geometry import Volume
from shapes import rotation

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RNG = np.random.default_rng(6)
GREY = RNG.integers(-500, 1500, (5, 12, 14)).astype(np.int16)
TIMES = RNG.integers(0, 90, (3, 4, 6, 7)).astype(np.uint8)
BYTES = RNG.integers(0, 255, (12, 14)).astype(np.uint8)


def said(action: Callable[[], object]) -> str:
    with pytest.raises(QMedSAMError) as info:
        action()
    text = str(info.value)
    assert info.value.message.endswith(".") and info.value.hint and len(text) < 400 and "ITK" not in text and ".cxx" not in text
    return text


def written(path: Path, array: np.ndarray, vector: bool = False, packed: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path), packed)
    return path


# Names that lie


@pytest.mark.parametrize("true", ["png", "jpg", "bmp", "tif", "nii", "nii.gz", "nrrd", "mha", "dcm"])
@pytest.mark.parametrize("named", ["png", "jpg", "nii", "nii.gz", "nrrd", "mha", "dcm", "txt", "IMG"])
def test_content_counts_and_not_the_name(tmp_path: Path, true: str, named: str) -> None:
    flat = true in ("png", "jpg", "bmp", "tif", "dcm")
    path = written(tmp_path / f"a.{true}", BYTES if flat else GREY)
    (tmp_path / "x").mkdir()
    other = tmp_path / "x" / f"b.{named}"
    shutil.copyfile(path, other)
    read = read_volume(other).array_kji
    assert np.array_equal(read, read_volume(path).array_kji) and read.shape == ((1, 12, 14) if flat else GREY.shape)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.zip", b"PK\3\4" + b"\0" * 60, "zip"),
        ("a.mrb", b"PK\3\4" + b"\0" * 60, "scene of 3D Slicer"),
        ("a.mgz", gzip.compress(struct.pack(">i", 1) + b"\0" * 400), "mri_convert"),
        ("a.nrrd.gz", gzip.compress(b"NRRD0004\n" + b"x" * 500), "Unpack"),
        ("a.pdf", b"%PDF-1.4" + b"\0" * 60, "PDF"),
        ("a.gif", b"GIF89a" + b"\0" * 60, "GIF"),
        ("a.mnc", b"\x89HDF\r\n" + b"\0" * 60, "HDF5"),
        ("a.heic", b"\0\0\0\x18ftypheic" + b"\0" * 60, "HEIC"),
        ("a.nii", b"hello" * 200, "not an image"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert word in said(lambda: read_volume(tmp_path / name))


# NIfTI


def nifti2(path: Path, array: np.ndarray, matrix: np.ndarray, order: str = "<", packed: bool = False) -> Path:
    head = bytearray(544)
    struct.pack_into(order + "i", head, 0, 540)
    head[4:12] = b"n+2\0\r\n\x1a\n"
    sizes = [array.ndim, *array.shape[::-1], *[1] * 7][:8]
    struct.pack_into(
        order + "hh8q3d8dq", head, 12, 4, 16, *sizes, 0, 0, 0, 1, *np.linalg.norm(matrix[:3, :3], axis=0), 1, 1, 1, 1, 544
    )
    struct.pack_into(order + "2i", head, 344, 0, 1)
    struct.pack_into(order + "12d", head, 400, *matrix[:3].ravel())
    struct.pack_into(order + "i", head, 500, 2)
    content = bytes(head) + array.astype(order + "i2").tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_2(tmp_path: Path, order: str, packed: bool) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0.3, 0.2, 0.1)) * [0.7, 0.8, 2.5]
    matrix[:3, 3] = 10, -20, 30
    path = nifti2(tmp_path / ("a.nii.gz" if packed else "a.nii"), GREY, matrix, order, packed)
    volume = read_volume(path)
    assert np.array_equal(volume.array_kji, GREY) and np.allclose(volume.ijk_to_ras, matrix, atol=1e-4)
    path = nifti2(tmp_path / "t.nii", np.stack([GREY, GREY + 1]), matrix)
    assert count_frames(path) == 2
    assert np.array_equal(read_volume(path, frame_index=1).array_kji, GREY + 1)


def with_forms(path: Path, qform: np.ndarray, sform: np.ndarray, codes, units: int = 2) -> Path:
    """A NIfTI-1 file of two places; both regular, in RAS."""
    sitk.WriteImage(image_of(GREY, qform), str(path))  # quaternion and pixdim are of the qform
    head = bytearray(path.read_bytes())
    head[123] = units
    struct.pack_into("<2h", head, 252, *codes)
    struct.pack_into("<12f", head, 280, *sform[:3].ravel())
    path.write_bytes(head)
    return path


@st.composite
def places(draw) -> np.ndarray:
    matrix = np.eye(4)
    angles = draw(st.tuples(*[st.floats(-3, 3)] * 3))
    matrix[:3, :3] = rotation(angles) * draw(st.tuples(*[st.floats(0.3, 4)] * 3))
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return matrix


@FAST
@given(places(), places(), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.booleans())
def test_the_place_of_a_nifti_is_one_that_it_names(tmp_path: Path, qform, sform, codes, same: bool) -> None:
    """Of a file that names two places one is taken, and a note says which."""
    sform = qform if same else sform
    volume = read_volume(with_forms(tmp_path / "a.nii", qform, sform, codes))
    forms = {name: form for name, form, code in zip(("qform", "sform"), (qform, sform), codes) if code}
    used = [name for name, form in forms.items() if np.allclose(volume.ijk_to_ras, form, atol=2e-3)]
    if not forms:
        return  # the file says nothing: spacing alone
    corners = np.array([[i, j, k, 1] for i in (0, 13) for j in (0, 11) for k in (0, 4)])
    apart = max(np.linalg.norm(((form - volume.ijk_to_ras) @ corners.T)[:3], axis=0).max() for form in forms.values())
    if used and apart > 1:
        (note,) = volume.notes
        assert f"its {used[0]} was used" in note
    elif not used:  # the directions of the sform, with the lengths of pixdim
        axes = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
        assert np.allclose(volume.ijk_to_ras[:3, :3], axes * np.linalg.norm(qform[:3, :3], axis=0), atol=1e-3)
        assert apart < 0.2 or "its pixdim was used" in volume.notes[0]
    if same:
        assert not volume.notes


def test_units_of_nifti(tmp_path: Path) -> None:
    for units, to_mm in ((1, 1e3), (2, 1), (3, 1e-3), (0, 1)):
        volume = read_volume(with_forms(tmp_path / "a.nii", np.diag([1, 2, 3, 1.0]), np.diag([1, 2, 3, 1.0]), (1, 1), units))
        assert np.allclose(volume.spacing_mm, np.array([1, 2, 3]) * to_mm, rtol=1e-5)
        assert bool(volume.notes) == (units in (1, 3))


def test_analyze_says_that_it_does_not_know_its_sides(tmp_path: Path) -> None:
    plain = written(tmp_path / "a.nii", GREY).read_bytes()
    (tmp_path / "b.hdr").write_bytes(plain[:108] + struct.pack("<f", 0) + plain[112:344] + b"\0\0\0\0")
    (tmp_path / "b.img").write_bytes(plain[352:])
    for name in ("b.hdr", "b.img"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(np.sort(volume.array_kji.ravel()), np.sort(GREY.ravel())) and "swapped" in volume.notes[0]
    (tmp_path / "b.img").unlink()
    assert "'b.img'" in said(lambda: read_volume(tmp_path / "b.hdr"))


# Time


def nrrd(path: Path, kinds: str, array: np.ndarray, sizes: str, directions: str, packed: bool = False) -> Path:
    head = f"NRRD0004\ntype: uchar\ndimension: {len(sizes.split())}\nsizes: {sizes}\nspace: left-posterior-superior\n"
    head += f"space directions: {directions}\nkinds: {kinds}\nencoding: {'gzip' if packed else 'raw'}\nspace origin: (1,2,3)\n\n"
    content = array.tobytes()
    path.write_bytes(head.encode() + (gzip.compress(content) if packed else content))
    return path


AXES = "(1,0,0) (0,2,0) (0,0,3)"


@pytest.mark.parametrize("kind", ["list", "time"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_sequences_of_slicer(tmp_path: Path, kind: str, first: bool, packed: bool) -> None:
    path = tmp_path / "a.seq.nrrd"
    if first:
        array = np.moveaxis(TIMES, 0, -1)
        nrrd(path, f"{kind} domain domain domain", np.ascontiguousarray(array), "3 7 6 4", f"none {AXES}", packed)
    else:
        nrrd(path, f"domain domain domain {kind}", TIMES, "7 6 4 3", f"{AXES} none", packed)
    assert count_frames(path) == 3
    assert "3 time points" in said(lambda: read_volume(path))
    for n, volume in enumerate(read_frames(path)):
        assert np.array_equal(volume.array_kji, TIMES[n])
        assert np.allclose(volume.spacing_mm, [1, 2, 3]) and volume.name == "a.seq"
    assert np.array_equal(read_volume(path, frame_index=2).array_kji, TIMES[2])


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_fourth_axis_is_time(tmp_path: Path, suffix: str) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0.1, 0.2, 0.3)) * [1, 2, 3]
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(sitk.JoinSeries([image_of(frame, matrix) for frame in TIMES]), str(path))
    assert count_frames(path) == 3
    for n, volume in enumerate(read_frames(path)):
        assert np.array_equal(volume.array_kji, TIMES[n]) and np.allclose(volume.ijk_to_ras, matrix, atol=1e-5)
    one = read_volume(path, frame_index=1)
    assert np.array_equal(one.array_kji, TIMES[1]) and np.allclose(one.ijk_to_ras, matrix, atol=1e-5)
    assert "time point 3" in said(lambda: read_volume(path, frame_index=3))


def test_time_before_further_axes_of_one(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "a.nii", TIMES).read_bytes())
    struct.pack_into("<8h", content, 40, 5, 7, 6, 4, 3, 1, 1, 1)
    (tmp_path / "a.nii").write_bytes(content)
    assert [np.array_equal(v.array_kji, TIMES[n]) for n, v in enumerate(read_frames(tmp_path / "a.nii"))] == [True] * 3
    assert np.array_equal(read_volume(tmp_path / "a.nii", frame_index=2).array_kji, TIMES[2])


def test_more_than_the_memory_is_refused_by_what_is_read(tmp_path: Path, monkeypatch) -> None:
    """A long series of which one time point fits may be read one by one."""
    path = written(tmp_path / "a.nii", TIMES)
    monkeypatch.setattr("qmedsam.files.header.machine_memory", lambda: 2 * TIMES[0].nbytes + 50)
    assert np.array_equal(read_volume(path, frame_index=1).array_kji, TIMES[1])
    assert "memory" in said(lambda: list(read_frames(path)))


def test_one_time_point_is_number_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", GREY)
    assert np.array_equal(read_volume(path, frame_index=0).array_kji, GREY)
    assert "It has one" in said(lambda: read_volume(path, frame_index=1))


# TIFF


def tiff(path: Path, pages: np.ndarray, text: str = "", **options) -> Path:
    image = pytest.importorskip("PIL.Image")
    made = [image.fromarray(page) for page in pages]
    made[0].save(path, "TIFF", save_all=True, append_images=made[1:], **({"description": text} if text else {}), **options)
    return path


def test_pages_of_imagej(tmp_path: Path) -> None:
    pages = TIMES.reshape(12, 6, 7)

    def read(text: str, **options):
        return read_volume(tiff(tmp_path / "a.tif", pages, text, **options))

    head = "ImageJ=1.54f\nimages=12\n"
    depth = read(head + "slices=12\nunit=micron\nspacing=2.5\n", resolution=4.0)
    assert np.array_equal(depth.array_kji, pages) and depth.measured
    assert np.allclose(depth.spacing_mm, [0.25e-3, 0.25e-3, 2.5e-3])
    assert "channels" in said(lambda: read(head + "channels=2\nslices=6\n"))
    assert "3 time points" in said(lambda: read(head + "slices=4\nframes=3\n"))
    path = tiff(tmp_path / "t.tif", pages, head + "slices=4\nframes=3\n")
    assert [np.array_equal(v.array_kji, TIMES[n]) for n, v in enumerate(read_frames(path))] == [True] * 3
    assert "has 12 pages" in said(lambda: read(head + "slices=5\n"))


def test_pages_of_ome(tmp_path: Path) -> None:
    def text(order: str) -> str:
        return (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
            '<Pixels SizeX="7" SizeY="6" '
            f'SizeZ="4" SizeC="1" SizeT="3" DimensionOrder="{order}" PhysicalSizeX="0.5" PhysicalSizeY="0.6" PhysicalSizeZ="2"/>'
            "</Image></OME>"
        )

    for order, pages in (("XYCZT", TIMES), ("XYCTZ", TIMES.transpose(1, 0, 2, 3))):
        path = tiff(tmp_path / "a.ome.tif", np.ascontiguousarray(pages).reshape(12, 6, 7), text(order))
        for n, volume in enumerate(read_frames(path)):
            assert np.array_equal(volume.array_kji, TIMES[n]), order
            assert np.allclose(volume.spacing_mm, [0.5e-3, 0.6e-3, 2e-3])


def test_pages_that_say_nothing_have_no_millilitres(tmp_path: Path) -> None:
    volume = read_volume(tiff(tmp_path / "a.tif", TIMES[0]))
    assert np.array_equal(volume.array_kji, TIMES[0]) and not volume.measured and not volume.has_ml
    assert "sizes are in voxels" in volume.notes[0]


def test_tiffs_that_itk_cannot_read_say_why(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    made = image.fromarray(BYTES)
    made.save(tmp_path / "a.tif", "TIFF", save_all=True, append_images=[image.fromarray(BYTES[:6, :7])])
    assert "differ in size" in said(lambda: read_volume(tmp_path / "a.tif"))
    made.save(tmp_path / "t.tif", "TIFF", save_all=True, append_images=[made])
    marked = (tmp_path / "t.tif").read_bytes().replace(struct.pack("<HHII", 256, 4, 1, 14), struct.pack("<HHII", 254, 4, 1, 1))
    (tmp_path / "t.tif").write_bytes(marked)
    assert "thumbnails" in said(lambda: read_volume(tmp_path / "t.tif"))
    plain = written(tmp_path / "b.tif", BYTES).read_bytes()
    packing = struct.pack("<HHI", 259, 3, 1)
    at = plain.index(packing) + 8
    (tmp_path / "c.tif").write_bytes(plain[:at] + struct.pack("<H", 50000) + plain[at + 2 :])
    assert "zstd" in said(lambda: read_volume(tmp_path / "c.tif"))
    sitk.WriteImage(sitk.GetImageFromArray(BYTES.astype(np.float32)), str(tmp_path / "d.tif"))
    assert read_volume(tmp_path / "d.tif").array_kji.dtype == np.float32


# Lengths


def test_lengths_of_nrrd_and_metaimage(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 7 6 4\n{}encoding: raw\n\n"

    def read(lines: str):
        (tmp_path / "a.nrrd").write_bytes(head.format(lines).encode() + TIMES[0].tobytes())
        return read_volume(tmp_path / "a.nrrd")

    space = f"space dimension: 3\nspace directions: {AXES}\n"
    assert read(space).measured and np.allclose(read(space).spacing_mm, [1, 2, 3])
    small = read(space + 'space units: "um" "um" "um"\n')
    assert np.allclose(small.spacing_mm, [1e-3, 2e-3, 3e-3]) and small.measured and "um" in small.notes[0]
    odd = read(space + 'space units: "s" "s" "s"\n')
    assert not odd.measured and "'s'" in odd.notes[0]
    assert not read("").measured and "voxels" in read("").notes[0]
    assert read("spacings: 1 2 3\n").measured
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(meta.encode() + TIMES[0].tobytes())
    assert not read_volume(tmp_path / "a.mha").measured
    (tmp_path / "a.mha").write_bytes(meta.replace("Elem", "ElementSpacing = 1 2 3\nElem", 1).encode() + TIMES[0].tobytes())
    assert read_volume(tmp_path / "a.mha").measured


def test_a_file_without_lengths_is_given_in_voxels(tmp_path: Path) -> None:
    """The notes of the reader reach the user."""
    from qmedsam.geometry import Box
    from qmedsam.network.fake import FakeNetwork
    from qmedsam.segmenter import Segmenter

    np.savez(tmp_path / "a.npz", imgs=GREY)
    volume = read_volume(tmp_path / "a.npz")
    result = Segmenter(network=FakeNetwork()).segment(volume, [Box.from_voxels([2, 2, 1], [8, 8, 3])], "CT")
    assert result.messages[0] == volume.notes[0] and not volume.has_ml


# Boxes and segmentations


def test_boxes_of_the_challenge_of_2025(tmp_path: Path) -> None:
    box = {
        "z_min": 1,
        "z_max": np.int64(3),
        "z_mid": 2,
        "z_mid_x_min": 2,
        "z_mid_y_min": 3,
        "z_mid_x_max": np.float32(9),
        "z_mid_y_max": 8,
    }
    np.savez(tmp_path / "a.npz", imgs=GREY, boxes=np.array([box, {**box, "z_min": 0}], dtype=object))
    first, second = read_boxes(tmp_path / "a.npz", Volume(GREY))
    assert np.allclose(first.corners_ijk.min(axis=0), [1.5, 2.5, 0.5]) and np.allclose(
        first.corners_ijk.max(axis=0), [9.5, 8.5, 3.5]
    )
    assert second.corners_ijk[:, 2].min() == -0.5
    np.savez(tmp_path / "b.npz", imgs=GREY, boxes=[box])  # a list, as its authors save it
    assert len(read_boxes(tmp_path / "b.npz", Volume(GREY))) == 1
    del box["z_mid_x_min"]
    np.savez(tmp_path / "c.npz", imgs=GREY, boxes=np.array([box], dtype=object))
    assert "z_mid_x_min" in said(lambda: read_boxes(tmp_path / "c.npz", Volume(GREY)))


def test_pickled_boxes_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "made").touch, ())

    np.savez(tmp_path / "a.npz", imgs=GREY, boxes=np.array([Evil()], dtype=object))
    assert "could not be read" in said(lambda: read_boxes(tmp_path / "a.npz", Volume(GREY)))
    assert not (tmp_path / "made").exists()


def test_boxes_in_utf_16(tmp_path: Path) -> None:
    text = '{"boxes": [{"ijk": [1, 2, 0, 3, 4, 1], "name": "Größe"}]}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be"):
        mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
        (tmp_path / "a.json").write_bytes(mark + text.encode(encoding))
        assert read_boxes(tmp_path / "a.json", Volume(GREY))[0].name == "Größe"


def test_layers_are_named_as_such(tmp_path: Path) -> None:
    layers = (RNG.random((5, 12, 14, 2)) > 0.5).astype(np.uint8)
    image = sitk.GetImageFromArray(layers, isVector=True)
    for n in (0, 1):
        for key, value in (("Name", f"S{n}"), ("LabelValue", "1"), ("Layer", str(n)), ("Color", "0.1 0.2 0.3")):
            image.SetMetaData(f"Segment{n}_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    assert [box.name for box in read_segments(tmp_path / "a.seg.nrrd", Volume(GREY))] == ["S0", "S1"]
    assert "overlap" in said(lambda: read_labels(tmp_path / "a.seg.nrrd"))
    for key, value in (("Color", "1 2 3"), ("Color", "nan 0 0"), ("Color", "1 1"), ("LabelValue", "9" * 30), ("Layer", "-1")):
        image.SetMetaData(f"Segment1_{key}", value)
        sitk.WriteImage(image, str(tmp_path / "b.seg.nrrd"))
        assert key in said(lambda: read_segments(tmp_path / "b.seg.nrrd", Volume(GREY)))
        image.SetMetaData(f"Segment1_{key}", {"Color": "0 0 0", "LabelValue": "1", "Layer": "1"}[key])
