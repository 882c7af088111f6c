"""Simulated corrections: where the clicks lie, and what becomes of the scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from qmedsam import QMedSAMError, Segmenter, Volume
from qmedsam.evaluation.cases import Case, read_manifest
from qmedsam.evaluation.corrections import next_click
from qmedsam.evaluation.loop import evaluate
from qmedsam.evaluation.prompts import prompts_of
from qmedsam.files import write_image
from qmedsam.lines import box_of_line
from qmedsam.measures import diameters
from qmedsam.network.fake import FakeNetwork
from shapes import ball


def test_a_click_lies_deepest_in_the_largest_error_of_the_worst_slice() -> None:
    truth, found = np.zeros((4, 30, 40), bool), np.zeros((4, 30, 40), bool)
    truth[2, 5:16, 10:21] = True  # 11 x 11 missing
    found[2, 20:25, 30:36] = True  # 30 too many on the same slice
    found[0, 0:9, 0:9] = True  # less on another
    stroke = next_click(found, truth)
    assert stroke is not None and stroke.points_ijk.tolist() == [[15, 10, 2]] and stroke.adds
    found |= truth
    stroke = next_click(found, truth)
    assert stroke is not None and stroke.points_ijk.tolist() == [[4, 4, 0]] and not stroke.adds
    assert next_click(truth, truth) is None


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    rows = ["image,mask,modality,dim,source"]
    random = np.random.default_rng(0)
    for n, name in enumerate(("one", "two")):
        truth = ball((9, 40, 44), (20 + n, 19, 4), (12, 10, 4))
        image = np.where(truth, 100, 20) + random.normal(0, 4, truth.shape)
        image[3:6, 19:24, 26:30] = 20  # a dark part of the object, which the network does not see
        write_image(tmp_path / f"{name}.nii.gz", image.astype(np.int16), Volume(truth.astype(np.int16)))
        write_image(tmp_path / f"{name}_mask.nii.gz", truth.astype(np.uint8), Volume(truth.astype(np.int16)))
        rows.append(f"{name}.nii.gz,{name}_mask.nii.gz,MR,3D,{name}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    return read_manifest(tmp_path / "cases.csv")


@pytest.mark.parametrize("prompt", ["volume", "slice"])
def test_scores_after_every_click_stand_beside_those_of_the_box(tmp_path: Path, cases: list[Case], prompt: str) -> None:
    out = tmp_path / "out"
    evaluate(cases, Segmenter(network=FakeNetwork()), out, prompt=prompt, clicks=3)
    with (out / "clicks.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (out / "scores.csv").open() as file:
        plain = {row["case"]: float(row["dsc"]) for row in csv.DictReader(file)}
    assert len(rows) == 2 * 4 and {row["kind"] for row in rows} == {prompt}
    for case, score in plain.items():
        own = [float(row["dsc"]) for row in rows if row["case"] == case]
        assert own[0] == pytest.approx(score, abs=1e-4)
        # this network does not listen: every click changes its own voxel alone, and for the better
        assert all(later > earlier for earlier, later in zip(own, own[1:]))
    text = (out / "summary.md").read_text()
    assert "Corrected by simulated clicks" in text and "3 clicks" in text and "none." in text


def test_clicks_and_oracles_are_not_mixed(tmp_path: Path, cases: list[Case]) -> None:
    with pytest.raises(QMedSAMError, match="cannot be simulated"):
        evaluate(cases, Segmenter(network=FakeNetwork()), tmp_path / "out", clicks=2, oracle="extent")
    with pytest.raises(QMedSAMError, match="cannot be simulated"):
        evaluate(cases, Segmenter(network=FakeNetwork()), tmp_path / "out", clicks=-1)


def test_the_prompts_line_and_lines_are_the_axes_that_a_reader_would_draw(cases: list[Case]) -> None:
    volume, labels = cases[0].load()
    (tight,) = prompts_of(cases[0], labels, "volume")
    (loose,), (long,), (both,) = (
        prompts_of(cases[0], labels, kind, jitter, volume=volume)
        for kind, jitter in (("line", 0.2), ("line", 0.0), ("lines", 0.0))
    )
    size = diameters(tight.truth, volume.ijk_to_ras, [part.start for part in tight.crop])
    assert size is not None
    for found, lines in ((long, (size.long_ijk, None)), (both, (size.long_ijk, size.short_ijk))):
        expected = box_of_line(*lines, volume)
        assert np.allclose(found.box.corners_ijk, expected.corners_ijk) and found.box.rectangles == expected.rectangles
        assert (found.box.label, found.box.name) == (1, "1.1")
    assert loose.box.volume_voxels > long.box.volume_voxels
    assert np.array_equal(long.truth, tight.truth) and long.crop == tight.crop


def test_the_prompt_rectangle_is_the_3d_box_with_the_objects_rectangle_on_its_largest_slice(cases: list[Case]) -> None:
    _, labels = cases[0].load()
    (whole,), (both,), (flat,) = (prompts_of(cases[0], labels, kind, 0.05) for kind in ("volume", "rectangle", "slice"))
    assert np.array_equal(whole.box.corners_ijk, both.box.corners_ijk) and not whole.box.rectangles
    (drawn,) = both.box.rectangles
    (x0, _, _), _ = (flat.box.corners_ijk.min(axis=0), flat.box.corners_ijk.max(axis=0))
    assert drawn.index == flat.crop[0].start and drawn.axis == 2
    a0, b0, a1, b1 = drawn.rectangle
    tight = [flat.crop[2].start - 0.5, flat.crop[1].start - 0.5, flat.crop[2].stop - 0.5, flat.crop[1].stop - 0.5]
    assert a0 <= tight[0] and b0 <= tight[1] and a1 >= tight[2] and b1 >= tight[3]
    assert a1 - a0 <= 1.1 * (tight[2] - tight[0]) + 1e-9 and abs(a0 - x0) <= 0.05 * (tight[2] - tight[0]) + 1e-9


class TwoAnswers(FakeNetwork):
    """Surer of nothing than of the object."""

    def decode(self, embedding, boxes_uv, hints=None, kinds=None):
        logits, sure = super().decode(embedding, boxes_uv)
        nothing = np.full_like(logits, -4)
        return np.concatenate([logits, nothing], axis=1), np.concatenate([0 * sure + 0.3, 0 * sure + 0.6], axis=1)


def test_the_best_of_the_answers_stands_beside_the_surest(tmp_path: Path, cases: list[Case]) -> None:
    out = tmp_path / "out"
    evaluate(cases, Segmenter(network=TwoAnswers()), out, prompt="slice", candidates=True)
    with (out / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 and all(float(row["dsc"]) == 0 for row in rows if row["candidate"] == "0")
    assert all(float(row["dsc"]) > 0.8 for row in rows if row["candidate"] == "1")
    line = next(line for line in (out / "summary.md").read_text().splitlines() if line.startswith("| DSC, mean over promptable"))
    surest, second, third, best = (float(cell) for cell in line.strip(" |").split("|")[2:])
    assert surest == 0 and best == second > 0.8 and third == second, "a network with two answers gives its last for the third"
    with pytest.raises(QMedSAMError, match="leaves nothing to choose"):
        evaluate(cases, Segmenter(network=TwoAnswers()), out, oracle="extent", candidates=True)
