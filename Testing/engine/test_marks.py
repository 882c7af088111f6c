"""Strokes and rectangles: as files give them, as walks use them, and corrections on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.commands import app
from qmedsam.files import read_boxes, read_labels, read_segments, write_image, write_segmentation
from qmedsam.marks import SliceRectangle
from qmedsam.strategies import Options
from shapes import ball, geometry, tight
from test_hints import Listening

SHAPE = (12, 40, 44)


def boxes_file(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps({"boxes": list(entries)}))
    return path


def test_points_lie_where_they_are_in_the_patient(tmp_path: Path) -> None:
    """The same click in voxels and in RAS, on a turned, flipped, anisotropic volume; lines, radii and axes come through."""
    volume = Volume(np.zeros(SHAPE, np.int16), geometry((0.3, -0.2, 0.5), (0.7, 0.9, 3.0), True))
    ras = (volume.ijk_to_ras @ [30, 12, 5, 1])[:3].tolist()
    entry = {
        "ijk": [10, 8, 2, 36, 30, 9],
        "positive": [[30, 12, 5], {"ras": ras, "radius_mm": 2.5}, [[20, 12, 4], [24, 15, 4]]],
        "negative": [{"ijk": [[11, 9, 3], [11, 14, 6]], "axis": "i"}],
        "rectangles": [{"slice": 6, "xy": [12, 9, 30, 25]}, {"slice": 20, "xy": [30, 3, 9, 8], "axis": "j"}],
    }
    (box,) = read_boxes(boxes_file(tmp_path / "a.json", entry), volume)
    click, same, line, away = box.strokes
    assert np.allclose(click.points_ijk, [[30, 12, 5]]) and np.allclose(same.points_ijk, [[30, 12, 5]], atol=1e-6)
    assert (same.radius_mm, same.index, line.index, len(line.points_ijk)) == (2.5, 5, 4, 2)
    assert (away.axis, away.index, away.adds, line.adds) == (0, 11, False, True)
    assert box.rectangles == (SliceRectangle(2, 6, (11.5, 8.5, 30.5, 25.5)), SliceRectangle(1, 20, (8.5, 2.5, 30.5, 8.5)))


@pytest.mark.parametrize(
    "marks, says",
    [
        ({"positive": [1, 2, 3]}, "list of 3 numbers"),
        ({"positive": {"a": 1}}, "is not a list"),
        ({"negative": [[[1, 2, 3], [1, 2, 7]]]}, "leaves slice"),
        ({"negative": [{"ijk": [1, 2, 3], "axis": "x"}]}, "axis"),
        ({"negative": [{"ijk": [1, 2, 3], "ras": [1, 2, 3]}]}, "neither"),
        ({"negative": [{"ijk": [1, 2, 3], "radius_mm": -1}]}, "radius_mm"),
        ({"positive": [[1, 2, 1e300]]}, "list of 3 numbers"),
        ({"rectangles": [[1, 2, 3, 4]]}, "names no slice"),
        ({"rectangles": [{"slice": 2.5, "xy": [1, 2, 3, 4]}]}, "names no slice"),
        ({"rectangles": [{"slice": 2, "xy": [1, 2, 3]}]}, "list of 4 numbers"),
    ],
)
def test_what_is_no_mark_is_a_sentence(tmp_path: Path, marks: dict, says: str) -> None:
    volume = Volume(np.zeros(SHAPE, np.int16))
    with pytest.raises(QMedSAMError, match=says):
        read_boxes(boxes_file(tmp_path / "a.json", {"ijk": [10, 8, 2, 36, 30, 9], **marks}), volume)


def test_the_challenges_middle_rectangle_is_kept(tmp_path: Path) -> None:
    entry = {"z_min": 2, "z_max": 9, "z_mid": 4, "z_mid_x_min": 10, "z_mid_y_min": 8, "z_mid_x_max": 36, "z_mid_y_max": 30}
    np.savez(tmp_path / "a.npz", boxes=np.array([entry], object))
    (box,) = read_boxes(tmp_path / "a.npz", Volume(np.zeros(SHAPE, np.int16)))
    assert box.rectangles == (SliceRectangle(2, 4, (9.5, 7.5, 36.5, 30.5)),) and box.label == 1
    assert box.corners_ijk.min(axis=0).tolist() == [9.5, 7.5, 1.5] and box.corners_ijk.max(axis=0).tolist() == [36.5, 30.5, 9.5]


@pytest.mark.parametrize("strategy", ["fixed", "propagate", "vote"])
def test_a_drawn_rectangle_is_asked_as_tight_on_its_slice_and_begins_the_walk(strategy: str) -> None:
    truth = ball(SHAPE, (22, 20, 5.5), (14, 12, 5))
    volume = Volume((truth * 100).astype(np.int16), np.eye(4), "MR")
    network = Listening()
    box = Box(
        tight(truth, 2).center_ijk, tight(truth, 2).half_axes_ijk, 1, "a", rectangles=(SliceRectangle(2, 3, (9, 9, 35, 31)),)
    )
    result = Segmenter(network=network).segment(volume, [box], strategy=strategy, options=Options())
    tight_ones = [n for n, kind in enumerate(network.kinds()) if kind == "tight"]
    assert tight_ones and result.objects[0].voxels > 0.8 * truth.sum()
    if strategy == "propagate":
        assert tight_ones[0] == 0  # nothing else is looked for first
    else:
        sides = [told[2] - told[0] for told, *_ in network.told]
        assert sides[tight_ones[0]] < sides[network.kinds().index("volume")]


def test_a_rectangle_beside_its_box_is_passed_over() -> None:
    truth = ball(SHAPE, (22, 20, 5.5), (14, 12, 5))
    volume = Volume((truth * 100).astype(np.int16), np.eye(4), "MR")
    plain, marked = Listening(), Listening()
    box = tight(truth, label=1)
    Segmenter(network=plain).segment(volume, [box])
    beside = (SliceRectangle(2, 5, (40, 30, 43, 39)), SliceRectangle(2, 11, (0, 0, 3, 3)), SliceRectangle(2, 70, (9, 9, 20, 20)))
    Segmenter(network=marked).segment(volume, [Box(box.center_ijk, box.half_axes_ijk, 1, rectangles=beside)])
    assert plain.kinds() == marked.kinds()


@pytest.mark.slow
def test_a_segmentation_goes_on_with_strokes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and colours stay, a segment without strokes stays voxel for voxel, strokes hold, nobody takes another's voxels."""
    organ, lesion = ball(SHAPE, (22, 20, 5.5), (14, 12, 5)), ball(SHAPE, (22, 20, 5.5), (4, 4, 2))
    array = np.where(lesion, 160, np.where(organ, 100, 20)).astype(np.int16)
    volume = Volume(array, np.diag([0.8, 0.8, 2.0, 1.0]), "MR")
    write_image(tmp_path / "mr.nii.gz", array, volume)
    labels = np.where(lesion, 2, np.where(organ, 1, 0)).astype(np.uint8)
    labels[:, :, 30:] = 0
    segments = [(1, "liver", (0.5, 0.25, 0.75)), (2, "lesion", (1.0, 0.0, 0.0))]
    write_segmentation(tmp_path / "before.seg.nrrd", labels, volume, segments)
    box = [8, 8, 1, 36, 32, 10]
    marks = {"positive": [[32, 20, 6]], "negative": [[[12, 20, 5], [13, 20, 5]]]}

    def correct(entry: dict, out: str) -> int:
        file = boxes_file(tmp_path / "strokes.json", {"ijk": box, **entry})
        called = ["segment", str(tmp_path / "mr.nii.gz"), "--modality", "MR", "--boxes", str(file)]
        called += ["--correct", str(tmp_path / "before.seg.nrrd"), "-o", str(tmp_path / out)]
        monkeypatch.setattr("sys.argv", ["qmedsam", *called])
        with pytest.raises(SystemExit) as end:
            app.main()
        return int(end.value.code or 0)

    assert correct({"name": "liver", **marks}, "after.seg.nrrd") == 0
    after = read_labels(tmp_path / "after.seg.nrrd")
    assert after[6, 20, 32] == 1 and not after[5, 20, 12:14].any()
    assert np.array_equal(after == 2, labels == 2)
    found = read_segments(tmp_path / "after.seg.nrrd", volume)
    assert [b.name for b in found] == ["liver", "lesion"] and found[0].color == pytest.approx((0.5, 0.25, 0.75), abs=0.01)
    capsys.readouterr()
    assert correct({"name": "spleen", "label": 7, **marks}, "b.seg.nrrd") == 2
    assert "no segment 'spleen'" in capsys.readouterr().err
    assert correct({"name": "liver"}, "b.seg.nrrd") == 2
    assert "nothing to correct" in capsys.readouterr().err and not (tmp_path / "b.seg.nrrd").exists()
