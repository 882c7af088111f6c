"""A run in one process: outputs, reports, bad cases, and what a second run does again."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from qmedsam import QMedSAMError, Segmenter
from qmedsam.batch import Outcome, Settings, collect, parse_memory, run_batch
from qmedsam.batch.memory import check_memory
from qmedsam.files import read_boxes, read_labels, read_volume
from qmedsam.network.fake import FakeNetwork

sitk = pytest.importorskip("SimpleITK")
slicerio = pytest.importorskip("slicerio")

from cohort import phantom, write_case, write_cohort, write_volume  # noqa: E402

pytestmark = pytest.mark.slow  # whole cohorts
MR = Settings(modality="MR", strategy="propagate", pictures=False)


@pytest.fixture
def fake() -> Segmenter:
    return Segmenter(network=FakeNetwork())


def _run(folder: Path, out: Path, settings: Settings = MR, **more):
    return run_batch(collect([folder], out, settings.format), out, settings, **more)


def _files(folder: Path) -> dict:
    """Every segmentation with what would change if it were written again."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name.endswith((".seg.nrrd", ".nii.gz", ".png")))
    return {p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}


def _journal(out: Path) -> list:
    return [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()]


def test_good_cases_are_done_and_bad_ones_listed_with_a_sentence(tmp_path: Path, fake: Segmenter) -> None:
    expected = write_cohort(tmp_path / "in")
    before = {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    seen = []
    settings = replace(MR, pictures=True)
    result = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=fake, progress=lambda *now: seen.append(now))
    assert result.exit_code == 1 and not result.cancelled
    assert {o.case: o.state for o in result.outcomes} == {name: "failed" if word else "done" for name, word in expected.items()}
    for outcome in result.outcomes:
        assert expected[outcome.case] in outcome.message and outcome.message.count("\n") == 0
        assert bool(outcome.output) == (outcome.state == "done") == bool(outcome.objects)
    assert seen[-1] == (len(expected), len(expected)) and len(seen) == len(expected)
    assert before == {p: p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}

    out = tmp_path / "out"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.seg.nrrd")} == {
        f"{name}.seg.nrrd" for name, word in expected.items() if not word
    }
    assert not list(out.rglob(".qmedsam-[!b]*")), "nothing half written is left"
    with (out / "summary.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert set(rows) == set(expected) and "no finite value" in rows["nan"]["message"]
    labels = read_labels(out / "patient 1" / "ct.seg.nrrd")
    assert int(rows["patient 1/ct"]["voxels"]) == (labels > 0).sum() > 500
    spacing = np.prod(read_volume(tmp_path / "in" / "patient 1" / "ct.nii.gz").spacing_mm)
    assert float(rows["patient 1/ct"]["volume_ml"]) == pytest.approx((labels > 0).sum() * spacing / 1000, abs=1e-3)
    assert rows["slice"]["volume_ml"] == "" and 0 < float(rows["slice"]["confidence"]) <= 1
    segment = slicerio.read_segmentation(str(out / "again.seg.nrrd"))["segments"][0]
    assert np.allclose(segment["color"], (0.1, 0.8, 0.1)), "name and colour come from the segmentation"
    assert "Segment0_Name:=Tumör" in (out / "again.seg.nrrd").read_bytes().split(b"\n\n")[0].decode("utf-8")


def test_a_case_gets_the_voxels_that_segment_gives(tmp_path: Path, fake: Segmenter) -> None:
    path = write_case(tmp_path / "in", "ct", 3)
    _run(tmp_path / "in", tmp_path / "out", segmenter=fake)
    volume = read_volume(path)
    boxes = read_boxes(tmp_path / "in" / "ct.mrk.json", volume)
    alone = Segmenter(network=FakeNetwork()).segment(volume, boxes, "MR", "propagate")
    assert np.array_equal(read_labels(tmp_path / "out" / "ct.seg.nrrd"), alone.labels_kji) and alone.labels_kji.any()


def test_one_bad_box_fails_its_case_by_name_and_the_others_are_written(tmp_path: Path, fake: Segmenter) -> None:
    path = write_case(tmp_path / "in", "ct", 3)
    (tmp_path / "in" / "ct-away.json").write_text(json.dumps({"boxes": [{"ijk": [900, 9, 1, 950, 29, 5], "name": "away"}]}))
    write_case(tmp_path / "in", "good", 4)
    for _ in range(2):  # a failed case is tried again
        result = _run(tmp_path / "in", tmp_path / "out", segmenter=fake)
        bad, good = result.outcomes
        assert result.exit_code == 1 and bad.state == "failed" and "'away' lies outside" in bad.message
        assert good.state in ("done", "unchanged")
        assert [bool(one["error"]) for one in bad.objects] == [True, False] and bad.voxels == bad.objects[1]["voxels"] > 500
    volume = read_volume(path)
    alone = Segmenter(network=FakeNetwork()).segment(
        volume, read_boxes(tmp_path / "in" / "ct.mrk.json", volume), "MR", "propagate"
    )
    labels = read_labels(tmp_path / "out" / "ct.seg.nrrd")
    assert np.array_equal(labels > 0, alone.labels_kji > 0) and bad.confidence == alone.objects[0].confidence
    segments = slicerio.read_segmentation(str(tmp_path / "out" / "ct.seg.nrrd"))["segments"]
    assert [one["name"] for one in segments] == ["ellipsoid"]


def test_the_log_tells_what_was_done_with_what(tmp_path: Path, fake: Segmenter) -> None:
    write_case(tmp_path / "in", "ct")
    _run(tmp_path / "in", tmp_path / "out", replace(MR, options=replace(MR.options, every=2)), segmenter=fake)
    start, case, end = _journal(tmp_path / "out")
    assert (start["event"], case["event"], end["event"]) == ("run", "case", "end")
    assert start["settings"]["options"]["every"] == 2 and start["cases"] == 1 and end["exit_code"] == 0
    assert len(case["inputs"]["volume"][0]) == len(case["inputs"]["boxes"][0]) == len(case["output_sha256"]) == 64
    assert case["output"] == "ct.seg.nrrd" and case["objects"][0]["name"] == "ellipsoid"


def test_a_box_in_which_nothing_was_found_is_noted_once(tmp_path: Path) -> None:
    """What the engine explains (the network sees the box too thin) is not said again."""
    network = FakeNetwork(256)
    network.decode = lambda _, boxes, *said: (np.full((len(boxes), 1, 256, 256), -1.0, np.float32), np.zeros((len(boxes), 1)))
    (tmp_path / "in").mkdir()
    strip = (np.indices((8, 3000))[1] % 200).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(strip), str(tmp_path / "in" / "us.png"))
    drawn = [{"ijk": [0, 0, 2999, 7], "name": "strip"}, {"ijk": [0, 0, 7, 7], "name": "square"}]
    (tmp_path / "in" / "us.json").write_text(json.dumps({"boxes": drawn}))
    settings = Settings(modality="US", pictures=False)
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=Segmenter(network=network)).outcomes
    assert outcome.message.count("'strip'") == 1 and "pixels thin" in outcome.message
    assert outcome.message.count("Nothing was found") == 2 and outcome.message.endswith("in the box of square.")


def test_a_second_run_does_nothing_twice(tmp_path: Path, fake: Segmenter) -> None:
    write_cohort(tmp_path / "in")
    settings = replace(MR, pictures=True)
    first = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=fake)
    files, encoded = _files(tmp_path / "out"), fake._given.encoded
    second = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=fake)
    assert _files(tmp_path / "out") == files and fake._given.encoded == encoded
    assert [o.state for o in second.outcomes] == [o.state.replace("done", "unchanged") for o in first.outcomes]
    assert [(o.voxels, o.confidence, o.overlay) for o in second.outcomes] == [
        (o.voxels, o.confidence, o.overlay) for o in first.outcomes
    ]
    third = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=fake)  # from a record of a record
    assert [o.state for o in third.outcomes] == [o.state for o in second.outcomes] and fake._given.encoded == encoded
    again = _run(tmp_path / "in", tmp_path / "out", settings, segmenter=fake, again=True)
    assert [o.state for o in again.outcomes] == [o.state for o in first.outcomes] and fake._given.encoded > encoded


def test_what_changed_is_done_again_and_only_that(tmp_path: Path, fake: Segmenter) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate("abcdef"):
        write_case(folder, name, n)
    _run(folder, out, segmenter=fake)
    shutil.copy(folder / "b.nii.gz", folder / "a.nii.gz")  # another image under the same name
    content = json.loads((folder / "b.mrk.json").read_text())
    content["markups"][0]["size"][0] *= 0.8
    (folder / "b.mrk.json").write_text(json.dumps(content))
    os.utime(folder / "c.nii.gz", (0, 0))  # touched, not changed
    (out / "d.seg.nrrd").unlink()
    (out / "e.seg.nrrd").write_bytes((out / "e.seg.nrrd").read_bytes()[:-9])  # somebody damaged it
    states = {o.case: o.state for o in _run(folder, out, segmenter=fake).outcomes}
    assert states == {"a": "done", "b": "done", "c": "unchanged", "d": "done", "e": "done", "f": "unchanged"}
    for settings in (replace(MR, margin=0.1), replace(MR, options=replace(MR.options, every=2)), replace(MR, modality="CT")):
        assert {o.state for o in _run(folder, out, settings, segmenter=fake).outcomes} == {"done"}


def test_a_renamed_case_is_recognised(tmp_path: Path, fake: Segmenter) -> None:
    pytest.importorskip("matplotlib")
    folder, out = tmp_path / "in", tmp_path / "out"
    write_case(folder, "old", 1)
    _run(folder, out, replace(MR, pictures=True), segmenter=fake)
    encoded = fake._given.encoded
    for end in (".nii.gz", ".mrk.json"):
        (folder / f"old{end}").rename(folder / f"new{end}")
    (outcome,) = _run(folder, out, replace(MR, pictures=True), segmenter=fake).outcomes
    assert (outcome.case, outcome.state) == ("new", "unchanged") and fake._given.encoded == encoded
    assert (out / "new.seg.nrrd").read_bytes() == (out / "old.seg.nrrd").read_bytes()
    assert (out / outcome.overlay).is_file() and "'old'" in outcome.message


def test_a_renamed_case_that_cannot_be_copied_fails_alone(tmp_path: Path, fake: Segmenter) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_case(folder, "a", 1)
    write_case(folder, "z", 2)
    _run(folder, out, segmenter=fake)
    (folder / "b").mkdir()
    for end in (".nii.gz", ".mrk.json"):
        (folder / f"a{end}").rename(folder / "b" / f"a{end}")
    (out / "b").write_text("in the way")
    states = {o.case: o.state for o in _run(folder, out, segmenter=fake).outcomes}
    assert states == {"b/a": "failed", "z": "unchanged"}


def test_an_roi_that_is_called_as_its_file_is_another_one_under_another_name(tmp_path: Path, fake: Segmenter) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_case(folder, "old", 1)
    content = json.loads((folder / "old.mrk.json").read_text())
    del content["markups"][0]["name"]
    (folder / "old.mrk.json").write_text(json.dumps(content))
    _run(folder, out, segmenter=fake)
    for end in (".nii.gz", ".mrk.json"):
        (folder / f"old{end}").rename(folder / f"new{end}")
    (outcome,) = _run(folder, out, segmenter=fake).outcomes
    assert outcome.state == "done" and outcome.objects[0]["name"] == "new"


def test_a_torn_log_costs_its_last_case_only(tmp_path: Path, fake: Segmenter) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate("ab"):
        write_case(folder, name, n)
    _run(folder, out, segmenter=fake)
    lines = (out / "batch.jsonl").read_bytes().splitlines(keepends=True)
    (out / "batch.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])  # killed while it wrote
    (out / ".qmedsam-torn").mkdir()
    (out / ".qmedsam-torn" / "b.seg.nrrd").write_bytes(b"half")
    assert [o.state for o in _run(folder, out, segmenter=fake).outcomes] == ["unchanged", "done"]
    assert [o.state for o in _run(folder, out, segmenter=fake).outcomes] == ["unchanged", "unchanged"]
    assert not (out / ".qmedsam-torn").exists()


def test_stopping_keeps_what_is_done(tmp_path: Path, fake: Segmenter) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate("abc"):
        write_case(folder, name, n)
    heard: list = []

    def cancelled() -> bool:
        return len(heard) == 1 and fake._given.encoded > 15  # within the second case

    result = _run(folder, out, segmenter=fake, report=heard.append, cancelled=cancelled)
    assert result.cancelled and result.exit_code == 130
    assert [o.state for o in result.outcomes] == ["done", "not run", "not run"]
    assert [p.name for p in out.glob("*.seg.nrrd")] == ["a.seg.nrrd"] and "Not run" in (out / "index.html").read_text("utf-8")

    def interrupt(outcome) -> None:
        if outcome.case == "b":
            raise KeyboardInterrupt

    result = _run(folder, out, segmenter=fake, report=interrupt)
    assert result.cancelled and [o.state for o in result.outcomes] == ["unchanged", "done", "not run"]
    assert _journal(out)[-1] == {**_journal(out)[-1], "event": "end", "cancelled": True}
    assert [o.state for o in _run(folder, out, segmenter=fake).outcomes] == ["unchanged", "unchanged", "done"]


@pytest.mark.parametrize("closed_again", [True, False])
def test_a_table_that_is_open_in_a_spreadsheet_ends_no_run(
    tmp_path: Path, fake: Segmenter, monkeypatch: pytest.MonkeyPatch, closed_again: bool
) -> None:
    """Windows locks it."""
    out, rename, heard = tmp_path / "out", os.replace, []

    def locked(source, target) -> None:
        if Path(target).name == "summary.csv" and not (closed_again and len(heard) == 3):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    for n, name in enumerate("abc"):
        write_case(tmp_path / "in", name, n)
    monkeypatch.setattr("qmedsam.batch.run._REPORT_EVERY", -1)
    monkeypatch.setattr(os, "replace", locked)
    if closed_again:
        assert _run(tmp_path / "in", out, segmenter=fake, report=heard.append).exit_code == 0
        assert (out / "summary.csv").read_text().count("done") == 3
    else:
        with pytest.raises(QMedSAMError, match=r"summary\.csv' could not be written"):
            _run(tmp_path / "in", out, segmenter=fake, report=heard.append)
    assert [o.state for o in heard] == ["done"] * 3 and _journal(out)[-1]["event"] == "end"
    assert "3 done" in re.sub("<[^>]*>", "", (out / "index.html").read_text("utf-8"))


def test_two_runs_cannot_share_a_folder(tmp_path: Path, fake: Segmenter) -> None:
    pytest.importorskip("fcntl")
    write_case(tmp_path / "in", "ct")
    code = "import sys; from pathlib import Path; from qmedsam.batch.journal import only_run\n"
    code += f"with only_run(Path({str(tmp_path / 'out')!r})): print('held', flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(QMedSAMError, match="Another run"):
        _run(tmp_path / "in", tmp_path / "out", segmenter=fake)
    other.kill()  # however it ends, the folder is free
    other.communicate()
    assert _run(tmp_path / "in", tmp_path / "out", segmenter=fake).exit_code == 0


def test_a_failure_beside_an_older_result_says_so(tmp_path: Path, fake: Segmenter) -> None:
    path = write_case(tmp_path / "in", "ct")
    _run(tmp_path / "in", tmp_path / "out", segmenter=fake)
    path.write_bytes(path.read_bytes()[:-100])
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", segmenter=fake).outcomes
    assert outcome.state == "failed" and "'ct.seg.nrrd' is still that of an earlier run" in outcome.message


@pytest.mark.parametrize("earlier", [False, True])
def test_a_result_that_was_written_before_the_failure_is_not_called_old(
    tmp_path: Path, fake: Segmenter, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    write_case(tmp_path / "in", "ct")
    if earlier:
        _run(tmp_path / "in", tmp_path / "out", segmenter=fake)

    def exhausted(*arguments, **more) -> None:
        raise MemoryError

    monkeypatch.setattr("qmedsam.batch.one._fill", exhausted)
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", segmenter=fake, again=True).outcomes
    assert outcome.state == "failed" and (tmp_path / "out" / "ct.seg.nrrd").is_file()
    assert "not enough memory" in outcome.message and "earlier run" not in outcome.message


def test_a_surprise_in_one_case_does_not_end_the_run(tmp_path: Path) -> None:
    class Surprising(Segmenter):
        def segment(self, volume, *args, **kwargs):
            if volume.name == "b":
                raise RuntimeError("first line\nsecond line")
            if volume.name == "c":
                raise MemoryError
            return super().segment(volume, *args, **kwargs)

    for n, name in enumerate("abcd"):
        write_case(tmp_path / "in", name, n)
    outcomes = _run(tmp_path / "in", tmp_path / "out", segmenter=Surprising(network=FakeNetwork())).outcomes
    assert [o.state for o in outcomes] == ["done", "failed", "failed", "done"]
    assert outcomes[1].message == "RuntimeError: first line" and "not enough memory" in outcomes[2].message


@pytest.mark.parametrize("name,suffix", [("nii.gz", ".nii.gz"), ("mha", ".mha")])
def test_formats(tmp_path: Path, fake: Segmenter, name: str, suffix: str) -> None:
    write_case(tmp_path / "in", "ct")
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", replace(MR, format=name), segmenter=fake).outcomes
    assert outcome.output.endswith(f"ct{suffix}") and read_labels(outcome.output).any()


def test_a_format_that_a_case_cannot_have_is_said_before_it_is_segmented(tmp_path: Path, fake: Segmenter) -> None:
    write_case(tmp_path / "in", "ct")
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", replace(MR, format="dicom-seg"), segmenter=fake).outcomes
    assert outcome.state == "failed" and re.search("highdicom|not DICOM", outcome.message) and fake._given.encoded == 0


def test_without_matplotlib_there_are_no_pictures_and_one_note(
    tmp_path: Path, fake: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer's own Python lacks it."""
    write_case(tmp_path / "in", "ct")
    monkeypatch.setattr("qmedsam.batch.run.find_spec", lambda name: None)
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", replace(MR, pictures=True), segmenter=fake).outcomes
    assert (outcome.state, outcome.overlay, outcome.message) == ("done", "", "")
    assert "matplotlib is not installed" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_picture_that_fails_costs_a_sentence_only(tmp_path: Path, fake: Segmenter) -> None:
    pytest.importorskip("matplotlib")
    write_case(tmp_path / "in", "ct")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlays").write_text("in the way")
    (outcome,) = _run(tmp_path / "in", tmp_path / "out", replace(MR, pictures=True), segmenter=fake).outcomes
    assert outcome.state == "done" and outcome.message.startswith("No picture:") and not outcome.overlay


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("href", "src")]

    def handle_data(self, data) -> None:
        self.words.append(data)


HOSTILE = ["<img src=x onerror=alert(1)>", "a&amp;b'\"#%41?", "=HYPERLINK(1)", "l\u202ebad", "x\ny", "emoji \U0001f600 ü"]


@pytest.mark.skipif(sys.platform == "win32", reason="these are no file names there")
def test_hostile_names_stay_text(tmp_path: Path, fake: Segmenter) -> None:
    pytest.importorskip("matplotlib")
    folder, out = tmp_path / "in", tmp_path / "out"
    if sys.getfilesystemencoding() != "utf-8":
        pytest.skip("file names are ASCII here")
    for n, name in enumerate(HOSTILE):
        case = write_case(folder, f"n{n}", n)
        case.rename(folder / f"{name}.nii.gz")
        (folder / f"n{n}.mrk.json").rename(folder / f"{name}.mrk.json")
    (folder / (HOSTILE[1] + ".nii.gz")).write_bytes(b"damaged")
    result = _run(folder, out, replace(MR, pictures=True), segmenter=fake)
    assert sum(o.state == "done" for o in result.outcomes) == len(HOSTILE) - 1
    text = (out / "index.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert not {"script", "iframe", "object", "link"} & set(page.tags) and page.tags.count("img") == len(HOSTILE) - 1
    assert not re.search(r"https?://|onerror\s*=\s*[^&]*alert\(1\)>", text.replace("&lt;img src=x onerror=alert(1)&gt;", ""))
    files = [link for link in page.links if not link.startswith("#")]
    assert all((out / unquote(link)).is_file() for link in files) and len(files) == 1 + 3 * (len(HOSTILE) - 1)
    assert "\u202e" not in text and HOSTILE[0] in "".join(page.words)
    with (out / "summary.csv").open(encoding="utf-8", newline="") as stream:
        cells = [row[0] for row in csv.reader(stream)]
    assert "'=HYPERLINK(1)" in cells and not any(cell.startswith("=") for cell in cells)


def test_names_that_the_output_cannot_hold_are_escaped(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    if sys.getfilesystemencoding() != "utf-8":
        pytest.skip("file names are ASCII here")
    write_volume(tmp_path / "in" / "肝.nii.gz", phantom(0).volume)
    command = [sys.executable, "-m", "qmedsam", "batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--workers", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "cp1252"}
    ended = subprocess.run(command, capture_output=True, env=environment)
    assert ended.returncode == 1 and b"There are no boxes" in ended.stdout and b"\\u809d" in ended.stdout, ended.stderr[-500:]


def test_workers_without_a_case_take_no_share(tmp_path: Path, fake: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run with one case left: it gets all threads and all memory."""
    benches: list = []

    def on_workers(jobs, bench, *_):
        benches.append(bench)
        yield from ((n, Outcome(case.name, "failed")) for n, case in enumerate(jobs))

    monkeypatch.setattr("qmedsam.batch.run.on_workers", on_workers)
    monkeypatch.setattr("qmedsam.batch.run.machine_memory", lambda: 8 * 2**30)
    write_case(tmp_path / "in", "a", 0)
    _run(tmp_path / "in", tmp_path / "out", segmenter=fake)
    write_case(tmp_path / "in", "b", 1)
    _run(tmp_path / "in", tmp_path / "out", segmenter=fake, workers=4, threads=8)
    assert "workers: 1 with 8 threads each" in (tmp_path / "out" / "index.html").read_text("utf-8")
    _run(tmp_path / "in", tmp_path / "out", segmenter=fake, workers=4, threads=8, again=True)
    assert [bench["threads"] for bench in benches] == [8, 4] and benches[0]["memory"] == 2 * benches[1]["memory"] > 6 * 2**30


def test_memory_is_asked_for_before_voxels_are_read(tmp_path: Path, fake: Segmenter) -> None:
    sizes = [("4G", 4 * 2**30), ("1500m", 1500 * 2**20), (" 0.5 GiB", 2**29), ("7000000", 7000000)]
    assert [parse_memory(text) for text, _ in sizes] == [size for _, size in sizes]
    for bad in ("much", "-1G", "0", "", "1.2.3G"):
        with pytest.raises(QMedSAMError, match="no size"):
            parse_memory(bad)
    with pytest.raises(QMedSAMError, match="too few"):
        write_case(tmp_path / "in", "ct")
        _run(tmp_path / "in", tmp_path / "out", segmenter=fake, memory=2**20)
    flat = np.zeros((400, 400, 400), np.uint8)  # 64 million voxels in a file of a few kB
    write_volume(tmp_path / "in" / "large.nii.gz", replace(phantom(0).volume, array_kji=flat))
    shutil.copy(tmp_path / "in" / "ct.mrk.json", tmp_path / "in" / "large.mrk.json")
    np.savez_compressed(tmp_path / "in" / "bomb.npz", imgs=flat, boxes=np.array([[1, 1, 1, 9, 9, 9]]))
    write_volume(tmp_path / "in" / "small.nii.gz", phantom(0).volume)
    shutil.copy(tmp_path / "in" / "large.nii.gz", tmp_path / "in" / "small-seg.nii.gz")
    outcomes = {o.case: o for o in _run(tmp_path / "in", tmp_path / "out", segmenter=fake, memory=500 * 2**20).outcomes}
    assert outcomes["ct"].state == "done"
    assert "The segmentation has 400 x 400 x 400 voxels" in outcomes["small"].message
    for name in ("large", "bomb"):
        assert re.search(r"400 x 400 x 400 voxels; .* about \d+ MiB and a worker may take 500 MiB", outcomes[name].message)
    for case in collect([tmp_path / "in"], tmp_path / "out"):
        check_memory(case, 2**30)


@pytest.mark.parametrize(
    "wrong", [{"strategy": "magic"}, {"frame": "all"}, {"margin": -1}, {"modality": "magic"}, {"format": "docx"}], ids=str
)
def test_settings_are_checked_before_anything_runs(wrong: dict) -> None:
    with pytest.raises(QMedSAMError):
        Settings(**wrong)


def test_a_model_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "ct")
    with pytest.raises(QMedSAMError, match="no model 'nobody'"):
        _run(tmp_path / "in", tmp_path / "out", replace(MR, model="nobody"))
    with pytest.raises(QMedSAMError, match="no case"):
        run_batch([], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(QMedSAMError, match="cannot be written to"):
        _run(tmp_path / "in", tmp_path / "file")
