"""Mistakes in configurations, files and names: a sentence and a way out, never a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import cli, export, networks, train  # noqa: E402
from qmedsam_training.ablations import Ablations  # noqa: E402
from qmedsam_training.checkpoints import load_public  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.config import DataConfig, NetworkConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import ChallengeData, Plan, Preparation, make_loader  # noqa: E402
from qmedsam_training.quantization import quantized_layers  # noqa: E402
from qmedsam_training.recipes import read_recipe  # noqa: E402
from small import TINY, invoke  # noqa: E402

#: All that holds layers of the two parts, but for one or two: quantizers take long to make.
ENCODER = [f"image_encoder.{name}" for name in ("stem", "stages", "lateral", "smooth")]
DECODER = [
    f"mask_decoder.{name}"
    for name in ("merge", "down", "context_down", "context_up", "local", "blocks", "lift", "refine", "upscale", "fine", "sharpen")
]


def _network(parts: list, skip: list) -> NetworkConfig:
    return NetworkConfig(options=TINY, quantization={"parts": parts, "skip": skip})


def test_skipping_reaches_into_what_holds_layers_and_refuses_what_changes_nothing() -> None:
    assert quantized_layers(networks.make(_network(["mask_decoder"], DECODER))) == 4, "of hyper and iou"
    for name in ("mask_decoder.prompt", "mask_decoder.nothing", "mask_decoder", "image_encoder.stem"):
        with pytest.raises(QMedSAMError, match=f"no layer.*{name.split('.')[-1]}"):
            networks.make(_network(["mask_decoder"], [name]))


def test_a_later_stage_may_skip_in_the_part_that_it_quantizes(tmp_path: Path) -> None:
    first, both = ["mask_decoder"], ["mask_decoder", "image_encoder"]
    networks.save(tmp_path / "first.pt", networks.make(_network(first, DECODER)), _network(first, DECODER))
    assert networks.start(_network(both, ENCODER + DECODER), tmp_path / "first.pt")[1] == ("image_encoder",)
    with pytest.raises(QMedSAMError, match="another way"):
        networks.start(_network(both, ENCODER), tmp_path / "first.pt")


def _read(folder: Path, content: str, encoding: str = "utf-8", **overrides) -> TrainConfig:
    (folder / "stage.yaml").write_text(content, encoding=encoding)
    return TrainConfig.read(folder / "stage.yaml", **overrides)


def test_configurations_that_ended_in_a_traceback(tmp_path: Path) -> None:
    for content, encoding, overrides, match in (
        ("data: {manifest: a.csv}\ninput_size: 100", "utf-8", {}, "input_size 100. It takes multiples of 32"),
        ("data: {manifest: a.csv}\narchitecture: litemedsam\ninput_size: 128", "utf-8", {}, "It takes 256 alone"),
        ("data: {manifest: müller.csv}", "latin-1", {}, "could not be read"),
        ("data: here", "utf-8", {"data__manifest": "a.csv"}, "data is no section"),
    ):
        with pytest.raises(QMedSAMError, match=match):
            _read(tmp_path, content, encoding, **overrides)
    with pytest.raises(QMedSAMError, match="could not be read"):
        (tmp_path / "plan.yaml").write_text("base: müller", encoding="latin-1")
        Ablations.read(tmp_path / "plan.yaml")
    with pytest.raises(QMedSAMError, match="widht"):
        networks.make(NetworkConfig(options={"widht": 3}))


def test_what_a_configuration_leaves_out(tmp_path: Path) -> None:
    """An empty section, and the size: the architecture's own."""
    assert _read(tmp_path, "data:", data__manifest="mine.csv").data.manifest == Path("mine.csv")
    for name, size in (("litemedsam", 256), ("qmedsam-compact", 160)):
        assert _read(tmp_path, f"data: {{manifest: a}}\narchitecture: {name}").input_size == size


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_broke_since_it_was_indexed_is_named(workers: int, tmp_path: Path) -> None:
    """By the process that reads it, as its own sentence and hint."""
    (tmp_path / "US" / "set").mkdir(parents=True)
    labels = np.zeros((64, 64), np.uint8)
    labels[10:50, 10:50] = 1
    np.savez_compressed(tmp_path / "US" / "set" / "a.npz", imgs=np.repeat(40 * labels[..., None], 3, 2), gts=labels)
    data = ChallengeData(DataConfig(challenge=tmp_path, synthetic=0), Preparation(32, {"kind": "minmax"}, 0.3, "slice"))
    whole = (tmp_path / "US" / "set" / "a.npz").read_bytes()
    (tmp_path / "US" / "set" / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(QMedSAMError, match=r"a\.npz") as raised:
        next(iter(make_loader(Plan(data, 1), workers)))
    assert "Traceback" not in raised.value.message and raised.value.hint


def test_a_wrong_checkpoint_is_said_without_torchs_advice(tmp_path: Path) -> None:
    """It once was cut off within "In PyTorch 2.6, we changed ..."; and a checkpoint of ours had "other options"."""
    (tmp_path / "notes.pth").write_text("not a checkpoint")
    torch.save(Path("x"), tmp_path / "code.pth")
    network = NetworkConfig(architecture="litemedsam")
    for name in ("notes.pth", "code.pth"):
        with pytest.raises(QMedSAMError, match="could not be read as a checkpoint") as raised:
            networks.start(network, tmp_path / name)
        assert "torch.save" in raised.value.hint and "2.6" not in str(raised.value)
        with pytest.raises(QMedSAMError, match="could not be read as a checkpoint"):
            load_public(torch.nn.Identity(), tmp_path / name)
    ours = NetworkConfig(options=TINY)
    networks.save(tmp_path / "ours.pt", networks.make(ours), ours)
    with pytest.raises(QMedSAMError, match="not a litemedsam checkpoint, but one of qmedsam-compact"):
        networks.start(network, tmp_path / "ours.pt")
    torch.save({"network": {"depth": 3}, "model": {}}, tmp_path / "other.pt")
    with pytest.raises(QMedSAMError, match="not ours"):
        networks.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("threads: 100000", "threads: .*1024"),
        ("seed: -1", "seed: .*greater than or equal to 0"),
        ("accelerator: abacus", "accelerator: .*'cpu'"),
        ("teacher: {architecture: medsan}", "no architecture 'medsan'. Known: .*medsam"),
        ("architecture: compact", "no architecture 'compact'"),
        ("teacher: {architecture: medsam, input_size: 100}", "medsam cannot have the input_size 100"),
        ("data: {manifest: a, folds: 2, fold: 2}", "data: of 2 folds the last is number 1"),
    ],
)
def test_settings_that_a_machine_would_stumble_over(content: str, match: str, tmp_path: Path) -> None:
    text = content if content.startswith("data") else f"data: {{manifest: a.csv}}\n{content}"
    with pytest.raises(QMedSAMError, match=match) as raised:
        _read(tmp_path, text)
    assert raised.value.hint


def test_widths_that_do_not_fit_are_said_before_anything_is_loaded() -> None:
    for options in (
        {**TINY, "width": 30},
        {**TINY, "width": 33},
        {**TINY, "widths": [8]},
        {**TINY, "embed": 0},
    ):
        with pytest.raises(QMedSAMError, match=r"qmedsam-compact (cannot be built|does not work) with its options"):
            networks.make(NetworkConfig(options=options, input_size=64))
    networks.make(NetworkConfig(options=TINY, input_size=64))


def _stage(manifest: Path, **changes) -> TrainConfig:
    data = {"manifest": manifest, "workers": 0, "samples_per_epoch": 4, "held_out": 0, "synthetic": 1}
    values = {"options": TINY, "input_size": 32, "batch_size": 2, "epochs": 1, "threads": 1}
    return TrainConfig.model_validate({**values, **changes, "data": data})


def test_runs_that_cannot_be(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QMedSAMError, match="Everything is frozen"):
        train.run(_stage(manifest, freeze=["image_encoder", "mask_decoder"]), tmp_path / "frozen")
    if not torch.cuda.is_available():
        with pytest.raises(QMedSAMError, match="1 x 'cuda' cannot be used"):
            train.run(_stage(manifest, accelerator="cuda"), tmp_path / "cuda")
    monkeypatch.setitem(sys.modules, "lightning_fabric.loggers.tensorboard", None)
    with pytest.raises(QMedSAMError, match=r"not installed\. pip install tensorboardX"):
        train.run(_stage(manifest, tensorboard=True), tmp_path / "board")


def test_more_threads_than_cores_are_not_taken(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(train.torch, "set_num_threads", taken.append)
    train.launched(_stage(manifest, threads=1000))
    assert taken == [os.cpu_count()]


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ("titel: Mine", "titel: there is no such setting"),
        ("modalities: [CT, Sonar]", "modality 'Sonar' is not known"),
        ("modalities: CT", "modalities"),
        ("name: ../evil", "'../evil' cannot be the name"),
        ("name: .hidden", "cannot be the name"),
        ("card_file: nowhere.md", "nowhere.md.*could not be read"),
        ("card_tables: [nowhere.md]", "nowhere.md.*could not be read"),
        ("precision: int8", "precision: there is no such setting"),
        ("data: [{name: mine}]", "data.0.license"),
        ("strategies: {CT: guess}", "strategies.CT"),
        ("- a list", "not a configuration"),
    ],
)
def test_recipes_are_checked_before_the_export(recipe: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NetworkConfig(options=TINY, input_size=32)
    networks.save(tmp_path / "tiny.pt", networks.make(network), network)
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.setattr(export, "write_model", lambda *a, **k: pytest.fail("exported"))
    with pytest.raises(QMedSAMError, match=match):
        invoke(app, "export", tmp_path / "tiny.pt", "-o", tmp_path / "model", "--recipe", tmp_path / "recipe.yaml")


def test_the_shipped_recipe_is_one() -> None:
    """And its card is there."""
    fields, card = read_recipe(
        Path(__file__).resolve().parents[2] / "Training" / "configs" / "compact-model.yaml", NetworkConfig(), "x"
    )
    assert fields["name"] == "qmedsam-compact" and fields["modalities"] == ["*"] and card.startswith("#")
    assert {"name", "license"} == set(fields["data"][0])


def test_at_the_door_everything_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """As in ``qmedsam``: no traceback but for those who ask for one."""

    def fails() -> None:
        raise ZeroDivisionError("division [by] zero\nand more")

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as raised:
        cli.main()
    said = capsys.readouterr()
    assert raised.value.code == 2 and not said.out
    assert "Error: division [by] zero. If this looks like a bug" in " ".join(said.err.split()) and "and more" not in said.err
    monkeypatch.setenv("QMEDSAM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main()
