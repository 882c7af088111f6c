"""``qmedsam-train teach``: cases of one's own to a model that is better at them, honestly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("brevitas")

import torch
from qmedsam import QMedSAMError
from qmedsam_training.atlas.drawing import Habits
from qmedsam_training.cli import app
from qmedsam_training.networks import compact_of
from qmedsam_training.teaching import cases as cases_module
from qmedsam_training.teaching import choice as choice_module
from qmedsam_training.teaching import plan as plan_module
from qmedsam_training.teaching import run as run_module
from qmedsam_training.teaching.card import fields_of
from qmedsam_training.teaching.choice import decided
from qmedsam_training.teaching.folders import read_lessons
from qmedsam_training.teaching.lesson import between, mean_of, with_decoder
from qmedsam_training.teaching.plan import Plan, planned
from qmedsam_training.teaching.report import Findings
from qmedsam_training.teaching.run import Stopped, Teaching
from qmedsam_training.teaching.scoring import Outcome, Tried
from qmedsam_training.teaching.settings import Lesson
from small import invoke
from tinybase import tiny_base
from typer.testing import CliRunner

sitk = pytest.importorskip("SimpleITK")

SHAPE = (12, 36, 40)
KIDNEY = "c~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes~^^~^^"


def kidney(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume and an object in it that is dark in the middle: a network that looks for borders finds the rim."""
    rng = np.random.default_rng(n)
    k, j, i = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ci, cj = rng.uniform(17, 23), rng.uniform(15, 21)
    r = np.sqrt(((i - ci) / 11) ** 2 + ((j - cj) / 9) ** 2 + ((k - 6) / 5) ** 2)
    return (rng.normal(0, 25, SHAPE) + 200 * (r <= 1)).astype(np.int16), r <= 1


def write_case(folder: Path, n: int, name: str = "Left kidney", stem: str = "Mueller") -> Path:
    """As Slicer saves it."""
    array, mask = kidney(n)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(folder / f"{stem}{n}.nrrd"))
    labels = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels.CopyInformation(image)
    fields = {"Name": name, "LabelValue": "1", "Layer": "0", "Tags": f"TerminologyEntry:{KIDNEY}|", "ID": "a"}
    for key, value in fields.items():
        labels.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(labels, str(folder / f"{stem}{n}.seg.nrrd"))
    return folder / f"{stem}{n}.nrrd"


@pytest.fixture(autouse=True)
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn, scored and quantized with is a fraction of the real thing."""
    monkeypatch.setattr(plan_module, "MOST_FRAMES", 12)
    monkeypatch.setattr(plan_module, "SCENES", 16)
    monkeypatch.setattr(run_module, "SCENES", 16)


@pytest.fixture
def two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untaught and taught; none between."""
    for module in (run_module, choice_module):
        monkeypatch.setattr(module, "SHARES", (0.0, 1.0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that has seen generated scenes for a few seconds."""
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny.pt")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for n in range(5):
        write_case(folder, n)
    return folder


def teach(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["teach", *map(str, arguments)], env={"COLUMNS": "200"})


def refused(*arguments: Any) -> str:
    """The sentence of what is not done."""
    result = teach(*arguments)
    assert isinstance(result.exception, QMedSAMError), result.output
    return str(result.exception)


def test_what_gained_nothing_is_written_on_request_alone(
    base: Path, cases: Path, tmp_path: Path, two_candidates: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = (cases, "-o", tmp_path / "m", "--from", base, "--steps", 1, "--rate", 0, "--cache-mib", 64, "--threads", 1)
    result = teach(*still)
    assert result.exit_code == 1 and "Nothing was gained" in result.output and "--write-anyway" in result.output
    assert not (tmp_path / "m").exists()
    kept = tmp_path / "m-teaching"
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("fold-*.json")}
    assert len(before) == 3
    written: list = []
    monkeypatch.setattr(Teaching, "hand_over", lambda self, found, *rest: written.append(found))
    assert "Wrote" in invoke(app, "teach", *still, "--write-anyway") and not written[0].gained
    assert {path.name: path.stat().st_mtime_ns for path in kept.glob("fold-*.json")} == before, "what is done is done"


def test_a_program_is_told_in_lines_of_json(base: Path, cases: Path, tmp_path: Path) -> None:
    result = teach(cases, "-o", tmp_path / "m", "--from", base, "--json", "--dry-run", "--threads", 1)
    events = [json.loads(line) for line in result.output.splitlines()]
    assert events[0]["event"] == "process" and events[-1]["event"] == "plan"
    rows = dict(events[-1]["rows"])
    assert rows["target: Left kidney"].startswith("5 objects") and "folds" in rows["held out"] and "GiB" in rows["memory"]
    result = teach(tmp_path, "-o", tmp_path / "m", "--json")
    assert result.exit_code == 2 and json.loads(result.output.splitlines()[-1])["event"] == "error"


def test_a_run_that_is_stopped_goes_on_to_the_same_end(base: Path, cases: Path, tmp_path: Path, two_candidates: None) -> None:
    lessons = read_lessons([cases])
    model, network = compact_of(base)
    habits = Habits(size=64, flat=1.0)
    plan = planned(lessons, model, habits, Lesson(steps=3, rate=1e-3), 64, 1)
    asked = [0]

    def made(work: str, stop_at: int) -> Teaching:
        def stopped() -> bool:
            asked[0] += 1
            return asked[0] == stop_at

        asked[0] = 0
        teaching = Teaching(lessons, model, network, "tiny", plan, tmp_path / work, stopped)
        teaching.prepare()
        return teaching

    whole = made("whole", -1)
    expected, handed = whole.findings(*whole.frames(lambda *_: None), lambda *_: None)
    with pytest.raises(Stopped):
        made("parts", 2).frames(lambda *_: None)
    assert len(list((tmp_path / "parts").glob("*.frames"))) == 1
    cut = made("parts", -1)
    frames = cut.frames(lambda *_: None)
    with pytest.raises(Stopped):
        made("parts", 2).findings(*frames, lambda *_: None)  # in the middle of the first fold
    found, model = cut.findings(*frames, lambda *_: None)
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), handed.parameters()))


def test_a_broken_frame_file_is_drawn_again(base: Path, cases: Path, tmp_path: Path) -> None:
    lessons = read_lessons([cases])
    model, network = compact_of(base)
    plan = planned(lessons, model, Habits(size=64, flat=1.0), Lesson(steps=1), 64, 1)
    teaching = Teaching(lessons, model, network, "tiny", plan, tmp_path / "work", lambda: False)
    teaching.prepare()
    first, _ = teaching.frames(lambda *_: None)
    path = tmp_path / "work" / "case-2.frames"
    path.write_bytes(path.read_bytes()[:1000])
    again, _ = teaching.frames(lambda *_: None)
    assert torch.equal(first[2].embedding, again[2].embedding) and first[2].embedding.dtype == torch.float16


def test_cases_that_cannot_teach_end_in_sentences(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "m"
    one, names, mixed, empty = (tmp_path / name for name in ("one", "names", "mixed", "empty"))
    for folder in (one, names, mixed, empty):
        folder.mkdir()
    write_case(one, 0)
    assert "1 patient cannot both teach and show" in refused(one, "-o", output, "--from", base)
    for n, name in enumerate(("Kidney", "Kidney", "kidney ")):
        write_case(names, n, name)
    assert "'Kidney' and 'kidney' have names that differ by capitals" in refused(names, "-o", output)
    for n in range(3):
        write_case(mixed, n)
    flat = (np.arange(48 * 48) % 200).astype(np.uint8).reshape(48, 48)
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 10:30] = 1
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(mixed / "photo.png"))
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(mixed / "photo_mask.png"))
    assert "1 of the 4 cases are single pictures" in refused(mixed, "-o", output)
    for n in range(3):
        where = write_case(empty, n)
        nothing = sitk.ReadImage(str(where.with_suffix(".seg.nrrd"))) * 0
        sitk.WriteImage(nothing, str(empty / f"Mueller{n}_seg.nii.gz"))
        where.with_suffix(".seg.nrrd").unlink()
    assert "no case to learn from" in (text := refused(empty, "-o", output)) and "at least 100 voxels" in text
    assert "does not name a label" in refused(one, "-o", output, "--name", "kidney=")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    assert "not a model folder" in refused(one, "-o", tmp_path / "foreign")


def test_masks_on_other_grids_are_placed_and_said(tmp_path: Path) -> None:
    for n in range(5):
        where = write_case(tmp_path, n)
        mask = sitk.ReadImage(str(where.with_suffix(".seg.nrrd")))
        finer = sitk.Resample(
            mask, [60, 54, 24], sitk.Transform(), sitk.sitkNearestNeighbor, mask.GetOrigin(), [2 / 3, 2 / 3, 1.0]
        )
        where.with_suffix(".seg.nrrd").unlink()
        sitk.WriteImage(finer, str(tmp_path / f"Mueller{n}_seg.nii.gz"))
    lessons = read_lessons([tmp_path], {1: "kidney"})
    assert lessons.targets == ["kidney"] and lessons.objects("kidney") == (5, 5) and lessons.is_3d
    assert sum("another grid" in note for note in lessons.notes) == 5
    assert read_lessons([tmp_path], {0: "kidney"}).targets == ["kidney"], "whatever their values are"


def test_the_report_says_what_was_lost() -> None:
    rows = [Outcome(n, n, "liver", 0.80, 0.85 + n / 220, 0.6, 0.5, 0.6) for n in range(1, 11)]
    rows += [Outcome(n, n, "spleen", 0.90, 0.88, 0.6, 0.5, 0.5) for n in range(1, 11)]
    found = Findings(rows, 3, 0.5, 0.70, 0.69)
    text = " ".join(found.sentences())
    assert found.believed and "is better than before: +2.7 points" in text
    assert "Worse than before: spleen (-2.0 points)." in text and "(-1.0 points)" in text and "half-way between" in text
    assert found.cells()[0][:6] == ["liver", "10", "10", "0.600", "0.800", "0.875"] and found.cells()[-1][0] == "mean of targets"
    few = Findings([row for row in rows if row.patient < 10], 3, 0.5, 0.70, 0.69)
    assert few.gained and not few.believed, "nine patients, all of them better, show nothing of others"
    assert few.sentences()[0].startswith("9 patients cannot show that it is better on others: +2.")
    nothing = Findings(rows[10:], 3, 1.0, 0.7, 0.7)
    assert not nothing.gained and "Nothing was gained" in nothing.sentences()[0]
    alone = Findings([Outcome(1, 1, "liver", 0.8, 0.9, 0.5, 0.5, 0.5)], 1, 1.0, 0.7, 0.7)
    assert not alone.believed and "(one case)" in alone.cells()[0][6]


def tried_with(*gains: tuple[float, ...]) -> list[Tried]:
    """A patient each, with the gains of the candidates above the untaught one."""
    return [Tried(n, n, "axon", 0.7, [0.8, *(0.8 + g for g in own)], [0.5] * 5) for n, own in enumerate(gains, start=1)]


def test_how_far_it_goes_is_chosen_by_cases_that_were_not_learned_from() -> None:
    sure = tried_with(*[(0.01, 0.02, 0.03, 0.02 + n / 1000) for n in range(6)])
    share, found = decided(sure)
    assert share == 0.75 and {round(row.taught - row.before, 3) for row in found} == {0.03}
    luck = tried_with((0.0, 0.0, 0.0, 0.20), *[(0.0, 0.0, 0.0, -0.02)] * 4)  # +2.4 points in the mean, by one case
    share, found = decided(luck)
    assert share == 0 and all(row.taught == row.before for row in found)
    assert not Findings(found, 3, share, 0.7, 0.7).gained


def test_a_patient_is_scored_at_what_the_others_choose() -> None:
    """The one that gains by another share than all others is told what they would have chosen for it."""
    odd = tried_with((0.0, 0.0, 0.0, -0.3), *[(0.0, 0.01, 0.02, 0.05)] * 9)
    share, found = decided(odd)
    assert round(found[0].taught - found[0].before, 3) == -0.3, "the others know nothing of it"
    assert share < 1, "all together do"


def test_a_network_in_between(base: Path) -> None:
    start, _ = compact_of(base)
    end = with_decoder(start, {name: value + 1 for name, value in start.mask_decoder.state_dict().items()})
    near, middle = (dict(m.mask_decoder.named_parameters()) for m in (start, between(start, end, 0.25)))
    assert all(torch.allclose(middle[name], value + 0.25) for name, value in near.items())
    assert between(start, end, 0) is start and between(start, end, 1) is end
    third = mean_of([start, end, end]).mask_decoder
    assert all(torch.allclose(dict(third.named_parameters())[name], value + 2 / 3, atol=1e-6) for name, value in near.items())
    assert all(
        torch.equal(a, b) for a, b in zip(start.image_encoder.parameters(), mean_of([start, end]).image_encoder.parameters())
    )


def test_folders_are_joined_and_one_image_is_one_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a" / "cases", tmp_path / "b" / "cases"
    for folder, numbers in ((first, (0, 1, 2)), (second, (3, 4, 5))):
        folder.mkdir(parents=True)
        for n in numbers:
            write_case(folder, n, stem="case" if n % 3 else "Mueller")
    for end in (".nrrd", ".seg.nrrd"):
        shutil.copy(first / f"case1{end}", second / f"again{end}")  # one case twice
        shutil.copy(first / f"case2{end}", second / f"other{end}")  # and one image with two masks
    mask = sitk.ReadImage(str(second / "other.seg.nrrd"))
    smaller = sitk.BinaryErode(mask)
    for key in mask.GetMetaDataKeys():
        smaller.SetMetaData(key, mask.GetMetaData(key))
    sitk.WriteImage(smaller, str(second / "other.seg.nrrd"))
    lessons = read_lessons([first, second])
    assert [case.number for case in lessons.cases] == list(range(1, 8)) and len({c.patient for c in lessons.cases}) == 6
    text = " ".join(lessons.notes)
    assert "it is 'cases/case1' again" in text and "has the image of 'cases/case2': held out together" in text
    assert sum(len(fold) for fold in lessons.folds()) == 6
    held = [{c.case.case_id for c in lessons.cases if c.patient in fold} for fold in lessons.folds()]
    assert all(("cases/case2" in fold) == ("cases/other" in fold) for fold in held)
    monkeypatch.setattr(cases_module, "_person", lambda place: "1" if "case" in place.name else place.name)
    with pytest.raises(QMedSAMError, match="3 patients cannot"):  # what is called case is one person
        read_lessons([first, second])
    monkeypatch.setattr(cases_module, "_person", lambda place: "anonymous")
    assert len({c.patient for c in read_lessons([first, second]).cases}) == 6, "a name that all have says nothing"


def test_the_licence_of_what_was_started_from_goes_along(cases: Path) -> None:
    lessons, alone = read_lessons([cases]), Outcome(1, 1, "Left kidney", 0.8, 0.9, 0.5, 0.5, 0.5)
    found = Findings([alone], 1, 1.0, 0.7, 0.7)
    plan = Plan(8, 3, Lesson(), 1.0, 1.0)
    fields = fields_of(lessons, found, "volume-160", plan)
    assert "CC-BY-SA-4.0" in fields["license"] and fields["data"][1] == {"name": "volume-160", "license": "CC-BY-SA-4.0"}
    assert fields_of(lessons, found, "mine", plan)["data"][1]["license"] == "its own"
    assert "Mueller" not in json.dumps(fields)
