"""``qmedsam.segment`` in one line: what it takes, and what its result shows and saves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import qmedsam
from qmedsam import Box, QMedSAMError, Segmenter
from qmedsam.files import read_labels, write_boxes
from qmedsam.network.fake import FakeNetwork
from shapes import ball

TRUTH = ball((12, 60, 70), (36, 30, 6), (16, 14, 5))
ARRAY = (np.random.default_rng(0).normal(20, 10, TRUTH.shape) + 100 * TRUTH).astype(np.float32)
NUMBERS = [19, 15, 1, 53, 45, 11]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmedsam.notebook._segmenters", {(None, 0): Segmenter(network=FakeNetwork())})


def test_every_kind_of_boxes_is_taken(tmp_path: Path) -> None:
    box = Box.from_voxels(NUMBERS[:3], NUMBERS[3:])
    volume = qmedsam.Volume(ARRAY, modality="MR")
    write_boxes(tmp_path / "b.mrk.json", [box], volume)
    given = (NUMBERS, tuple(NUMBERS), np.array(NUMBERS), np.array([NUMBERS]), [NUMBERS], box, [box], tmp_path / "b.mrk.json")
    results = [qmedsam.segment(volume, boxes) for boxes in given]
    assert all(np.array_equal(r.labels_kji, results[0].labels_kji) for r in results) and results[0].labels_kji.any()
    assert len(qmedsam.segment(volume, [NUMBERS, box]).objects) == 2
    for wrong in ([1, 2, 3], [], "nothing.json", [[1, 2, 3, 4, 5, "x"]], [19, 53, 15, 45, 1, 11]):
        with pytest.raises(QMedSAMError):
            qmedsam.segment(volume, wrong)


def test_an_array_has_the_spacing_that_it_is_given(tmp_path: Path) -> None:
    result = qmedsam.segment(ARRAY, NUMBERS, spacing=(0.5, 0.5, 4), modality="MR")
    (found,) = result.objects
    assert found.volume_ml == pytest.approx(found.voxels / 1000)
    path = result.save(tmp_path / "mask.seg.nrrd")
    np.testing.assert_array_equal(read_labels(path), result.labels_kji)
    sitk = pytest.importorskip("SimpleITK")
    assert sitk.ReadImage(str(path)).GetSpacing() == pytest.approx((0.5, 0.5, 4))
    plain = qmedsam.segment(ARRAY, NUMBERS, modality="MR")
    assert plain.objects[0].diameters is None and "ml" not in repr(plain) and " ml)" in repr(result), "no length was told"
    for wrong in ((1, 1), (1, 1, 0), (1, 1, 1, 1)):
        with pytest.raises(QMedSAMError, match="spacing"):
            qmedsam.segment(ARRAY, NUMBERS, spacing=wrong)
    with pytest.raises(QMedSAMError, match="no image"):
        qmedsam.segment(np.zeros((2, 2, 2, 2, 2)), NUMBERS)


def test_a_slice_and_a_picture_take_a_flat_box() -> None:
    flat = qmedsam.segment(ARRAY[6], NUMBERS[:2] + NUMBERS[3:5])
    assert flat.labels_kji.shape == (1, 60, 70) and "ml" not in repr(flat)
    colour = np.repeat(np.clip(ARRAY[6], 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    assert qmedsam.segment(colour, [[19, 15, 53, 45]]).labels_kji.shape == (1, 60, 70)
    with pytest.raises(QMedSAMError, match="12 slices"):
        qmedsam.segment(ARRAY, [19, 15, 53, 45])


def test_files_are_read_and_the_result_can_be_looked_at(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(tmp_path / "mr.nii.gz"))
    result = qmedsam.segment(
        str(tmp_path / "mr.nii.gz"), [Box.from_voxels(NUMBERS[:3], NUMBERS[3:], name="liver")], modality="MR"
    )
    text = repr(result)
    assert len(text) < 400 and "liver" in text and "70 x 60 x 12" in text and "array" not in text
    assert (result._repr_png_() or b"")[:4] == b"\x89PNG"
    assert result.save_overlay(tmp_path / "look.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(QMedSAMError, match="PNG"):
        result.save_overlay(tmp_path / "look.jpg")
    with pytest.raises(QMedSAMError, match="spacing"):
        qmedsam.segment(tmp_path / "mr.nii.gz", NUMBERS, spacing=(1, 1, 1))


def test_a_result_without_its_image_is_described_alone() -> None:
    result = Segmenter(network=FakeNetwork()).segment(qmedsam.Volume(ARRAY), [Box.from_voxels(NUMBERS[:3], NUMBERS[3:])])
    assert "Segment_1" in repr(result) and len(repr(result)) < 400 and not hasattr(result, "save")
