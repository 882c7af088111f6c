"""The rectangle that a box was drawn by, and boxes of lines, on real nodes."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import addRoi, addTransform, addVolume, grid, newScene
from qmedsam import QMedSAMError
from qmedsam.lines import box_of_line
from qmedsam.marks import SliceRectangle
from QMedSAMSegmentLib import boxes, drawn
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld

SHAPE = (16, 40, 48)
LOW, HIGH = np.array([9.5, 7.5, 3.5]), np.array([30.5, 24.5, 11.5])


@pytest.fixture
def volume():
    """Turned, flipped and anisotropic."""
    return addVolume(newScene(), np.zeros(SHAPE, np.int16), grid((1.0, -1.5, 2.5), turn=(0.2, -0.4, 0.3)))


def _box(volume, low=LOW, high=HIGH, under=None):
    toWorld = ijkToWorld(volume)
    center = (toWorld @ np.append((low + high) / 2, 1))[:3]
    return addRoi(volume.GetScene(), center, toWorld[:3, :3] * ((high - low) / 2), under=under)


def _remember(roi, volume, x0, y0, x1, y1, k):
    toWorld = ijkToWorld(volume)
    drawn.remember(roi, np.array([(toWorld @ [x, y, k, 1])[:3] for x, y in ((x0, y0), (x1, y1))]))


def _rectangles(roi, volume):
    return boxes.boxFromRoi(roi, volume).rectangles


def test_the_rectangle_stays_while_the_box_is_pulled_elsewhere(volume) -> None:
    roi = _box(volume)
    assert _rectangles(roi, volume) == ()
    _remember(roi, volume, 10, 8, 30, 24, 6)
    (found,) = _rectangles(roi, volume)
    assert (found.axis, found.index) == (2, 6) and np.allclose(found.rectangle, (10, 8, 30, 24), atol=1e-3)
    size = roi.GetSize()
    roi.SetSize(size[0] * 1.3, size[1], size[2] * 1.4)  # wider and deeper: on that slice the object is what was drawn
    assert np.allclose(_rectangles(roi, volume)[0].rectangle, (10, 8, 30, 24), atol=1e-3)
    roi.SetSize(size[0] * 0.8, size[1], size[2])
    assert _rectangles(roi, volume) == (), "the box holds it no more"


def test_the_rectangle_goes_where_the_box_goes(volume) -> None:
    """Under a transform, and with the volume under the same one."""
    shift = np.eye(4)
    shift[:3, 3] = ijkToWorld(volume)[:3, :3] @ [3, -2, 1]
    roi = _box(volume)
    _remember(roi, volume, 10, 8, 30, 24, 6)
    transform = addTransform(volume.GetScene(), shift)
    roi.SetAndObserveTransformNodeID(transform.GetID())
    (found,) = _rectangles(roi, volume)
    assert found.index == 7 and np.allclose(found.rectangle, (13, 6, 33, 22), atol=1e-3)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    assert np.allclose(_rectangles(roi, volume)[0].rectangle, (10, 8, 30, 24), atol=1e-3)


def test_a_turned_or_foreign_box_has_none(volume) -> None:
    roi = _box(volume)
    _remember(roi, volume, 10, 8, 30, 24, 6)
    toWorld = arrayFromMatrix(roi.GetObjectToWorldMatrix())
    c, s = np.cos(0.2), np.sin(0.2)
    turned = toWorld[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    boxes.setRoi(roi, toWorld[:3, 3], turned * (np.array(roi.GetSize()) / 2))
    assert _rectangles(roi, volume) == ()
    for text in ("", "1 2 3", "a b c d e f", "1 2 3 4 5 nan"):
        other = _box(volume)
        other.SetAttribute(drawn.DRAWN_ATTRIBUTE, text)
        assert _rectangles(other, volume) == ()
    oblique = _box(volume)
    _remember(oblique, volume, 10, 8, 30, 24, 6)
    corners = [float(n) for n in oblique.GetAttribute(drawn.DRAWN_ATTRIBUTE).split()]
    deeper = ijkToWorld(volume)[:3, 2] * 1.5
    oblique.SetAttribute(drawn.DRAWN_ATTRIBUTE, " ".join(map(str, [*corners[:3], *(corners[3:] + deeper)])))
    assert _rectangles(oblique, volume) == (), "its corners lie on no one slice"


def test_pulled_on_its_own_slice_the_rectangle_is_the_boxs_cut(volume) -> None:
    roi = _box(volume)
    _remember(roi, volume, 12, 10, 28, 20, 6)
    toWorld = ijkToWorld(volume)
    view = np.eye(4)
    view[:3, 0], view[:3, 1] = (toWorld[:3, axis] / np.linalg.norm(toWorld[:3, axis]) for axis in (0, 1))
    view[:3, 2] = np.cross(view[:3, 0], view[:3, 1])
    elsewhere, here, across = view.copy(), view.copy(), view[:, [1, 2, 0, 3]].copy()
    for one, k in ((elsewhere, 9), (here, 6.3), (across, 6)):
        one[:3, 3] = (toWorld @ [20, 16, k, 1])[:3]
    drawn.redraw(roi, volume, boxes.boxFromRoi(roi, volume), [elsewhere, across])
    assert np.allclose(_rectangles(roi, volume)[0].rectangle, (12, 10, 28, 20), atol=1e-3)
    drawn.redraw(roi, volume, boxes.boxFromRoi(roi, volume), [elsewhere, here])
    assert np.allclose(_rectangles(roi, volume)[0].rectangle, (*LOW[:2], *HIGH[:2]), atol=1e-3)


def _line(volume, first, second, name="Line"):
    node, toWorld = volume.GetScene().AddNewNodeByClass("vtkMRMLMarkupsLineNode", name), ijkToWorld(volume)
    for end in (first, second):
        node.AddControlPointWorld(*(toWorld @ [*end, 1.0])[:3])
    return node


def test_a_line_gives_a_box_and_its_rectangle(volume) -> None:
    scene, first, second = volume.GetScene(), (12, 20, 5), (34, 18, 5)
    line = _line(volume, first, second)
    unfinished = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode")
    unfinished.AddControlPointWorld(0, 0, 0)
    assert drawn.freeLines(scene) == [line]
    grid_ = drawn._gridOf(volume)
    for across in (None, np.array([[22, 25, 5], [23, 12, 5]])):
        if across is not None:
            _line(volume, *across, name="across")
        center, half, corners = drawn.boxOfLine(line, volume)
        roi = addRoi(scene, center, half)
        drawn.remember(roi, corners)
        expected = box_of_line(np.array([first, second]), across, grid_)
        found = boxes.boxFromRoi(roi, volume)
        low, high = expected.corners_ijk.min(axis=0), expected.corners_ijk.max(axis=0)
        assert np.allclose(found.corners_ijk.min(axis=0), low, atol=1e-3) and np.allclose(
            found.corners_ijk.max(axis=0), high, atol=1e-3
        )
        assert isinstance(found.rectangles[0], SliceRectangle) and found.rectangles[0].index == 5
        assert np.allclose(found.rectangles[0].rectangle, expected.rectangles[0].rectangle, atol=1e-3)
    with pytest.raises(QMedSAMError, match="not on one slice"):
        drawn.boxOfLine(_line(volume, (10, 10, 2), (30, 30, 9), "oblique"), volume)
