"""Grey values to 0..1."""

from __future__ import annotations

import numpy as np
import pytest
from qmedsam import QMedSAMError, Volume
from qmedsam.intensity import Intensity, known_modality, normalise, parse_window


def test_ct_is_windowed_in_hounsfield_units() -> None:
    array = np.linspace(-1000, 1000, 4000).reshape(10, 20, 20).astype(np.int16)
    intensity = Intensity.of(Volume(array), "CT")
    assert (intensity.low, intensity.high) == (-160, 240)  # width 400, level 40
    assert Intensity.of(Volume(array), "CT", (1500, -600)) == Intensity(-1350, 150)


def test_other_modalities_are_clipped_at_percentiles_of_what_is_above_zero() -> None:
    rng = np.random.default_rng(0)
    array = np.zeros((10, 40, 40), np.float32)
    array[3:7] = rng.uniform(100, 1100, (4, 40, 40))
    array[4, 0, 0] = 1e6  # one hot voxel must not darken the rest
    intensity = Intensity.of(Volume(array), "MR")
    assert 90 < intensity.low < 120 and 1080 < intensity.high < 1110
    assert intensity.apply(array)[0].max() == 0


def test_signed_images_keep_their_lower_half() -> None:
    array = np.random.default_rng(0).normal(0, 1, (8, 32, 32))
    assert Intensity.of(Volume(array), "MR").low < -2


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_every_type_gives_the_same_picture(dtype) -> None:
    array = np.arange(200).reshape(2, 10, 10).astype(dtype)
    out = Intensity(50, 150).apply(array)
    assert out.dtype == np.float32
    assert np.allclose(out, np.clip((np.arange(200).reshape(2, 10, 10) - 50) / 100, 0, 1), atol=1e-6)


def test_eight_bit_and_rgb_are_taken_as_they_are() -> None:
    grey = np.random.default_rng(0).integers(20, 90, (1, 16, 16)).astype(np.uint8)
    assert Intensity.of(Volume(grey), "CT") == Intensity(0, 255)
    assert Intensity.of(Volume(np.repeat(grey[..., None], 3, axis=3)), "US") == Intensity(0, 255)


def test_not_finite_values_do_no_harm() -> None:
    array = np.random.default_rng(0).uniform(0, 100, (4, 16, 16))
    array[0, :4] = np.nan
    array[1, 0, 0] = np.inf
    intensity = Intensity.of(Volume(array), "MR")
    assert np.isfinite([intensity.low, intensity.high]).all()
    out = intensity.apply(array)
    assert np.isfinite(out).all() and out[0, 0, 0] == 0 and out[1, 0, 0] == 1


def test_extreme_values_do_not_overflow() -> None:
    array = np.array([-(2**62), 0, 2**62]).reshape(1, 1, 3)
    assert Intensity(-1e18, 1e18).apply(array).tolist() == [[[0.0, 0.5, 1.0]]]


@pytest.mark.parametrize("array,word", [(np.full((2, 4, 4), 7.0), "same value"), (np.full((2, 4, 4), np.nan), "finite")])
def test_images_without_contrast_are_refused(array, word) -> None:
    with pytest.raises(QMedSAMError, match=word):
        Intensity.of(Volume(array), "MR")


def test_a_nearly_binary_image_keeps_its_contrast() -> None:
    array = np.zeros((4, 32, 32), np.int16)
    array[0, 0, 0] = 5
    intensity = Intensity.of(Volume(array), "MR")
    assert intensity.high > intensity.low


def test_modality_names() -> None:
    assert known_modality("mri") == "MR" and known_modality("PT") == "PET" and known_modality("Ultrasound") == "US"
    with pytest.raises(QMedSAMError, match="sonar"):
        known_modality("sonar")


@pytest.mark.parametrize("kind", ["zscore", "minmax", "fixed"])
def test_padding_is_zero_after_normalisation(kind) -> None:
    drawn = np.random.default_rng(0).uniform(0, 1, (8, 8)).astype(np.float32)
    valid = np.ones((8, 8), bool)
    valid[:, 5:] = False
    drawn[~valid] = 0
    out = normalise(drawn, valid, kind, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    assert out.shape == (3, 8, 8) and (out[:, ~valid] == 0).all()
    inner = out[:, valid]
    if kind == "zscore":
        assert abs(inner.mean()) < 1e-5 and inner.std() == pytest.approx(1, abs=1e-4)
    elif kind == "minmax":
        assert inner.min() == 0 and inner.max() == pytest.approx(1)
    else:
        assert np.allclose(inner, (drawn[valid] - 0.4) / 0.2, atol=1e-5)


def test_a_sparse_volume_is_not_missed_by_sampling() -> None:
    array = np.zeros((200, 200, 200), np.int16)
    array[100:104, 101:105, 101:105] = np.arange(64).reshape(4, 4, 4) + 50
    intensity = Intensity.of(Volume(array), "MR")
    assert 50 <= intensity.low < intensity.high <= 113


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_constant_image_with_holes_is_refused(hole) -> None:
    array = np.full((4, 8, 8), 3.0)
    array[0] = hole
    with pytest.raises(QMedSAMError, match="same value"):
        Intensity.of(Volume(array), "MR")


@pytest.mark.parametrize("window", [(400, np.nan), (np.inf, 40), (0, 40), (-5, 40)])
def test_impossible_windows_are_refused(window) -> None:
    with pytest.raises(QMedSAMError, match="window"):
        Intensity.of(Volume(np.arange(64.0).reshape(4, 4, 4)), "CT", window)


def test_dicoms_names_of_x_ray_and_ultrasound_are_known() -> None:
    assert {known_modality(name) for name in ("XA", "RF", "PX", "IO", "CR", "DX", "xa")} == {"XRay"}
    assert known_modality("IVUS") == known_modality("US") == "US"


def test_a_window_that_shows_nothing_is_none() -> None:
    assert parse_window("Bone") == (1800, 400) and parse_window("200,40") == (200, 40)
    for text in ("bones", "0,40", "-5,40", "nan,40", "200", "1,2,3"):
        with pytest.raises(QMedSAMError, match="is not a window"):
            parse_window(text)


def test_a_ct_is_known_by_its_air_and_tissue() -> None:
    from qmedsam.intensity import looks_like_ct

    rng = np.random.default_rng(0)
    ct = rng.normal(40, 30, (10, 60, 60))
    ct[:, :20] = rng.normal(-990, 10, (10, 20, 60))
    ct[:, 20:30] = rng.normal(-100, 20, (10, 10, 60))
    assert looks_like_ct(ct.astype(np.int16)) is True
    lung = ct.copy()
    lung[:, 30:50] = rng.normal(-820, 60, (10, 20, 60))
    padded = np.where(np.mgrid[:10, :60, :60][2] < 15, -3024, ct)
    assert looks_like_ct(lung) is True and looks_like_ct(padded) is True


def test_what_rings_below_zero_is_no_ct() -> None:
    """One voxel of an MR below -500 was enough: everything white, DSC 0.45 in place of 0.9."""
    from qmedsam.intensity import looks_like_ct

    rng = np.random.default_rng(0)
    mr = np.abs(rng.normal(300, 120, (10, 60, 60)))
    mr[4, 5, 6] = -700
    assert looks_like_ct(mr) is False
    assert looks_like_ct(rng.normal(0, 1000, (10, 60, 60))) is None  # a z-score times 1000
    mr[:, :2] = -800  # as much as a CT has of air
    assert looks_like_ct(mr) is None
    assert looks_like_ct(np.full((2, 3, 3), np.nan)) is False


def test_a_doubtful_ct_is_unknown_and_says_so() -> None:
    from qmedsam.choices import resolved_modality

    doubtful = Volume(np.random.default_rng(0).normal(0, 1000, (4, 40, 40)).astype(np.int16))
    messages: list = []
    assert resolved_modality(doubtful, "auto", False, messages) == ""
    assert "below -500" in messages[0] and "percentile" in messages[0]
