"""The challenge's scoring with its mistakes, and without."""

from __future__ import annotations

import numpy as np
import pytest
from qmedsam.evaluation.official import official_csv, official_markdown, official_score
from qmedsam.evaluation.scores import dsc, nsd

SPACING = (0.5, 0.5, 6.0)  # x y z, as ITK gives it and the files store it


def boxes(shape=(20, 24, 28)):
    """Two objects; the prediction of the first is one slice off, of the second right."""
    truth, found = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[5:11, 4:14, 4:14] = 1
    found[6:12, 4:14, 4:14] = 1
    truth[14:18, 16:22, 18:26] = found[14:18, 16:22, 18:26] = 2
    return truth, found


def test_a_slice_off_is_forgiven_by_the_swapped_spacing_only() -> None:
    """One slice is 6 mm off; read as x it is 0.5 mm, within the tolerance of 2 mm."""
    truth, found = boxes()
    score = official_score("a", "CT", "s", truth, found, SPACING, True)
    expected = [dsc(truth == n, found == n) for n in (1, 2)]
    assert score.official_dsc == score.dsc == pytest.approx(np.mean(expected))
    wrong = [nsd(truth == n, found == n, SPACING, 2.0) for n in (1, 2)]
    right = [nsd(truth == n, found == n, SPACING[::-1], 2.0) for n in (1, 2)]
    assert score.official_nsd == pytest.approx(np.mean(wrong)) and score.official_nsd == 1.0
    assert score.nsd == pytest.approx(np.mean(right)) and score.nsd < 0.95


def test_a_bad_case_gets_no_official_nsd() -> None:
    truth, found = boxes()
    found[:] = 0
    found[5, 4:14, 4:14] = 1
    found[14:15, 16:20, 18:21] = 2
    score = official_score("a", "CT", "s", truth, found, SPACING, True)
    assert score.official_dsc == pytest.approx((2 * 100 / 700 + 2 * 12 / 204) / 2) and score.official_nsd > 0
    found[14:15, 16:18] = 0
    score = official_score("a", "CT", "s", truth, found, SPACING, True)
    assert 0 < score.official_dsc < 0.2 and score.official_nsd == 0 < score.nsd


def test_a_label_that_nobody_has_poisons_the_official_mean() -> None:
    truth, found = boxes()
    truth[truth == 2], found[found == 2] = 5, 5
    score = official_score("a", "CT", "s", truth, found, SPACING, True)
    assert np.isnan(score.official_dsc) and score.official_nsd == 0
    assert score.dsc == pytest.approx((dsc(truth == 1, found == 1) + 1) / 2) and score.nsd > 0


def test_a_picture_is_scored_as_a_slab() -> None:
    """A disc and one 6 pixels larger: no border of one lies within 2 pixels of the other's, most of the area does."""
    y, x = np.mgrid[-30:31, -30:31]
    truth, found = ((x**2 + y**2 <= r**2).astype(np.uint8)[None] for r in (20, 26))
    score = official_score("a", "US", "s", truth, found, (9, 9, 9), False)
    assert score.nsd == 0 and score.official_nsd > 0.6


def test_tables() -> None:
    truth, found = boxes()
    rows = [official_score(f"c{n}", m, "s", truth, found, SPACING, True) for n, m in enumerate(("CT", "CT", "MR"))]
    lines = official_csv(rows).splitlines()
    assert lines[0].startswith("case,kind,modality,source,labels,official_dsc") and len(lines) == 4
    text = official_markdown(rows)
    assert "| CT | 2 |" in text and "| MR | 1 |" in text and "| mean of modalities | 3 |" in text


def test_volumes_and_pictures_have_tables_of_their_own() -> None:
    truth, found = boxes()
    rows = [
        official_score(n, "MR", "s", truth[k], found[k], SPACING, d)
        for n, k, d in (("v", np.s_[:], True), ("p", np.s_[6:7], False))
    ]
    text = official_markdown(rows)
    assert "| volumes of modality" in text and "| pictures of modality" in text and text.count("| MR | 1 |") == 2
