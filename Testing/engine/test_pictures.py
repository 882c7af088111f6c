"""Pictures show what they should, where they should, the right way up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qmedsam import Box, Volume
from qmedsam.files import read_volume
from qmedsam.intensity import Intensity
from qmedsam.phantom import ellipsoid_phantom
from qmedsam.pictures.overlays import _areas, overlay_png
from qmedsam.pictures.panels import Panel
from qmedsam.pictures.sheets import sheet_png, tile_of

RED, GREEN = (0.9, 0.1, 0.1), (0.1, 0.9, 0.2)


def pixels(path: Path) -> np.ndarray:
    return read_volume(path).array_kji[0].astype(float) / 255


def share_of(image: np.ndarray, color) -> float:
    """Share of the picture whose hue is that of a colour (contours and, on grey, the tint)."""
    image = image - image.min(axis=-1, keepdims=True)
    wanted = np.array(color) - min(color)
    strength = np.linalg.norm(image, axis=-1)
    cosine = image @ wanted / np.maximum(strength * np.linalg.norm(wanted), 1e-9)
    return float(((strength > 0.12) & (cosine > 0.98)).mean())


@pytest.fixture(scope="module")
def two_objects():
    phantom = ellipsoid_phantom((20, 50, 60), (1.0, 1.0, 3.0), center_ijk=(20, 25, 10), radii_mm=(12, 14, 20))
    labels = phantom.labels_kji.copy()
    labels[4:9, 10:20, 45:55] = 2
    boxes = [*phantom.boxes, Box.from_voxels((45, 10, 4), (54, 19, 8), label=2)]
    return phantom.volume, labels, boxes


def draw(path: Path, volume: Volume, labels, segments, boxes=(), title="A title") -> np.ndarray:
    overlay_png(path, volume, labels, segments, boxes, Intensity.of(volume, "MR"), title)
    return pixels(path)


@pytest.mark.slow
def test_a_volume_gives_a_wide_picture_with_every_segments_colour(tmp_path, two_objects) -> None:
    volume, labels, boxes = two_objects
    image = draw(tmp_path / "a.png", volume, labels, [(1, "large", RED), (2, "small", GREEN)], boxes)
    assert image.shape[1] == 1800 and 700 < image.shape[0] < 1800
    assert share_of(image, RED) > 0.03
    assert share_of(image, GREEN) > 0.01
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]  # nothing is left beside it


@pytest.mark.slow
def test_colours_come_from_the_segments_alone(tmp_path, two_objects) -> None:
    volume, labels, boxes = two_objects
    image = draw(tmp_path / "a.png", volume, labels, [(1, "large", RED)], boxes[:1])
    assert share_of(image, GREEN) == 0
    default = draw(tmp_path / "b.png", volume, labels, [(1, "large", None)], boxes[:1])
    assert share_of(default, RED) < 0.001 < share_of(default, (0.50, 0.68, 0.50))


@pytest.mark.slow
def test_an_empty_segment_and_many_segments_still_give_a_picture(tmp_path, two_objects) -> None:
    volume, labels, boxes = two_objects
    image = draw(tmp_path / "a.png", volume, labels * 0, [(1, "empty", RED)], boxes[:1], title="")
    assert 0 < share_of(image, RED) < 0.01  # its box and its name
    many = np.zeros_like(labels)
    for n in range(14):
        many[3:8, 5 * (n // 6) : 5 * (n // 6) + 4, 8 * (n % 6) : 8 * (n % 6) + 6] = n + 1
    one_row, two_rows = (
        draw(tmp_path / "b.png", volume, many, [(n, str(n), None) for n in range(1, count + 1)]).shape[0] for count in (6, 14)
    )
    assert 250 < two_rows - one_row < 350  # 12 tiles at most: one more row of six


HOSTILE = ["GTV $a_$ b", "US$1 and $2_", "x$\\y$", "l\udce9sion"]  # the last: a Latin-1 file name, as Linux hands it over


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_are_text_and_no_formulas(tmp_path, two_objects, monkeypatch, name: str) -> None:
    monkeypatch.setattr("qmedsam.pictures.sheets.DPI", 30)
    volume, labels, boxes = two_objects
    overlay_png(tmp_path / "a.png", volume, labels, [(1, name, RED)], boxes, Intensity.of(volume, "MR"), name, dpi=30)
    flat = Volume(volume.array_kji[10:11], volume.ijk_to_ras)
    overlay_png(tmp_path / "b.png", flat, labels[10:11], [(1, name, RED)], boxes, Intensity.of(flat, "MR"), dpi=30)
    whole = tuple(slice(0, n) for n in labels.shape)
    tile = tile_of(volume, 10, (labels == 1, whole), (labels == 1, whole), boxes[0], Intensity.of(volume, "MR"), name)
    sheet_png(tmp_path / "c.png", [(name, [tile])])
    assert len(list(tmp_path.iterdir())) == 3


def test_objects_are_counted_together(two_objects) -> None:
    """A comparison of a whole CT per object and axis took seconds with twenty of them."""
    compared = []

    class Watched(np.ndarray):
        def __eq__(self, other):
            compared.append(other)
            return np.asarray(self) == other

    _, labels, _ = two_objects
    for axis in range(3):
        areas = _areas(labels.view(Watched), [(2, "", RED), (1, "", RED), (9, "", RED)], axis)
        others = tuple(other for other in range(3) if other != 2 - axis)
        np.testing.assert_array_equal(areas, [(labels == label).sum(axis=others) for label in (2, 1, 9)])
    assert not compared


def test_rgb_shows_the_whole_picture_as_it_lies_in_the_file(tmp_path) -> None:
    array = np.full((1, 120, 200, 3), 90, np.uint8)
    array[0, :, ::2] = 100
    labels = np.zeros((1, 120, 200), np.uint8)
    labels[0, 10:40, 15:60] = 1
    image = draw(tmp_path / "a.png", Volume(array), labels, [(1, "polyp", RED)])
    assert image.shape[1] == 1080
    rows, columns = image.shape[0], image.shape[1]
    upper_left = image[: rows // 2, : columns // 2]
    assert share_of(upper_left, RED) > 0.1
    assert share_of(image, RED) == pytest.approx(share_of(upper_left, RED) / 4, rel=0.02)
    assert columns / (rows - 66) == pytest.approx(200 / 120, rel=0.05)  # 66: the title


@pytest.mark.parametrize("focus", [0, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_of_a_large_image_no_more_is_drawn_than_can_be_seen(focus: int, turned: bool) -> None:
    """A photograph of 24 megapixels took 1.9 GiB; zoomed in, nothing is thinned out."""
    from matplotlib.figure import Figure

    labels = np.zeros((1, 2100, 4100), np.uint8)
    labels[0, 300:400, 3000:3100] = 1
    box = Box.from_voxels((3000, 300, 0), (3099, 399, 0), label=1)
    volume = Volume(labels, np.diag([-1, -1, 1, 1]) if turned else np.diag([1, 1, 1, 1]))
    axes = Figure().add_subplot()
    panel = Panel(volume, 2, 0)
    panel.draw(axes, labels, [(1, "a", RED)], [box], Intensity.of(volume, "MR"), focus)
    image, tint = axes.images
    assert max(image.get_array().shape) <= (2000 if not focus else 150)
    assert tint.get_array().shape[:2] == image.get_array().shape
    rows, columns = (np.flatnonzero(tint.get_array()[..., 3].any(axis=a)) for a in (1, 0))
    x0, x1, _, y0 = tint.get_extent()
    step = (x1 - x0) / tint.get_array().shape[1]
    found = np.array([x0 + step * columns[0], x0 + step * (columns[-1] + 1), y0 + step * rows[0], y0 + step * (rows[-1] + 1)])
    prompt = axes.patches[0].get_bbox()
    assert np.abs(found - [prompt.x0, prompt.x1, prompt.y0, prompt.y1]).max() <= (0 if focus else step)
    shown = (prompt.x0 - 15, prompt.x1 + 15) if focus else (0, 4100)
    assert axes.get_xlim() == shown


def test_a_box_beside_the_image_on_the_slice_of_its_tile_is_no_error(two_objects) -> None:
    from matplotlib.figure import Figure

    volume, labels, _ = two_objects
    box = Box.from_voxels((900, 900, 4), (910, 910, 8), label=3)
    Panel(volume, 2, 5).draw(Figure().add_subplot(), labels, [(3, "a", RED)], [box], Intensity.of(volume, "MR"), focus=3)


def _lit_corner(ijk_to_ras: np.ndarray, axis: int) -> tuple:
    """Where the right, anterior, superior octant of a volume comes out on an upright slice: (row, column) in 0..1."""
    shape_kji = (12, 14, 16)
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape_kji), indexing="ij")
    ras = np.stack([i, j, k], axis=-1) @ ijk_to_ras[:3, :3].T
    array = (ras > np.median(ras, axis=(0, 1, 2))).all(axis=-1).astype(np.float32)
    volume = Volume(array, ijk_to_ras)
    panel = Panel(volume, axis, int(np.argmax(array.sum(axis=tuple(a for a in range(3) if a != 2 - axis)))))
    upright = panel.pose(panel.pixels)
    return np.argwhere(upright).mean(axis=0) / upright.shape, panel.anatomical_axis


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, 1)])
def test_slices_are_upright_whatever_the_order_of_the_voxels(order, signs) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(order)] * signs * (1, 1.5, 2)
    seen = set()
    for axis in range(3):
        (row, column), patient = _lit_corner(matrix, axis)
        assert row < 0.5  # anterior or superior: up
        assert column < 0.5  # the patient's right, or in a sagittal slice the front: left
        seen.add(patient)
    assert seen == {0, 1, 2}


def test_boxes_turn_with_the_image() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, [1, 2, 0]] * (1, -1, 1)
    labels = np.zeros((12, 14, 16), np.uint8)
    labels[2:5, 3:9, 1:6] = 1
    volume = Volume(labels.astype(np.float32), matrix)
    box = Box.from_voxels((1, 3, 2), (5, 8, 4))
    for axis, index in ((0, 3), (1, 5), (2, 3)):
        panel = Panel(volume, axis, index)
        mask = panel.pose(panel.view.slice_of(labels, index))
        x0, y0, x1, y1 = panel.pose.rectangle(box.cut(panel.view, index), panel.shape)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert (x0, y0, x1, y1) == (columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5)


def test_a_tile_frames_prompt_truth_and_prediction(two_objects) -> None:
    volume, labels, boxes = two_objects
    crop = (slice(4, 9), slice(10, 20), slice(45, 55))
    tile = tile_of(volume, 6, ((labels == 2)[crop], crop), (np.ones((5, 4, 4), bool), (crop[0], slice(8, 12), slice(44, 48))),
                   boxes[1], Intensity.of(volume, "MR"), "case 2")  # fmt: skip
    assert tile.image.shape == tile.truth.shape == tile.predicted.shape
    assert tile.truth.sum() == 100 and tile.predicted.sum() == 16
    x0, y0, x1, y1 = tile.rectangle
    assert ((x1 - x0), (y1 - y0)) == (10, 10)
    rows, columns = np.flatnonzero(tile.truth.any(axis=1)), np.flatnonzero(tile.truth.any(axis=0))
    assert (x0, y0) == (columns[0] - 0.5, rows[0] - 0.5)


def test_a_sheet_has_a_row_per_heading_in_the_two_colours(tmp_path, two_objects) -> None:
    volume, labels, boxes = two_objects
    whole = tuple(slice(0, n) for n in labels.shape)
    tile = tile_of(
        volume, 10, (labels == 1, whole), (np.roll(labels == 1, 4, 2), whole), boxes[0], Intensity.of(volume, "MR"), "c"
    )
    sheet_png(tmp_path / "one.png", [("best", [tile] * 3)])
    sheet_png(tmp_path / "two.png", [("best", [tile] * 3), ("worst", [tile] * 2)])
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] - one.shape[0] == pytest.approx(one.shape[0] - 54, abs=2)  # 54: the header
    assert share_of(one[60:], (0x3F / 255, 0xD0 / 255, 1)) > 0.002
    assert share_of(one[60:], (1, 0xB0 / 255, 0x2E / 255)) > 0.002
    sheet_png(tmp_path / "none.png", [])
    assert pixels(tmp_path / "none.png").size
