"""Inputs that ended the process, took gigabytes or minutes, or came out as a traceback: a sentence each, at once."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Callable

import dicoms
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from qmedsam.batch import Settings, collect, run_batch
from qmedsam.batch.memory import check_memory
from qmedsam.batch.settings import Case
from qmedsam.errors import QMedSAMError
from qmedsam.files import read_boxes, read_labels, read_segments, read_volume
from qmedsam.files.labelled import read_label_map
from qmedsam.geometry import Volume
from qmedsam.models import ModelStore
from qmedsam.network.fake import FakeNetwork
from qmedsam.segmenter import Segmenter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

GREY = np.random.default_rng(6).integers(0, 255, (5, 12, 14)).astype(np.uint8)
VOLUME = Volume(GREY)


def said(action: Callable[[], object]) -> str:
    """The sentence, of a length that a window can show. Not after half a minute of the processor's time: it took minutes."""
    start = time.process_time()
    with pytest.raises(QMedSAMError) as info:
        action()
    text = str(info.value)
    assert time.process_time() - start < 30 and len(text) < 500 and info.value.hint
    assert "\n" not in text and "ITK" not in text and ".cxx" not in text
    return text


def nifti(path: Path, *changes: tuple) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(path))
    head = bytearray(path.read_bytes())
    for offset, form, *values in changes:
        struct.pack_into("<" + form, head, offset, *values)
    path.write_bytes(head)
    return path


# What ended the process: every way to a reader


def everywhere(path: Path) -> None:
    """All calls that open an image."""
    said(lambda: read_volume(path))
    check_memory(Case("x", path, path.with_suffix(".out"), (path,), path), 1 << 30)
    said(lambda: read_labels(path))
    said(lambda: read_segments(path, VOLUME))


def test_vectors_with_a_scale_in_nifti(tmp_path: Path) -> None:
    """ITK ended the process over intent 1007, three channels in the fifth axis, bytes, and a scale."""
    path = nifti(tmp_path / "a.nii", (40, "8h", 5, 14, 4, 5, 1, 3, 1, 1), (68, "h", 1007), (112, "2f", 2.0, 1.0))
    everywhere(path)


@pytest.mark.parametrize("line", ["x" * 1020, "content: " + "y" * 3000, "kinds: " + "domain " * 200])
@pytest.mark.parametrize("name", ["a.nrrd", "a.seg.nrrd"])
def test_long_lines_in_nrrd(tmp_path: Path, line: str, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "b.nrrd"))
    head, _, voxels = (tmp_path / "b.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / name).write_bytes(head + b"\n" + line.encode() + b"\n\n" + voxels)
    everywhere(tmp_path / name)


def test_packed_metaimage_that_is_damaged(tmp_path: Path) -> None:
    """ITK's reader went round and round."""
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "a.mha"), True)
    content = bytearray((tmp_path / "a.mha").read_bytes())
    at = content.index(b"LOCAL\n") + 6
    assert np.array_equal(read_volume(tmp_path / "a.mha").array_kji, GREY)
    content[at + 1 : at + 5] = b"?\0\0\0"
    (tmp_path / "a.mha").write_bytes(content)
    everywhere(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["n" * 400, "a\0b", "", "/dev/zero", "."])
def test_names_of_voxel_files_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(
        f"NRRD0004\ntype: short\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: {name}\n\n".encode()
    )
    (tmp_path / "a.mhd").write_text(f"NDims = 2\nDimSize = 4 4\nElementType = MET_SHORT\nElementDataFile = {name}\n")
    everywhere(tmp_path / "a.nrrd")
    everywhere(tmp_path / "a.mhd")


def test_long_numbers_in_nrrd(tmp_path: Path) -> None:
    """A pattern of ours went through all ways to cut 400 digits up."""
    for sizes in ("1" + "0" * 400 + "x", "1 " * 400 + "x"):
        (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nencoding: raw\n\n".encode())
        everywhere(tmp_path / "a.nrrd")


def test_long_comments_and_keys_in_nrrd_are_fine(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "b.nrrd"))
    head, _, voxels = (tmp_path / "b.nrrd").read_bytes().partition(b"\n\n")
    more = b"\n# " + b"c" * 1100 + b"\nSegment0_Tags:=" + b"t" * 5000
    (tmp_path / "a.nrrd").write_bytes(head + more + b"\n\n" + voxels)
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").array_kji, GREY)


@pytest.mark.parametrize("count", ["0", "11", "-1", "99999999999", "3x"])
@pytest.mark.parametrize("place", [0, 3])
def test_dimensions_of_metaimage(tmp_path: Path, count: str, place: int) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    lines = content.split(b"\n", 8)
    lines.insert(place, f"NDims = {count}".encode())
    (tmp_path / "a.mha").write_bytes(b"\n".join(lines))
    everywhere(tmp_path / "a.mha")


def test_the_memory_of_a_case_is_told_from_its_header(tmp_path: Path) -> None:
    """Of every format, and of a DICOM folder, without a library being asked."""
    for suffix in ("nii", "nii.gz", "nrrd", "mha", "tif"):
        sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / f"a.{suffix}"))
    np.savez(tmp_path / "a.npz", imgs=GREY)
    dicoms.write_slices(tmp_path / "series", dicoms.planes(5, shape=(12, 14)))
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.tif", "a.npz", "series", "series/001.dcm"):
        case = Case("x", tmp_path / name, tmp_path / "out.seg.nrrd", (tmp_path / "b.json",))
        check_memory(case, 1 << 30)
        with pytest.raises(QMedSAMError, match="takes about 360 MiB and a worker may take") as info:
            check_memory(case, 100 << 20)
        assert ("5 x 12 x 14" if name == "a.npz" else "14 x 12 x 5") in info.value.message


def test_a_batch_in_one_process_goes_on(tmp_path: Path) -> None:
    """These files ended ``batch --workers 0`` as a whole."""
    folder = tmp_path / "in"
    folder.mkdir()
    nifti(folder / "a.nii", (40, "8h", 5, 14, 4, 5, 1, 3, 1, 1), (68, "h", 1007), (112, "2f", 2.0, 1.0))
    (folder / "b.mha").write_text("NDims = 11\nElementDataFile = LOCAL\n")
    (folder / "c.nrrd").write_text("NRRD0004\n" + "x" * 1020 + "\n\n")
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(folder / "d.nrrd"))
    for name in "abcd":
        (folder / f"{name}.json").write_text("[[2, 2, 1, 9, 9, 3]]")
    settings = Settings(modality="MR", pictures=False)
    cases = collect([folder], tmp_path / "out")
    done = run_batch(cases, tmp_path / "out", settings, segmenter=Segmenter(network=FakeNetwork()))
    assert [outcome.state for outcome in done.outcomes] == ["failed"] * 3 + ["done"]


# What took gigabytes: small files that declare large images


def peak_mib() -> float:
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def forged_nifti(folder: Path) -> Path:
    """Packed, with a trailer that speaks of the bytes which its header promises."""
    content = nifti(folder / "x.nii", (42, "3h", 2000, 2000, 1000)).read_bytes()
    packed = gzip.compress(content)
    path = folder / "a.nii.gz"
    path.write_bytes(packed[:-4] + struct.pack("<I", (352 + 4_000_000_000) % 2**32))
    return path


def huge_nrrd(folder: Path, encoding: str) -> Path:
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 9000 9000 9000\nencoding: {encoding}\n\n"
    path = folder / "a.nrrd"
    path.write_bytes(head.encode() + gzip.compress(b"\0" * 5000))
    return path


def huge_metaimage(folder: Path, packed: bool) -> Path:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 9000 9000 9000\nElementType = MET_SHORT\n"
    head += f"CompressedData = {packed}\nElementDataFile = LOCAL\n"
    path = folder / "a.mha"
    path.write_bytes(head.encode() + zlib.compress(b"\0" * 5000))
    return path


def huge_bmp(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(GREY[0]), str(folder / "a.bmp"))
    content = bytearray((folder / "a.bmp").read_bytes())
    struct.pack_into("<ii", content, 18, 60000, 60000)
    (folder / "a.bmp").write_bytes(content)
    return folder / "a.bmp"


def huge_jpeg(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(GREY[0]), str(folder / "a.jpg"))
    content = bytearray((folder / "a.jpg").read_bytes())
    at = next(content.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in content)
    struct.pack_into(">HH", content, at + 5, 65500, 65500)
    (folder / "a.jpg").write_bytes(content)
    return folder / "a.jpg"


def huge_png(folder: Path) -> Path:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    path = folder / "a.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 5000)) + chunk(b"IEND", b""))
    return path


def huge_dicom(folder: Path) -> Path:
    return dicoms.write_multiframe(folder / "a.dcm", GREY, dicoms.SC_MULTI, "CT", SpacingBetweenSlices=1)


HUGE = {
    "nii.gz": forged_nifti,
    "nrrd": lambda folder: huge_nrrd(folder, "raw"),
    "nrrd.gz": lambda folder: huge_nrrd(folder, "gzip"),
    "mha": lambda folder: huge_metaimage(folder, False),
    "mha.gz": lambda folder: huge_metaimage(folder, True),
    "bmp": huge_bmp,
    "jpg": huge_jpeg,
    "png": huge_png,
}


@pytest.mark.parametrize("kind", HUGE)
def test_small_files_that_declare_large_images(tmp_path: Path, kind: str) -> None:
    path = HUGE[kind](tmp_path)
    before = peak_mib()
    text = said(lambda: read_volume(path))
    assert "too early" in text or "memory" in text
    assert peak_mib() - before < 150


def test_parts_of_png_that_name_lengths_beyond_the_file(tmp_path: Path) -> None:
    """libpng made room for 2 GiB, and filled it, for every such part."""
    sitk.WriteImage(sitk.GetImageFromArray(GREY[0]), str(tmp_path / "a.png"))
    content = (tmp_path / "a.png").read_bytes()
    for kind in (b"iCCP", b"tEXt", b"sCAL", b"abCd"):
        (tmp_path / "a.png").write_bytes(content[:33] + struct.pack(">I", 0x7FFFFFFF) + kind + content[33:])
        before = peak_mib()
        assert "too early" in said(lambda: read_volume(tmp_path / "a.png"))
        assert peak_mib() - before < 150


def test_dicom_that_declares_more_than_it_has(tmp_path: Path) -> None:
    import pydicom

    path = huge_dicom(tmp_path)
    dataset = pydicom.dcmread(path)
    for rows, frames in ((65000, 5), (12, 2_000_000_000), (65000, 100_000)):
        dataset.Rows, dataset.NumberOfFrames = rows, frames
        dataset.save_as(path)
        before = peak_mib()
        assert "too early" in said(lambda: read_volume(path))
        assert peak_mib() - before < 150


def test_packed_dicom_that_declares_more_frames_than_it_has(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate

    sitk.WriteImage(sitk.GetImageFromArray(GREY[0]), str(tmp_path / "a.jpg"))
    dataset = dicoms._base(dicoms.SC_MULTI, "OT", "1.2.3.8", Rows=12, Columns=14, NumberOfFrames=1_900_000_000)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = encapsulate([(tmp_path / "a.jpg").read_bytes()] * 2)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    path = dicoms.save(dataset, tmp_path / "a.dcm", "1.2.840.10008.1.2.4.50")
    assert "too early" in said(lambda: read_volume(path))
    dataset.NumberOfFrames = 2
    dataset.SpacingBetweenSlices = 1
    assert read_volume(dicoms.save(dataset, path, "1.2.840.10008.1.2.4.50")).array_kji.shape == (2, 12, 14)


def test_whole_objects_are_read_by_their_bytes(tmp_path: Path) -> None:
    from qmedsam.files.dicom_header import read_whole

    path = dicoms.write_multiframe(tmp_path / "a.dcm", GREY, dicoms.SEG, "SEG")
    assert read_whole(path).PixelData == GREY.tobytes()
    content = path.read_bytes()
    at = content.index(b"\x08\0\x16\0UI")
    path.write_bytes(content[:at] + struct.pack("<HH2sHI", 8, 1, b"UN", 0, 0xFFFFFFF0) + content[at:])
    before = peak_mib()
    said(lambda: read_whole(path))
    assert peak_mib() - before < 150


def test_lengths_of_dicom_elements_are_not_believed(tmp_path: Path) -> None:
    """GDCM made room for 4 GiB; and was asked about files that are no DICOM at all."""
    (path,) = dicoms.write_slices(tmp_path / "s", dicoms.planes(1))
    content = path.read_bytes()
    for group, element, vr in ((2, 0x102, b"OB"), (8, 1, b"UN"), (9, 0x10, b"OW")):
        at = 144 if group == 2 else content.index(b"\x08\0\x16\0UI")
        bad = struct.pack("<HH2sHI", group, element, vr, 0, 0xFFFFFFF0)
        path.write_bytes(content[:at] + bad + content[at:])
        before = peak_mib()
        said(lambda: read_volume(path))
        said(lambda: read_volume(tmp_path / "s"))
        assert peak_mib() - before < 150
    (tmp_path / "s" / "letter.txt").write_bytes(b"\x02\0\0\0OB\0\0\xf0\xff\xff\xff" + b"x" * 2000)
    path.write_bytes(content)
    assert read_volume(tmp_path / "s").array_kji.shape == (1, 18, 22)


# Values that came out as tracebacks


def test_offsets_that_are_no_number(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf"), -float("inf"), -5.0, 1e30):
        said(lambda v=value: read_volume(nifti(tmp_path / "a.nii", (108, "f", v))))


def test_numbers_beyond_numbers_in_boxes(tmp_path: Path) -> None:
    digits = "1" + "0" * 400
    texts = [f"[[1, 1, 1, 2, 2, {digits}]]", f'[{{"ijk": [1, 1, 1, 2, 2, 2], "label": {digits}}}]', "[[1,1,1,1e308,1e308,1e308]]"]
    texts.append(f'{{"markups": [{{"type": "ROI", "center": [0, 0, {digits}], "size": [1, 1, 1]}}]}}')
    for text in texts:
        (tmp_path / "a.json").write_text(text)
        said(lambda: read_boxes(tmp_path / "a.json", VOLUME))


def test_text_of_a_file_does_not_fill_the_window(tmp_path: Path) -> None:
    """A markup type of 60,000 letters took 52 s to print."""
    long = "A" * 60_000
    for markup in (
        {"type": long},
        {"type": ["x"] * 50_000},
        {"type": "ROI", "roiType": long},
        {"type": "ROI", "coordinateSystem": long},
    ):
        (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": [markup]}))
        said(lambda: read_boxes(tmp_path / "a.mrk.json", VOLUME))
    (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": [{"type": f"T{n}"} for n in range(5000)]}))
    assert "and 4997 more" in said(lambda: read_boxes(tmp_path / "a.mrk.json", VOLUME))


def test_members_of_npz_that_are_text(tmp_path: Path) -> None:
    for values in (np.array([b"abc"]), np.array(["a"]), np.array(b"x"), np.zeros(3, "V4"), np.array(["2020"], "M8[Y]")):
        for key in ("imgs", "boxes", "segs", "spacing"):
            arrays = {"imgs": GREY, "boxes": np.ones((1, 6)), "segs": GREY, key: values}
            np.savez(tmp_path / "a.npz", **arrays)
            if key in ("imgs", "spacing"):
                said(lambda: read_volume(tmp_path / "a.npz"))
            elif key == "boxes":
                said(lambda: read_boxes(tmp_path / "a.npz", VOLUME))
            else:
                said(lambda: read_labels(tmp_path / "a.npz"))


def test_npz_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i2", "fortran_order": False, "shape": (90000, 90000, 90)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("imgs.npy", stream.getvalue() + b"\0" * 100)
    before = peak_mib()
    said(lambda: read_volume(tmp_path / "a.npz"))
    assert peak_mib() - before < 100


def test_labels_that_are_not_finite(tmp_path: Path) -> None:
    """numpy's warnings reached the terminal."""
    import warnings

    for value in (np.nan, np.inf, -np.inf, 1e30):
        array = np.zeros((3, 4, 5), np.float32)
        array[1, 2, 3] = value
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            said(lambda: read_labels(tmp_path / "a.nrrd"))


def test_rows_of_a_list_that_no_file_can_be_called(tmp_path: Path) -> None:
    """One of them ended the whole run."""
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "a.nii"))
    (tmp_path / "a.json").write_text("[[2, 2, 1, 9, 9, 3]]")
    names = ["\ud800", "n" * 400, "x/" + "n" * 300 + "/y", "p/" * 3000, "good"]
    rows = [{"volume": "a.nii", "boxes": "a.json", "name": name} for name in names]
    rows.append({"volume": "\udcff.nii", "boxes": "a.json"})
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cases = collect([tmp_path / "l.jsonl"], tmp_path / "out")
    settings = Settings(modality="MR", pictures=False)
    done = run_batch(cases, tmp_path / "out", settings, segmenter=Segmenter(network=FakeNetwork()))
    assert [outcome.state for outcome in done.outcomes] == ["failed"] * 4 + ["done", "failed"]
    assert all(len(outcome.message) < 300 for outcome in done.outcomes)


def test_every_case_of_a_list_has_a_name(tmp_path: Path) -> None:
    rows = [{"volume": "a.nii", "boxes": "a.json", "output": ".seg.nrrd"}, {"volume": "\u200b", "boxes": 5}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert all(case.name for case in collect([tmp_path / "l.jsonl"], tmp_path / "out"))


def test_libraries_do_not_write_on_the_terminal(tmp_path: Path, capfd) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(GREY[0]), str(tmp_path / "a.jpg"))
    content = (tmp_path / "a.jpg").read_bytes()
    at = content.index(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[: at + 20] + b"\xff\xc4\0\0zz" + content[at + 26 :])
    with suppress(QMedSAMError):
        read_volume(tmp_path / "a.jpg")
    sys.stdout.write("mine")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert (out, err) == ("mine", "")


# Models


def model_zip(path: Path, entries: dict, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def nameless_zip() -> bytes:
    """A zip of one file without a name, which zipfile reads but does not write."""
    common = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(b"x"), 1, 1, 0, 0)
    local = b"PK\3\4" + common + b"x"
    central = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0)
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_manifest_that_never_ends(tmp_path: Path) -> None:
    store = ModelStore([tmp_path / "user"], tmp_path / "user")
    for name in ("device", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "device" / "manifest.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe" / "manifest.json")
    for name in ("device", "pipe"):
        said(lambda n=name: store.add(tmp_path / n))
        (tmp_path / "user" / name).symlink_to(tmp_path / name)
    assert store.models() == [] and len(store.broken()) == 2


def test_zips_that_are_no_models(tmp_path: Path, monkeypatch) -> None:
    store = ModelStore([tmp_path / "user"], tmp_path / "user")
    many = {f"f{n}": b"" for n in range(2_000)}
    assert "2,001 files" in said(lambda: store.add(model_zip(tmp_path / "many.zip", {**many, "manifest.json": b"{}"})))
    nested = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    said(lambda: store.add(model_zip(tmp_path / "nested.zip", {"m/manifest.json": nested})))
    (tmp_path / "empty.zip").write_bytes(nameless_zip())
    said(lambda: store.add(tmp_path / "empty.zip"))
    path = model_zip(tmp_path / "lzma.zip", {"manifest.json": b"{}" * 500, "e.xml": b"x" * 500}, zipfile.ZIP_LZMA)
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    said(lambda: store.add(path))
    outside = model_zip(tmp_path / "slip.zip", {"m/manifest.json": b"{}", "m/../../../slipped": b"x", "/slipped": b"x"})
    said(lambda: store.add(outside))
    assert not list(tmp_path.rglob("slipped"))
    monkeypatch.setattr("qmedsam.models._MOST_BYTES", 1 << 20)
    bomb = model_zip(tmp_path / "bomb.zip", {"manifest.json": b"{}", "big.bin": b"\0" * (2 << 20)})
    assert "unpack to more" in said(lambda: store.add(bomb))


# Masks that DICOM keeps


def test_a_dicom_mask_whose_frames_lie_anywhere(tmp_path: Path) -> None:
    """A file of a kilobyte that asks for terabytes of empty slices, and one of a length that leads out of it."""
    import seeds

    content = seeds.dicom_seg(tmp_path)[0]
    volume = Volume(np.zeros((5, 12, 14), np.uint8), np.eye(4))
    path = tmp_path / "seg.dcm"
    path.write_bytes(content)
    assert read_label_map(path, volume).names == {1: "Liver", 2: "Tumour"}
    far = pydicom.dcmread(path)
    group, _, last = far.PerFrameFunctionalGroupsSequence
    last.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3]
    group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, -1_000_000_000]
    far.save_as(tmp_path / "far.dcm")
    assert "memory" in said(lambda: read_label_map(tmp_path / "far.dcm", volume))
    group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, "nan"]
    far.save_as(tmp_path / "nan.dcm")
    said(lambda: read_label_map(tmp_path / "nan.dcm", volume))
    place = content.index(b"\x62\x00\x02\x00SQ") + 8  # the sequence of segments
    path.write_bytes(content[:place] + b"\xf0\xff\xff\xff" + content[place + 4 :])
    assert "damaged" in said(lambda: read_label_map(path, volume))


def test_a_deflated_structure_set_is_unpacked_within_limits(tmp_path: Path, monkeypatch) -> None:
    import seeds

    volume = Volume(np.zeros((5, 12, 14), np.uint8), np.eye(4))
    (tmp_path / "r.dcm").write_bytes(seeds.rtstruct(tmp_path)[2])
    assert read_label_map(tmp_path / "r.dcm", volume).names == {1: "Liver", 5: "Tumour"}
    monkeypatch.setattr("qmedsam.files.dicom_header._MOST_INFLATED", 100)
    assert "unpacks to more" in said(lambda: read_label_map(tmp_path / "r.dcm", volume))


# The fuzzer itself, a few inputs of every reader; ``python Testing/fuzz/run.py`` runs as many as wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "reader",
    [
        "dicom",
        "dicom-folder",
        "dicom-seg",
        "rtstruct",
        "nifti",
        "nrrd",
        "segmentation",
        "metaimage",
        "png",
        "jpeg",
        "bmp",
        "tiff",
        "npz",
        "boxes",
        "list",
        "models",
    ],
)
def test_damaged_files_of_every_kind(reader: str) -> None:
    from run import fuzz

    findings, read = fuzz(reader, 60, seed=11)
    assert not findings, findings
    assert read < 60 and (read > 0 or reader == "png")  # some stand the damage; PNG has checksums


def test_the_fuzzer_finds_what_is_wrong(monkeypatch) -> None:
    """A reader that lets exceptions through, says too much and writes on the terminal is found out."""
    from run import _complaint

    assert _complaint(QMedSAMError("A sentence.", "A hint."), "/x") is None
    assert _complaint(QMedSAMError("A sentence.", ""), "/x")
    assert _complaint(QMedSAMError("x" * 900 + ".", "A hint."), "/x")["kind"] == "too long"
    assert "ITK" in _complaint(QMedSAMError("ITK ERROR: no.", "A hint."), "/x")["kind"]
