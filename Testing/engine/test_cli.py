"""The commands as a user types them, with the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from qmedsam.files import read_labels, read_volume
from qmedsam.models import ModelStore
from shapes import ball

sitk = pytest.importorskip("SimpleITK")
slicerio = pytest.importorskip("slicerio")

from qmedsam.commands import app as cli  # noqa: E402

pytestmark = pytest.mark.slow  # networks are loaded anew for every command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``run("segment", ...)`` gives the exit code and what was printed."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["qmedsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out + printed.err

    return call


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    truth = ball((12, 60, 70), (36, 30, 6), (16, 14, 5))
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray((rng.normal(20, 10, truth.shape) + 100 * truth).astype(np.int16))
    image.SetSpacing((0.8, 0.8, 3.0))
    image.SetDirection((0.98, -0.199, 0, 0.199, 0.98, 0, 0, 0, 1.0))
    image.SetOrigin((10.0, -20.0, 5.0))
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def test_segment_writes_a_segmentation_a_picture_and_a_report(run, volume: Path, tmp_path: Path) -> None:
    out, png, report = tmp_path / "a.seg.nrrd", tmp_path / "a.png", tmp_path / "a.json"
    boxes = ("--box", "19,15,1,53,45,11", "--box", "30,25,4,40,35,8")
    code, text = run("segment", volume, *boxes, "--modality", "MR", "-o", out, "--png", png, "--report", report)
    assert code == 0 and "a.seg.nrrd" in text
    labels = read_labels(out)
    truth = ball((12, 60, 70), (36, 30, 6), (16, 14, 5))
    found = labels > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    written = slicerio.read_segmentation(str(out))
    assert [s["name"] for s in written["segments"]] == ["Segment_1", "Segment_2"]
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ written["ijkToLPS"], read_volume(volume).ijk_to_ras, atol=1e-5)
    assert png.read_bytes()[:4] == b"\x89PNG"
    content = json.loads(report.read_text())
    assert content["objects"][0]["voxels"] > 0 and content["seconds"]["total"] > 0 and content["strategy"] == "vote"


def test_one_bad_box_is_named_and_the_others_are_written(run, volume: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps({"boxes": [{"ijk": [900, 9, 1, 950, 29, 5], "name": "away"}, {"ijk": [19, 15, 1, 53, 45, 11]}]}))
    out, png, report = tmp_path / "a.seg.nrrd", tmp_path / "a.png", tmp_path / "a.json"
    code, text = run("segment", volume, "--boxes", boxes, "--modality", "MR", "-o", out, "--png", png, "--report", report)
    assert code == 1 and "'away' lies outside the image" in text and png.is_file()
    assert (read_labels(out) == 2).sum() > 1000
    assert [s["name"] for s in slicerio.read_segmentation(str(out))["segments"]] == ["Segment_2"]
    assert [bool(one["error"]) for one in json.loads(report.read_text())["objects"]] == [True, False]


def test_a_colour_picture(run, tmp_path: Path) -> None:
    y, x = np.mgrid[:90, :120]
    disc = ((x - 60) / 30) ** 2 + ((y - 45) / 25) ** 2 <= 1
    picture = np.where(disc[..., None], [180, 60, 50], [210, 190, 170]).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(tmp_path / "skin.png"))
    report = tmp_path / "skin.json"
    code, _ = run("segment", tmp_path / "skin.png", "--box", "30,20,90,70", "-o", tmp_path / "skin.seg.nrrd", "--report", report)
    (found,) = json.loads(report.read_text())["objects"]
    assert found["volume_ml"] is None and found["voxels"] > 1000
    labels = read_labels(tmp_path / "skin.seg.nrrd")
    assert code == 0 and labels.shape == (1, 90, 120)
    assert 2 * (labels[0] & disc).sum() / (labels.sum() + disc.sum()) > 0.85


@pytest.mark.parametrize(
    "arguments,word",
    [
        (("missing.nii",), "no file"),
        (("{volume}",), "no box"),
        (("{volume}", "--box", "1,2,3"), "not a box"),
        (("{volume}", "--box", "1,2,3,4"), "four numbers"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--png", "x.jpg"), "Use .png"),
        (("{volume}", "--box", "a,b,c,d,e,f"), "not a box"),
        (("{volume}", "--box", "900,5,5,910,9,9"), "outside"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--model", "nobody"), "no model"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--window", "wide"), "not a window"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--strategy", "magic"), "magic"),
        (("{volume}", "--boxes", "nothing.json"), "no file"),
        (("{volume}[/a].nii.gz",), "[/a].nii.gz"),
        (("{volume}", "--box", "1,1,12,9,9,14"), "outside"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--png", "nofolder/x.png"), "no folder"),
        (("{volume}", "--box", "1,1,1,9,9,9", "--agreement", "votes.txt"), "cannot be written to 'votes.txt'"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_no_file(run, volume: Path, tmp_path: Path, arguments, word) -> None:
    out = tmp_path / "out.seg.nrrd"
    code, text = run("segment", *(a.format(volume=volume) for a in arguments), "-o", out)
    assert code == 2 and "Error:" in text and word in text and "Traceback" not in text
    assert not out.exists()


def test_the_demo_shows_a_picture_worth_looking_at(run, tmp_path: Path) -> None:
    code, text = run("demo", "-o", tmp_path / "demo")
    assert code == 0 and "mean DSC" in text
    assert (tmp_path / "demo" / "phantom.png").stat().st_size > 50_000
    written = slicerio.read_segmentation(str(tmp_path / "demo" / "phantom.seg.nrrd"))
    assert len(written["segments"]) >= 5


def test_names_in_square_brackets_stay_names(run, volume: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"boxes": [{"ijk": [19, 15, 1, 53, 45, 11], "name": "kidney [/x] :cat:"}]}))
    arguments = ("--boxes", boxes, "--modality", "MR", "-o", tmp_path / "a[bold].seg.nrrd", "--png", tmp_path / "a.png")
    code, text = run("segment", volume, *arguments)
    assert code == 0 and "kidney [/x] :cat:" in text and "a[bold].seg.nrrd" in text
    assert (tmp_path / "a[bold].seg.nrrd").is_file() and (tmp_path / "a.png").is_file()


def test_a_picture_that_fails_comes_after_everything_else(run, volume: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(*arguments) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr("qmedsam.pictures.overlays.overlay_png", fail)
    files = ("-o", tmp_path / "a.seg.nrrd", "--png", tmp_path / "a.png", "--report", tmp_path / "a.json")
    code, text = run("segment", volume, "--box", "30,25,4,40,35,5", *files)
    assert code == 2 and "no picture" in text
    assert json.loads((tmp_path / "a.json").read_text())["objects"] and read_labels(tmp_path / "a.seg.nrrd").any()


def test_the_image_is_never_overwritten(run, volume: Path) -> None:
    before = volume.read_bytes()
    code, text = run("segment", volume, "--box", "19,15,1,53,45,11", "-o", volume)
    assert code == 2 and "image itself" in text and volume.read_bytes() == before


@pytest.mark.parametrize(
    "arguments,word",
    [
        (("--boxes", "b.json", "-o", "o.nrrd", "--report", "b.json"), "one of the inputs"),
        (("--boxes", "b.json", "-o", "o.nrrd", "--report", "sub/../b.json"), "one of the inputs"),
        (("--boxes", "b.npz", "-o", "b.npz"), "one of the inputs"),
        (("--boxes", "b.json", "-o", "o.nrrd", "--agreement", "o.nrrd"), "two results"),
        (("--boxes", "b.json", "-o", "o.nrrd", "--png", "p.png", "--report", "p.png"), "two results"),
    ],
)
def test_no_result_is_written_over_the_boxes_or_another_result(run, volume, tmp_path, monkeypatch, arguments, word) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.json").write_text("[[19, 15, 1, 53, 45, 11]]")
    np.savez(tmp_path / "b.npz", boxes=[[19, 15, 1, 53, 45, 11]])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, text = run("segment", volume, *arguments)
    assert code == 2 and word in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_unexpected_errors_are_one_sentence_too(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, text = run("demo", "-o", tmp_path / "file")
    assert code == 2 and "Error:" in text and "Traceback" not in text


def test_evaluate_and_add_on_the_command_line(run, volume: Path, tmp_path: Path) -> None:
    truth = sitk.GetImageFromArray(ball((12, 60, 70), (36, 30, 6), (16, 14, 5)).astype(np.uint8))
    truth.CopyInformation(sitk.ReadImage(str(volume)))
    sitk.WriteImage(truth, str(tmp_path / "truth.nii.gz"))
    manifest = tmp_path / "m.csv"
    rows = ["case_id,modality,dim,source,split,path_image,path_mask", "a,MR,3D,test,validation,scan.nii.gz,truth.nii.gz"]
    manifest.write_text("\n".join(rows) + "\n")
    for prompt in ("volume", "slice"):
        code, text = run("evaluate", manifest, "--prompt", prompt, "-o", tmp_path / prompt)
        assert code == 0 and "ellipse" in text
        assert {p.name for p in (tmp_path / prompt).iterdir()} == {"scores.csv", "summary.json", "summary.md", "sheet.png"}
    code, text = run("evaluate", manifest, "--official", "-o", tmp_path / "official")
    assert code == 0 and "official NSD" in text and (tmp_path / "official" / "official.csv").is_file()
    code, text = run("evaluate", manifest, "--official", "--prompt", "slice", "-o", tmp_path / "y")
    assert code == 2 and "whole volumes" in text
    manifest.write_text("\n".join([*rows, "b,MR,3D,test,validation,missing.nii.gz,truth.nii.gz"]) + "\n")
    code, text = run("evaluate", manifest, "-o", tmp_path / "partly")
    assert code == 1 and "could not be scored" in text and (tmp_path / "partly" / "scores.csv").is_file()
    code, text = run("evaluate", manifest, "--split", "nothing", "-o", tmp_path / "x")
    assert code == 2 and "nothing" in text
    shipped = ModelStore().models()[0].folder
    code, text = run("models", "add", shipped)
    assert code == 0 and "Added" in text
    code, text = run("models", "remove", shipped.name)
    assert code == 0 and "Removed" in text


def test_vote_and_its_agreement_map(run, volume: Path, tmp_path: Path) -> None:
    out, votes, report = tmp_path / "a.seg.nrrd", tmp_path / "votes.nii.gz", tmp_path / "a.json"
    arguments = ("--box", "19,15,1,53,45,11", "--modality", "PET", "-o", out, "--agreement", votes, "--report", report)
    code, text = run("segment", volume, *arguments)
    assert code == 0 and "vote" in text and "slices encoded" in text
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(votes)))
    assert found.shape == read_labels(out).shape and found.max() > 90
    assert json.loads(report.read_text())["cost"]["encodes"] > 11
    code, text = run("segment", volume, *arguments, "--view-weights", "1,x")
    assert code == 2 and "three weights" in text
    code, text = run("segment", volume, *arguments, "--strategy", "propagate", "--every", "3")
    assert code == 0 and "votes to map" in text


def test_challenge(run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    truth = ball((12, 40, 44), (20, 18, 6), (9, 8, 5))
    np.savez_compressed(tmp_path / "in" / "3DBox_MR_1.npz", imgs=(truth * 200).astype(np.uint8), boxes=[[11, 10, 1, 29, 26, 11]])
    code, text = run("challenge", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 0 and "1 of 1 cases" in text and (tmp_path / "out" / "seconds.csv").is_file()
    (tmp_path / "in" / "3DBox_CT_2.npz").write_bytes(b"PK nothing")
    code, text = run("challenge", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1 and "3DBox_CT_2.npz" in text and "1 of 2 cases" in text


def test_interrupting_is_one_sentence(run, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("qmedsam.segmenter.Segmenter.segment", interrupted)
    code, text = run("segment", volume, "--box", "19,15,1,53,45,11", "-o", tmp_path / "a.seg.nrrd")
    assert code == 130 and text.strip() == "Stopped by you. Nothing was written." and not (tmp_path / "a.seg.nrrd").exists()


def test_models_list_show_verify(run) -> None:
    code, text = run("models", "list")
    assert code == 0 and "int8" in text
    code, text = run("models", "verify")
    assert code == 0 and "intact" in text
    name = text.split()[1]
    code, text = run("models", "show", name)
    assert code == 0 and '"input_size"' in text
    code, text = run("models", "remove", name)
    assert code == 2 and "Shipped models cannot be removed" in text


def test_help_of_every_command(run) -> None:
    for arguments in ((), ("segment",), ("demo",), ("evaluate",), ("challenge",), ("models",), ("models", "add")):
        code, text = run(*arguments, "--help")
        assert code == 0 and "Usage" in text
