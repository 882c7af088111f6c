"""An evaluation whose segmenter is known: truth, ellipse or nothing, so that every number is known too."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace
from typing import Callable, List

import numpy as np
import pytest
from qmedsam import Box, QMedSAMError, Volume
from qmedsam.errors import Cancelled
from qmedsam.evaluation.cases import Case, read_manifest
from qmedsam.evaluation.loop import evaluate
from qmedsam.evaluation.prompts import prompts_of, told
from qmedsam.evaluation.scores import ellipsoid_mask
from shapes import ball

SPACING_3D = (1.0, 1.5, 4.0)


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch) -> None:
    """Drawing is tested elsewhere; at 30 dpi it does not take most of the time here."""
    monkeypatch.setattr("qmedsam.pictures.sheets.DPI", 30)


class FakeSegmenter:
    """Answers every box with ``paint(volume, box)``: a mask of the whole volume, cropped to the box as the real one does."""

    def __init__(self, paint: Callable[[Volume, Box], np.ndarray]) -> None:
        self.paint, self.calls = paint, []

    def segment(self, volume: Volume, boxes: List[Box], **settings) -> SimpleNamespace:
        self.calls.append((volume, boxes, settings))
        objects = []
        for box in boxes:
            _, crop = ellipsoid_mask(box, volume.array_kji.shape[:3])
            objects.append(
                SimpleNamespace(mask_kji_crop=self.paint(volume, box)[crop], crop=crop, confidence=0.7, label=box.label)
            )
        return SimpleNamespace(objects=objects, errors=[], seconds={"total": 3.0, "load": 1.0})


def truth_of(volume: Volume, box: Box) -> np.ndarray:
    return volume.array_kji > 50  # the objects of ``folder`` are bright and far apart


def ellipse_of(volume: Volume, box: Box) -> np.ndarray:
    whole = np.zeros(volume.array_kji.shape[:3], bool)
    mask, crop = ellipsoid_mask(box, whole.shape)
    whole[crop] = mask
    return whole


def nothing(volume: Volume, box: Box) -> np.ndarray:
    return np.zeros(volume.array_kji.shape[:3], bool)


@pytest.fixture
def folder(tmp_path):
    """A manifest of two 2D cases, one 3D case with three objects, one broken file and one whose mask is too small."""
    import SimpleITK as sitk

    def write(name: str, array: np.ndarray, spacing=None) -> None:
        image = sitk.GetImageFromArray(array)
        if spacing:
            image.SetSpacing(spacing)
        sitk.WriteImage(image, str(tmp_path / name))

    def write_2d(name: str, labels: np.ndarray) -> None:
        write(f"{name}_image.png", np.where(labels > 0, 120, 10).astype(np.uint8))
        write(f"{name}_mask.png", labels.astype(np.uint8))

    flat = np.zeros((64, 80), int)
    flat[8:28, 10:40] = 1  # a rectangle: its ellipse has pi / 4 of its area
    flat[40:60, 50:70] = 1
    write_2d("two", flat)
    write_2d("line", flat * 0 + np.pad(np.ones((2, 60), int), ((30, 32), (10, 10))))
    write_2d("tiny", np.pad(np.ones((5, 5), int), ((10, 49), (10, 65))))
    solid = ball((16, 60, 60), (18, 20, 8), (9, 12, 5)).astype(int) + 2 * ball((16, 60, 60), (45, 20, 8), (8, 8, 4))
    solid += ball((16, 60, 60), (30, 48, 7), (7, 6, 5)).astype(int)
    write("solid_image.nii.gz", np.where(solid > 0, 90, 5).astype(np.int16), SPACING_3D)
    write("solid_mask.nii.gz", solid.astype(np.uint8), SPACING_3D)
    (tmp_path / "broken_image.png").write_bytes(b"no picture")
    rows = [
        ("two", "Endoscopy", "2D", "polyps", "png"),
        ("line", "Fundus", "2D", "fives", "png"),
        ("tiny", "Endoscopy", "2D", "polyps", "png"),
        ("solid", "CT", "3D", "organs", "nii.gz"),
        ("broken", "Endoscopy", "2D", "polyps", "png"),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "modality", "dim", "source", "split", "path_image", "path_mask"])
        for name, modality, dim, source, end in rows:
            writer.writerow([name, modality, dim, source, "validation", f"{name}_image.{end}", f"{name}_mask.{end}"])
    return tmp_path


def run(folder, paint=truth_of, **options):
    cases = read_manifest(folder / "manifest.csv")
    segmenter = FakeSegmenter(paint)
    return evaluate(cases, segmenter, folder / "out", **options), segmenter


def rows_of(folder) -> List[dict]:
    with (folder / "out" / "scores.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("prompt", ["volume", "slice"])
def test_the_truth_scores_one_everywhere(folder, prompt) -> None:
    summary, _ = run(folder, prompt=prompt, jitter=0.1)
    rows = rows_of(folder)
    assert [(r["case"], r["label"], r["component"]) for r in rows] == [
        ("two", "1", "1"), ("two", "1", "2"), ("line", "1", "1"), ("solid", "1", "1"), ("solid", "1", "2"), ("solid", "2", "1"),
    ]  # fmt: skip
    assert all(float(r["dsc"]) == float(r["nsd"]) == 1 for r in rows)
    assert summary["headline"] == prompt and set(summary) >= {prompt, "picture"}
    for kind in (prompt, "picture"):
        assert summary[kind]["mean"]["dsc"] == summary[kind]["mean"]["nsd"] == 1
    assert summary["picture"]["mean_all"]["dsc_interval"] == pytest.approx([1, 1])
    assert [r["kind"] for r in rows] == ["picture"] * 3 + [prompt] * 3


def test_an_object_beside_the_target_counts_against_the_prediction(folder) -> None:
    """Scored against the component alone: the neighbour of the same label in the prediction is an error."""

    def both_of_case_two(volume: Volume, box: Box) -> np.ndarray:
        return truth_of(volume, box)

    cases = [c for c in read_manifest(folder / "manifest.csv") if c.case_id == "two"]
    wide = FakeSegmenter(both_of_case_two)
    found = wide.segment

    def whole_picture(volume, boxes, **settings):
        result = found(volume, boxes, **settings)
        for o in result.objects:
            o.crop, o.mask_kji_crop = tuple(slice(0, n) for n in volume.array_kji.shape), volume.array_kji > 50
        return result

    wide.segment = whole_picture
    evaluate(cases, wide, folder / "out")
    first, second = rows_of(folder)
    assert float(first["dsc"]) == pytest.approx(2 * 600 / (600 + 1000), abs=1e-5)
    assert float(second["dsc"]) == pytest.approx(2 * 400 / (400 + 1000), abs=1e-5)


def test_the_ellipse_is_worth_what_it_is(folder) -> None:
    summary, _ = run(folder, ellipse_of)
    rows = rows_of(folder)
    assert all(r["dsc"] == r["ellipse_dsc"] for r in rows)
    share = np.pi / 4
    assert float(rows[0]["dsc"]) == pytest.approx(2 * share / (1 + share), abs=0.01)
    assert all(float(r["dsc"]) > 0.85 for r in rows[3:])  # ellipsoids, half a voxel smaller than their boxes
    assert summary["volume"]["mean"]["gain"] == summary["picture"]["mean"]["gain"] == 0


def test_an_empty_prediction_scores_zero(folder) -> None:
    summary, _ = run(folder, nothing)
    for mean in (summary["volume"]["mean"], summary["picture"]["mean"]):
        assert mean["dsc"] == mean["nsd"] == 0
        assert mean["gain"] == pytest.approx(-mean["ellipse_dsc"])


def test_all_boxes_of_a_case_go_in_one_call_with_the_settings(folder) -> None:
    _, segmenter = run(folder, strategy="fixed", frame="slice")
    assert [len(boxes) for _, boxes, _ in segmenter.calls] == [2, 1, 3]
    for volume, boxes, settings in segmenter.calls:
        assert [box.label for box in boxes] == list(range(1, len(boxes) + 1))
        assert settings["modality"] == volume.modality
        assert (settings["strategy"], settings["frame"], settings["keep_masks"]) == ("fixed", "slice", True)
    assert {r["seconds"] for r in rows_of(folder)} == {"1.0", "2.0", "0.66667"}  # shared; loading left out


def test_nsd_is_in_millimetres_in_3d_and_in_pixels_in_2d(folder) -> None:
    def shifted(volume: Volume, box: Box) -> np.ndarray:
        return np.roll(truth_of(volume, box), 1, axis=0 if volume.array_kji.shape[0] > 1 else 2)

    run(folder, shifted, jitter=1.0)
    rows = rows_of(folder)
    assert all(float(r["nsd"]) == 1 for r in rows[:3])  # one pixel off, tolerance 2
    assert all(float(r["nsd"]) < 0.97 for r in rows[3:])  # one slice off is 4 mm


def test_broken_and_too_small_cases_are_listed_and_do_not_stop_the_run(folder) -> None:
    summary, _ = run(folder)
    (failure,) = summary["failed"]
    assert failure["case"] == "broken" and "broken_image.png" in failure["reason"]
    assert summary["without_prompt"] == ["tiny"]
    page = (folder / "out" / "summary.md").read_text()
    assert "broken_image.png" in page and "tiny" in page


def test_unpromptable_sources_are_reported_apart(folder) -> None:
    summary, _ = run(folder, lambda v, b: ellipse_of(v, b) if v.name == "line" else truth_of(v, b))
    pictures = summary["picture"]
    assert pictures["mean"]["dsc"] == 1 and pictures["mean"]["sources"] == 1
    assert pictures["mean_all"]["sources"] == 2 and pictures["mean_all"]["dsc"] < 1
    assert [m["modality"] for m in pictures["modalities"]] == ["Endoscopy"]
    assert [s["source"] for s in pictures["sources"] if not s["promptable"]] == ["fives"]


def test_four_files_are_written_and_nothing_else(folder) -> None:
    summary, _ = run(folder, about={"model": "fake"})
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["scores.csv", "sheet.png", "summary.json", "summary.md"]
    stored = json.loads((folder / "out" / "summary.json").read_text())
    assert stored["settings"]["model"] == "fake"
    assert stored["volume"]["mean"]["dsc"] == summary["volume"]["mean"]["dsc"]
    assert (folder / "out" / "sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_a_sheet_that_cannot_be_drawn_costs_no_numbers(folder, monkeypatch) -> None:
    def fail(*arguments) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr("qmedsam.evaluation.loop.sheet_png", fail)
    with pytest.raises(ValueError, match="no picture"):
        run(folder)
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["scores.csv", "summary.json", "summary.md"]


def test_progress_and_cancelling(folder) -> None:
    steps: list = []
    run(folder, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(n, 5) for n in range(6)]
    with pytest.raises(Cancelled):
        evaluate(read_manifest(folder / "manifest.csv"), FakeSegmenter(truth_of), folder / "no", cancelled=lambda: len(steps) > 0)
    assert not any((folder / "no").iterdir())


def test_wrong_options_and_hopeless_manifests_are_mendable_errors(folder) -> None:
    cases = read_manifest(folder / "manifest.csv")
    wrong = ({"oracle": "seer"}, {"oracle": "extent", "prompt": "slice"}, {"oracle": "presence", "official": True})
    for options in ({"prompt": "point"}, {"jitter": -0.3}, {"jitter": 2}, *wrong):
        with pytest.raises(QMedSAMError):
            evaluate(cases, FakeSegmenter(truth_of), folder / "out", **options)
    with pytest.raises(QMedSAMError, match="broken_image"):
        evaluate([c for c in cases if c.case_id == "broken"], FakeSegmenter(truth_of), folder / "out")
    with pytest.raises(QMedSAMError):
        evaluate(cases, FakeSegmenter(truth_of), folder / "manifest.csv")


def filled(volume: Volume, box: Box) -> np.ndarray:
    """The whole box: what a network answers that knows nothing but its prompt."""
    low, high = box.corners_ijk.min(axis=0), box.corners_ijk.max(axis=0)
    whole = np.zeros(volume.array_kji.shape[:3], bool)
    whole[tuple(slice(int(np.ceil(a)), int(np.floor(b)) + 1) for a, b in zip(low[::-1], high[::-1]))] = True
    return whole


def test_oracles_tell_of_every_slice_what_they_say_they_do(folder) -> None:
    """A segmenter that fills its prompts: the box alone < presence (equal here) < the own rectangle of every slice."""
    found = {}
    for oracle in (None, "presence", "extent"):
        summary, segmenter = run(folder, filled, oracle=oracle)
        found[oracle] = summary["volume"]["mean"]["dsc"]
        assert summary["picture"]["mean"]["dsc"] == pytest.approx(1)  # rectangles; an oracle says nothing of pictures
        if oracle:
            assert {s["strategy"] for _, _, s in segmenter.calls if s["modality"] == "CT"} == {"fixed"}
            assert oracle in (folder / "out" / "summary.md").read_text()
    assert found["presence"] == pytest.approx(found[None]) and found["extent"] > found[None] + 0.1
    assert all(float(r["confidence"]) == pytest.approx(0.7) for r in rows_of(folder))


def test_an_oracle_needs_volumes(folder) -> None:
    pictures = [c for c in read_manifest(folder / "manifest.csv") if not c.is_3d]
    with pytest.raises(QMedSAMError, match="pictures"):
        evaluate(pictures, FakeSegmenter(truth_of), folder / "out", oracle="extent")


def test_an_oracle_knows_the_gap_in_an_object_and_its_extent_on_every_slice() -> None:
    """A horseshoe: two columns that meet in slice 2; slices 6 and 7 belong to another object of the same label."""
    labels = np.zeros((12, 40, 40), int)
    labels[2, 10:20, 5:35] = labels[3:6, 10:20, 5:12] = labels[3:8, 10:20, 28:35] = 1
    (prompt,) = prompts_of(case(), labels, jitter=0.0)
    extent = told(case(), prompt, labels.shape, "extent")
    assert [edges(SimpleNamespace(box=b))[:, 2].tolist() for b in extent] == [[k - 0.5, k + 0.5] for k in range(2, 8)]
    assert [edges(SimpleNamespace(box=b))[:, 0].tolist() for b in extent] == [[4.5, 34.5]] * 4 + [[27.5, 34.5]] * 2
    presence = told(case(), prompt, labels.shape, "presence")
    assert {tuple(edges(SimpleNamespace(box=b))[:, 0]) for b in presence} == {(4.5, 34.5)}
    loose = [edges(SimpleNamespace(box=b)) for b in told(case(), prompt, labels.shape, "extent", 0.1)]
    moved = [(edges(SimpleNamespace(box=t)) - m) * [[1], [-1]] for t, m in zip(extent, loose)]
    assert all((m >= 0).all() and (m[:, 2] == 0).all() and m.max() <= 3 for m in moved)
    assert len({round(float(m[0, 0]), 6) for m in moved}) == 6  # every slice is drawn anew


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_manifest_may_come_from_a_spreadsheet(tmp_path, separator) -> None:
    rows = ["Case_ID , modality,dim,source,split,path_image,path_mask", " a,CT ,3D,s,t,a.nii.gz,m.nii.gz,beyond", ",,,,,,"]
    text = "\n".join(rows).replace(",", separator)
    (tmp_path / "m.csv").write_text("\ufeff" + text, encoding="utf-8")
    (found,) = read_manifest(tmp_path / "m.csv")
    assert (found.case_id, found.modality, found.image, found.mask) == ("a", "CT", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")


@pytest.mark.parametrize(
    "content,said",
    [
        (b"a,CT,3D", "Line 2 of 'm.csv' has no path_image"),
        (b"l\xe9sion,CT,3D,s,t,a.nii.gz,m.nii.gz", "not a text in UTF-8"),
        (b"x" * 200_000, "not a CSV"),
    ],
)
def test_a_bad_manifest_is_a_sentence(tmp_path, content: bytes, said: str) -> None:
    (tmp_path / "m.csv").write_bytes(b"case_id,modality,dim,source,split,path_image,path_mask\n" + content)
    with pytest.raises(QMedSAMError, match=said):
        read_manifest(tmp_path / "m.csv")


# --- prompts -------------------------------------------------------------------------------------------------------------


def case(name: str = "a", is_3d: bool = True) -> Case:
    return Case(name, "CT", is_3d, "s", "", name, None, None)  # type: ignore[arg-type]


def edges(prompt) -> np.ndarray:
    corners = prompt.box.corners_ijk
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


LABELS = ball((16, 60, 60), (18, 20, 8), (9, 12, 5)).astype(int) + 2 * ball((16, 60, 60), (45, 20, 8), (8, 8, 4))


def test_prompts_are_tight() -> None:
    first, second = prompts_of(case(), LABELS)
    np.testing.assert_array_equal(edges(first), [[8.5, 7.5, 2.5], [27.5, 32.5, 13.5]])
    assert (first.label, second.label) == (1, 2)
    assert (first.truth == (LABELS == 1)[first.crop]).all()
    assert first.truth.sum() == (LABELS == 1).sum()


def test_slice_prompts_lie_on_the_largest_axial_slice() -> None:
    (prompt, _) = prompts_of(case(), LABELS, "slice", 0.2)
    assert prompt.crop[0] == slice(8, 9)
    low, high = edges(prompt)
    assert (low[2], high[2]) == (7.5, 8.5)  # the jitter stays in the plane
    assert prompt.truth.sum() == (LABELS[8] == 1).sum()


@pytest.mark.parametrize("prompt", ["volume", "slice"])
def test_jitter_moves_outward_by_at_most_its_share_and_depends_on_the_object_alone(prompt) -> None:
    tight, loose = (prompts_of(case(), LABELS, prompt, jitter) for jitter in (0, 0.2))
    again, elsewhere = prompts_of(case(), LABELS, prompt, 0.2), prompts_of(case("b"), LABELS, prompt, 0.2)
    for t, m, same, other in zip(tight, loose, again, elsewhere):
        moved = (edges(m) - edges(t)) * [[-1], [1]] / (edges(t)[1] - edges(t)[0])
        assert (moved >= 0).all() and (moved <= 0.2 + 1e-12).all() and moved.max() > 0.02
        np.testing.assert_array_equal(edges(m), edges(same))
        assert (edges(m) != edges(other)).any()
    alone = prompts_of(case(), np.where(LABELS == 2, 2, 0), prompt, 0.2)  # the other object is gone
    np.testing.assert_array_equal(edges(alone[0]), edges(loose[1]))
    assert len({round(float(x), 6) for x in (edges(loose[0]) - edges(tight[0])).ravel()[:2]}) == 2


@pytest.mark.parametrize("prompt", ["volume", "slice"])
def test_negative_jitter_moves_inward(prompt) -> None:
    tight, cut = (prompts_of(case(), LABELS, prompt, jitter) for jitter in (0, -0.1))
    for a, b in zip(tight, cut):
        ratio = np.ptp(b.box.corners_ijk, axis=0) / np.ptp(a.box.corners_ijk, axis=0)
        assert (ratio <= 1).all() and (ratio >= 0.8).all() and ratio[0] < 1


def test_jitter_stops_at_the_images_border() -> None:
    labels = np.zeros((1, 40, 40), int)
    labels[0, :30, :30] = 1
    (prompt,) = prompts_of(case(is_3d=False), labels, jitter=1.0)
    low, high = edges(prompt)
    np.testing.assert_array_equal(low, [-0.5, -0.5, -0.5])
    assert (high <= [39.5, 39.5, 0.5]).all() and high[2] == 0.5


def test_a_case_with_a_box_that_cannot_be_segmented_is_listed_and_not_scored(folder) -> None:
    """A mean over the others would be too good."""

    class OneBad(FakeSegmenter):
        def segment(self, volume: Volume, boxes: List[Box], **settings) -> SimpleNamespace:
            result = super().segment(volume, boxes, **settings)
            result.errors = ["The box 'x' lies outside the image."]
            return result

    cases = read_manifest(folder / "manifest.csv")
    with pytest.raises(QMedSAMError, match=r"Not one of .* lies outside"):
        evaluate(cases, OneBad(truth_of), folder / "out")
