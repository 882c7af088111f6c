"""Photographs that their file holds turned, and masks of pictures: Pillow is the viewer that shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fulldisk import limited
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from qmedsam import Box, QMedSAMError, Segmenter
from qmedsam.files import (
    check_fits,
    ijk_to_ras_of,
    read_boxes,
    read_labels,
    read_segments,
    read_volume,
    write_boxes,
    write_image,
    write_segmentation,
)
from qmedsam.files.labelled import read_label_map
from qmedsam.files.orientation import orientation_of
from qmedsam.geometry import Volume
from qmedsam.network.fake import FakeNetwork
from qmedsam.pictures.panels import Panel

ENGINE = Path(__file__).resolve().parents[2] / "QMedSAMSegment"
SEGMENTS = [(1, "lesion", None)]


def photograph(path: Path, orientation: int, grey: bool = False) -> np.ndarray:
    """Write a photograph with one bright object in a corner; where that lies in the file's own pixels."""
    stored = np.zeros((60, 90), bool)
    stored[8:20, 60:82] = True
    values = np.where(stored, 220, 30).astype(np.uint8)
    image = Image.fromarray(values if grey else np.stack([values, values // 2, values // 3], axis=2))
    exif = Image.Exif()
    exif[0x010F] = "A maker whose name is longer than four letters"
    exif[0x0112] = orientation
    # Pillow turns a mapped TIFF (grey, not packed) in the wrong size.
    how = {".jpg": {"quality": 95}, ".tif": {"compression": "tiff_lzw"}}.get(path.suffix, {})
    image.save(path, exif=exif, **how)
    return stored


def shown(path: Path) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("L"))


def box_on(picture: np.ndarray) -> list:
    """What a user reads off a viewer: the first and last column and row of the bright object."""
    rows, columns = np.nonzero(picture > 60)
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def where_itk_shows(path: Path, above: int) -> np.ndarray:
    """First and last millimetre (RAS) of what is brighter, for a program that reads by ITK alone, as 3D Slicer does."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array = array[..., 0] if image.GetNumberOfComponentsPerPixel() > 1 else array
    voxels = np.argwhere(array.reshape(-1, *array.shape[-2:]) > above)[:, ::-1]
    places = ijk_to_ras_of(image) @ np.c_[voxels, np.ones(len(voxels))].T
    return np.array([places[:3].min(axis=1), places[:3].max(axis=1)])


@pytest.mark.parametrize("kind, grey", [(".jpg", False), (".jpg", True), (".png", True), (".tif", False), (".tif", True)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_drawn_as_viewers_show_it_gives_the_mask_of_the_files_pixels(
    tmp_path: Path, orientation: int, kind: str, grey: bool
) -> None:
    path = tmp_path / f"a{kind}"
    stored = photograph(path, orientation, grey)
    (tmp_path / "b.json").write_text(json.dumps({"boxes": [box_on(shown(path))]}))
    volume = read_volume(path)
    array = volume.array_kji[0] if volume.array_kji.ndim == 3 else volume.array_kji[0, ..., 0]
    assert array.shape == shown(path).shape and dsc(array > 90, shown(path) > 60) > 0.95
    assert (orientation == 1) == (not volume.notes) and all("EXIF" in note for note in volume.notes)
    result = Segmenter(network=FakeNetwork(128)).segment(volume, read_boxes(tmp_path / "b.json", volume), "Dermoscopy")
    assert list(volume.notes) == [m for m in result.messages if "EXIF" in m]
    for suffix in (".png", ".npz", ".nrrd", ".nii.gz", ".seg.nrrd", ".mha"):
        write_segmentation(tmp_path / f"m{suffix}", result.labels_kji, volume, SEGMENTS)
        mask = read_labels(tmp_path / f"m{suffix}")
        assert mask.shape == (1, 60, 90) and dsc(mask[0] == 1, stored) > 0.9, suffix
    assert np.abs(where_itk_shows(tmp_path / "m.seg.nrrd", 0) - where_itk_shows(path, 90)).max() <= 2
    assert dsc(read_label_map(tmp_path / "m.png", volume).layers[0][0] == 1, array > 90) > 0.9, "a mask of the file's pixels"
    if kind != ".tif":  # on the pixels that programs without EXIF show, in their millimetres
        for image in (tmp_path / "m.seg.nrrd", path):
            assert np.allclose(ijk_to_ras_of(sitk.ReadImage(str(image))), np.diag([-1, -1, 1, 1]), atol=1e-6)
    write_image(tmp_path / "votes.nrrd", 50 * result.labels_kji, volume)
    assert np.array_equal(read_labels(tmp_path / "votes.nrrd"), 50 * read_labels(tmp_path / "m.npz"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_in_millimetres_are_slicers(tmp_path: Path, orientation: int) -> None:
    """3D Slicer shows the file's own pixels: an ROI drawn on them, and segments of a mask, lie on the object."""
    stored = photograph(tmp_path / "a.jpg", orientation)
    volume = read_volume(tmp_path / "a.jpg")
    plain = Volume(stored.astype(np.uint8)[None], np.diag([-1.0, -1, 1, 1]))
    rows, columns = np.nonzero(stored)
    box = Box.from_voxels((columns.min(), rows.min(), 0), (columns.max(), rows.max(), 0), name="lesion")
    write_boxes(tmp_path / "r.mrk.json", [box], plain)
    write_segmentation(tmp_path / "m.seg.nrrd", plain.array_kji, plain, SEGMENTS)
    for found in (read_boxes(tmp_path / "r.mrk.json", volume), read_segments(tmp_path / "m.seg.nrrd", volume)):
        corners = found[0].corners_ijk
        wanted = box_on(shown(tmp_path / "a.jpg"))
        assert np.abs(corners[:, :2].min(axis=0) - wanted[:2]).max() < 2  # JPEG blurs an edge
        assert np.abs(corners[:, :2].max(axis=0) - wanted[2:]).max() < 2
    write_boxes(tmp_path / "back.mrk.json", read_boxes(tmp_path / "r.mrk.json", volume), volume)
    again = read_boxes(tmp_path / "back.mrk.json", plain)
    assert np.allclose(sorted(again[0].corners_ijk.tolist()), sorted(box.corners_ijk.tolist()), atol=1e-6)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_of_results_are_as_viewers_show_them(tmp_path: Path, orientation: int, grey: bool) -> None:
    photograph(tmp_path / "a.jpg", orientation, grey)
    panel = Panel(read_volume(tmp_path / "a.jpg"), 2, 0)
    drawn = panel.pose(panel.pixels)
    drawn = drawn if grey else drawn[..., 0]
    assert dsc(drawn > 90, shown(tmp_path / "a.jpg") > 60) > 0.95


@pytest.mark.slow
def test_the_command_line_says_so(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "a.jpg"
    stored = photograph(path, 6)
    box = ",".join(map(str, box_on(shown(path))))
    line = ["segment", path, "--box", box, "--modality", "Dermoscopy", "-o", tmp_path / "m.png", "--png", tmp_path / "o.png"]
    command = [sys.executable, "-m", "qmedsam", *map(str, line)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=ENGINE)
    assert done.returncode == 0, done.stderr
    assert "EXIF orientation 6" in " ".join(done.stdout.split()) and "90 x 60 pixels" in " ".join(done.stdout.split())
    mask = np.asarray(Image.open(tmp_path / "m.png"))
    assert mask.shape == (60, 90) and dsc(mask == 1, stored) > 0.8
    assert Image.open(tmp_path / "o.png").size != (90, 60), "the overlay is another file"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_turned_tiff_keeps_its_bits(tmp_path: Path, kind: type, orientation: int) -> None:
    """ITK would read such files with 8 bits, or not at all."""
    values = (np.arange(24).reshape(4, 6) * 2500).astype(kind)
    image = Image.fromarray(values)
    image.save(tmp_path / "a.tif", tiffinfo={0x0112: orientation}, compression="tiff_lzw")
    volume = read_volume(tmp_path / "a.tif")
    assert volume.array_kji.dtype == kind
    assert np.array_equal(volume.array_kji[0], np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.tif"))))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tif"]


def test_a_stack_of_turned_pages_is_turned_page_by_page(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 255, (3, 4, 6)).astype(np.uint8)
    images = [Image.fromarray(page) for page in pages]
    for turns in ((6, 6, 6), (6, 6, 1)):
        for image, turn in zip(images, turns):
            image.encoderinfo = {"tiffinfo": {0x0112: turn}}
        images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:], tiffinfo={0x0112: turns[0]})
        if turns[2] == 6:
            assert np.array_equal(read_volume(tmp_path / "a.tif").array_kji, np.rot90(pages, -1, (1, 2)))
        else:
            with pytest.raises(QMedSAMError, match="turned in different ways"):
                read_volume(tmp_path / "a.tif")


def test_exif_of_a_png_may_come_behind_its_pixels(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 6)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    end = content.index(b"IEND") - 4
    (tmp_path / "b.png").write_bytes(content[:start] + content[start + len(chunk) : end] + chunk + content[end:])
    assert orientation_of(tmp_path / "a.png") == orientation_of(tmp_path / "b.png") == 6


# EXIF that is none


def test_exif_of_either_byte_order_and_behind_other_segments(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 6)
    content = (tmp_path / "a.jpg").read_bytes()
    start = content.index(b"Exif\0\0")
    assert content[start + 6 : start + 8] == b"MM" and orientation_of(tmp_path / "a.jpg") == 6
    little = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(little) + 2).to_bytes(2, "big") + little
    other = b"\xff\xfe\x00\x06text" + b"\xff\xff\xff\xe1\x00\x08http:/"
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8" + other + segment + content[2:])
    assert orientation_of(tmp_path / "b.jpg") == 8


@given(st.data())
def test_damaged_exif_is_no_exif(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("exif") / "a.jpg"
    photograph(path, 6)
    content = bytearray(path.read_bytes()[:400])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, 400))]))
    assert orientation_of(path) in range(1, 9)


def test_values_that_are_no_orientation(tmp_path: Path) -> None:
    for value in (0, 9, 255):
        photograph(tmp_path / "a.jpg", value)
        assert orientation_of(tmp_path / "a.jpg") == 1
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b.png")
    assert orientation_of(tmp_path / "b.png") == 1 and orientation_of(tmp_path / "gone.jpg") == 1


# Masks of pictures


@pytest.mark.parametrize("top, mode", [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_the_values_of_a_mask_are_the_labels(tmp_path: Path, top: int, mode) -> None:
    labels = np.zeros((1, 30, 20), np.uint16)
    labels[0, 3:9, 4:8], labels[0, 12:20, 5:9] = 1, top
    volume = Volume(np.zeros((1, 30, 20, 3), np.uint8))
    segments = [(value, "", None) for value in sorted({1, top})]
    write_segmentation(tmp_path / "m.PNG", labels, volume, segments)
    image = np.asarray(Image.open(tmp_path / "m.PNG"))
    assert image.dtype == mode and np.array_equal(image, labels[0]) and np.array_equal(read_labels(tmp_path / "m.PNG"), labels)


def test_a_volume_does_not_fit_into_a_picture(tmp_path: Path) -> None:
    """It is said before the run."""
    volume = Volume(np.zeros((3, 30, 20), np.uint8))
    for action in (
        lambda: check_fits(tmp_path / "m.png", volume),
        lambda: write_segmentation(tmp_path / "m.png", volume.array_kji, volume, SEGMENTS),
    ):
        with pytest.raises(QMedSAMError, match="one slice, but the image has 3"):
            action()
    assert not list(tmp_path.iterdir())


def test_a_mask_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    volume = Volume(np.zeros((1, 200, 200, 3), np.uint8))
    labels = np.random.default_rng(0).integers(0, 2, (1, 200, 200)).astype(np.uint8)
    path = tmp_path / "m.png"
    write_segmentation(path, labels, volume, SEGMENTS)
    needed = path.stat().st_size
    write_segmentation(path, 0 * labels, volume, SEGMENTS)
    before = path.read_bytes()
    for size in (0, 100, needed // 2, *range(needed - 14, needed)):
        with limited(size), pytest.raises(QMedSAMError, match="could not be written"):
            write_segmentation(path, labels, volume, SEGMENTS)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1, size


def test_a_cohort_of_photographs(tmp_path: Path) -> None:
    from qmedsam.batch import Settings, collect, run_batch

    wanted = {}
    (tmp_path / "in").mkdir()
    for orientation in (1, 6):
        path = tmp_path / "in" / f"p{orientation}.jpg"
        wanted[path.stem] = photograph(path, orientation)
        path.with_suffix(".json").write_text(json.dumps({"boxes": [box_on(shown(path))]}))
    settings = Settings(modality="Dermoscopy", format="png", pictures=False)
    cases = collect([tmp_path / "in"], tmp_path / "out", "png")
    result = run_batch(cases, tmp_path / "out", settings, segmenter=Segmenter(network=FakeNetwork(128)))
    assert [outcome.state for outcome in result.outcomes] == ["done", "done"]
    assert ["EXIF" in outcome.message for outcome in result.outcomes] == [False, True]
    for name, stored in wanted.items():
        assert dsc(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) == 1, stored) > 0.9
