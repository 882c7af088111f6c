"""The phantoms are what they say: known truth, stated contrast and geometry, the same bytes for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from qmedsam.files import read_boxes, read_labels, read_volume
from qmedsam.geometry import View
from qmedsam.phantom import ORGANS, abdomen_phantom, ellipsoid_phantom, write_sample

pytestmark = pytest.mark.slow  # a whole abdomen is made twice


@pytest.fixture(scope="module")
def abdomen():
    return abdomen_phantom(seed=0)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"))


def test_the_abdomen_is_an_oblique_anisotropic_ct(abdomen) -> None:
    volume = abdomen.volume
    assert volume.array_kji.dtype == np.int16
    np.testing.assert_allclose(volume.spacing_mm, [2, 2, 4])
    direction = volume.ijk_to_ras[:3, :3] / volume.spacing_mm
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    tilt = np.degrees(np.arccos(direction[2, 2]))
    assert tilt == pytest.approx(12, abs=0.1)
    assert direction[0, 0] < -0.9  # i runs to the patient's left, as in DICOM
    assert direction[1, 1] < -0.9


def test_organs_have_the_hu_of_a_portal_venous_ct(abdomen) -> None:
    mean = {ORGANS[n][0]: abdomen.volume.array_kji[abdomen.labels_kji == n].mean() for n in ORGANS}
    assert 95 < mean["liver"] < 120
    assert 105 < mean["spleen"] < 130
    assert 140 < mean["right kidney"] < 200
    assert 140 < mean["left kidney"] < 200
    assert 150 < mean["aorta"] < 190
    assert 45 < mean["liver lesion"] < 85
    outside = abdomen.volume.array_kji[:, 0, 0]
    assert outside.mean() < -950


def test_noise_in_the_spleen_is_that_of_a_scan(abdomen) -> None:
    from scipy.ndimage import binary_erosion

    spleen = binary_erosion(abdomen.labels_kji == 2, iterations=2)
    assert 8 < abdomen.volume.array_kji[spleen].std() < 20


def test_every_organ_is_one_piece_within_the_volume(abdomen) -> None:
    from scipy.ndimage import label

    for value in (1, 3, 4, 6):
        truth = abdomen.truth_kji(value)
        _, pieces = label(truth, np.ones((3, 3, 3)))
        assert pieces == 1, ORGANS[value][0]
        assert not truth[0].any() and not truth[-1].any(), ORGANS[value][0]


def test_the_liver_contains_its_lesion(abdomen) -> None:
    assert (abdomen.truth_kji(1) & abdomen.truth_kji(6)).sum() == (abdomen.labels_kji == 6).sum() > 1000
    assert not (abdomen.truth_kji(1) & abdomen.truth_kji(2)).any()


def test_boxes_hold_their_organs_with_a_few_percent_to_spare(abdomen) -> None:
    for box in abdomen.boxes:
        truth = abdomen.truth_kji(box.label)
        voxels = np.argwhere(truth)[:, ::-1]
        local = np.abs((voxels - box.center_ijk) @ np.linalg.inv(box.half_axes_ijk).T)
        assert local.max() <= 1, box.name
        assert local.max(axis=0).min() > 0.8, box.name  # not larger than needed along any axis
        assert box.name == abdomen.names[box.label]


def test_some_boxes_are_turned_against_the_voxel_grid(abdomen) -> None:
    turned = [box.name for box in abdomen.boxes if np.abs(box.half_axes_ijk - np.diag(np.diag(box.half_axes_ijk))).max() > 1]
    assert turned == ["right kidney", "left kidney", "aorta"]
    view = View.of(abdomen.volume, 2)
    kidney = abdomen.boxes[2]
    low, high = (kidney.cut(view, k) for k in (8, 22))
    assert abs(low[0] - high[0]) > 2  # its rectangle moves from slice to slice


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(abdomen, sample) -> None:
    stored = read_volume(sample[0])  # written by a second call with the same seed
    np.testing.assert_array_equal(stored.array_kji, abdomen.volume.array_kji)
    one, same, other = (ellipsoid_phantom(seed=s).volume.array_kji for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.9


def test_the_sample_reads_back_as_it_was(abdomen, sample) -> None:
    image, truth, boxes = sample
    assert image.stat().st_size < 1_000_000
    volume = read_volume(image)
    np.testing.assert_allclose(volume.ijk_to_ras, abdomen.volume.ijk_to_ras, atol=1e-6)
    np.testing.assert_array_equal(read_labels(truth), abdomen.labels_kji)
    for found, drawn in zip(read_boxes(boxes, volume), abdomen.boxes):
        np.testing.assert_allclose(found.corners_ijk, drawn.corners_ijk, atol=1e-4)
        assert (found.name, found.label) == (drawn.name, drawn.label)


@pytest.mark.parametrize("turn", [(0, 0, 0), (20, -35, 10)])
def test_the_ellipsoid_has_the_volume_contrast_and_place_asked_for(turn) -> None:
    phantom = ellipsoid_phantom((40, 60, 60), (1, 1.5, 2), (30, 25, 18), (20, 15, 24), contrast=80, noise=5, turn=turn)
    inside = phantom.truth_kji(1)
    assert inside.sum() * 3 == pytest.approx(4 / 3 * np.pi * 20 * 15 * 24, rel=0.01)
    np.testing.assert_allclose(np.argwhere(inside).mean(axis=0)[::-1], (30, 25, 18), atol=0.05)
    values = phantom.volume.array_kji
    assert values[inside].mean() - values[~inside].mean() == pytest.approx(80, abs=0.5)
    assert values[~inside].std() == pytest.approx(5, rel=0.02)
    np.testing.assert_allclose(phantom.volume.spacing_mm, (1, 1.5, 2))
    box = phantom.boxes[0]
    np.testing.assert_allclose(np.diag(box.half_axes_ijk), [20.5 * 1.08, 10.5 * 1.08, 12.5 * 1.08], rtol=0.03)
    np.testing.assert_allclose(box.half_axes_ijk, np.diag(np.diag(box.half_axes_ijk)), atol=1e-9)
