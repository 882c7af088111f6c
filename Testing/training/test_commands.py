"""The commands as a user types them, on tiny data: index, train --dry-run, ptq, export, evaluate, compare."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("openvino")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam.models import Model, shipped_folder  # noqa: E402
from qmedsam_training import export as graphs  # noqa: E402
from qmedsam_training import networks  # noqa: E402
from qmedsam_training.ablations import Ablations  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.cli_options import described  # noqa: E402
from qmedsam_training.config import NetworkConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import make_source  # noqa: E402
from qmedsam_training.export import model_fields, write_folder  # noqa: E402
from qmedsam_training.selection import Verdict  # noqa: E402
from small import NARROW, TINY, invoke  # noqa: E402

_invoke = partial(invoke, app)


@pytest.fixture(scope="module")
def folder(challenge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, a configuration and a short float run."""
    folder = tmp_path_factory.mktemp("commands")
    _invoke("index", challenge, "-o", folder / "index.json")
    values = {
        "options": TINY,
        "input_size": 64,
        "data": {"challenge": str(folder / "index.json"), "sampler": "all", "held_out": 0.3, "workers": 0, "synthetic": 0.2},
        "batch_size": 4,
        "epochs": 4,  # after fewer it draws nothing
        "optimizer": {"learning_rate": 0.003, "warmup_epochs": 0.2},
        "ema": 0.5,
        "threads": 1,
        "tensorboard": True,
    }
    (folder / "float.yaml").write_text(yaml.safe_dump(values))
    _invoke("train", "--config", folder / "float.yaml", "-o", folder / "float")
    return folder


def test_what_the_commands_import_is_installed_with_them() -> None:
    """ONNX Runtime checks every export; it may not hide in an extra."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(__file__).resolve().parents[2]
    tables = [tomllib.loads((root / place / "pyproject.toml").read_text())["project"] for place in (".", "Training")]
    listed = {re.split(r"[^\w-]", line)[0].lower() for table in tables for line in table["dependencies"]}
    own = {"qmedsam_training", "nncf", "openvino"}  # the last two: see requirements-nncf.txt and requirements.txt
    names = {"yaml": "pyyaml", "skimage": "scikit-image", "PIL": "pillow"}
    for path in (root / "Training" / "qmedsam_training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module]
            for module in {name.split(".")[0] for name in found} - own - sys.stdlib_module_names:
                assert names.get(module, module).replace("_", "-").lower() in listed, f"{path.name} imports {module}"


def test_index_lists_what_it_left_out(challenge: Path, tmp_path: Path) -> None:
    text = _invoke("index", challenge, "-o", tmp_path / "i.json")
    assert "US_truncated" in text and "US_other" in text and "24" in text
    assert "files" in _invoke("index", challenge, "-o", tmp_path / "never.json", "--dry-run")
    assert not (tmp_path / "never.json").exists()


def test_a_run_leaves_log_plot_and_board(folder: Path) -> None:
    run = folder / "float"
    assert (run / "best.pt").is_file() and (run / "log.csv").is_file() and (run / "log.png").stat().st_size > 5000
    assert list((run / "tensorboard").glob("events*"))


def test_the_plan_counts_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    text = _invoke("train", "--config", folder / "float.yaml", "-o", tmp_path / "never", "--dry-run", "--epochs", "7")
    assert "samples per epoch" in text and "MiB at its peak" in text and "CT" in text and "7 epochs" in text
    assert not (tmp_path / "never").exists()


def test_the_plan_counts_the_teacher(folder: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((folder / "float.yaml").read_text())
    values["teacher"] = {"architecture": "litemedsam"}
    (tmp_path / "taught.yaml").write_text(yaml.safe_dump(values))
    peaks = []
    for name in (tmp_path / "taught.yaml", folder / "float.yaml"):
        text = _invoke("train", "--config", name, "-o", tmp_path / "never", "--dry-run")
        peaks.append(float(re.search(r"([\d,]+) MiB at its peak", text)[1].replace(",", "")))
    mib = sum(p.numel() for p in build("litemedsam").parameters()) * 4 / 2**20
    assert peaks[0] > peaks[1] + mib, "its weights and what it computes with"


def test_data_of_one_kind_takes_the_place_of_the_other(folder: Path, challenge: Path, manifest: Path, tmp_path: Path) -> None:
    config = tmp_path / "labelled.yaml"
    places = {"images": "i", "labels": "l", "modality": "CT"}
    config.write_text(yaml.safe_dump({"data": {"manifest": "missing.csv", "folders": [places]}}))
    data = TrainConfig.read(config, data__manifest=None, data__challenge=challenge).data
    assert data.challenge == challenge and data.manifest is None and not data.folders
    data = TrainConfig.read(config, data__manifest=manifest, data__challenge=None).data
    assert data.manifest == manifest and len(data.folders) == 1
    data = TrainConfig.read(folder / "float.yaml", data__manifest=manifest, data__challenge=None).data
    assert data.manifest == manifest and data.challenge is None
    with pytest.raises(QMedSAMError, match="either 'challenge'"):
        TrainConfig.read(config, data__manifest=manifest, data__challenge=challenge)


def test_cases_of_ones_own_take_the_place_of_a_recipes(manifest: Path, tmp_path: Path) -> None:
    """The shipped configurations name a path that nobody else has."""
    data = {"manifest": "nowhere.csv", "held_out": 0.3, "held_out_per_group": 1}
    small = {"data": data, "quantization": {"calibration_images": 1}}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"base": {"data": data}, "rows": [{"name": "a"}]}))
    network = NetworkConfig(options=TINY, input_size=64)
    networks.save(tmp_path / "tiny.pt", networks.make(network), network)
    told = ["--config", tmp_path / "stage.yaml", "--manifest", manifest]
    out = ["-o", tmp_path / "out"]
    assert "objects of 2 groups" in _invoke("evaluate", tmp_path / "tiny.pt", *told, "--dry-run")
    assert "+0.25" in _invoke("threshold", tmp_path / "tiny.pt", *told, *out, "--dry-run")
    assert "9 objects" in _invoke("compare", tmp_path / "tiny.pt", *told, *out, "--dry-run")
    assert "layers quantized" in _invoke("ptq", tmp_path / "tiny.pt", *told, "-o", tmp_path / "ptq.pt")
    rows = Ablations.read(tmp_path / "plan.yaml", manifest)
    assert rows.settings(rows.rows[0]).data.manifest == manifest
    with pytest.raises(QMedSAMError, match=r"nowhere\.csv"):
        _invoke("evaluate", tmp_path / "tiny.pt", *told[:2])


def test_ptq_export_and_evaluate(folder: Path, tmp_path: Path) -> None:
    best = folder / "float" / "best.pt"
    _invoke("ptq", best, "--config", folder / "float.yaml", "-o", tmp_path / "ptq.pt", "--dry-run")
    assert not (tmp_path / "ptq.pt").exists()
    assert "layers quantized" in _invoke("ptq", best, "--config", folder / "float.yaml", "-o", tmp_path / "ptq.pt")
    (tmp_path / "card.md").write_text("# The card\n")
    (tmp_path / "table.md").write_text("# Scores\n\n![Best and worst](sheet.png)\n\n## By source\n")
    (tmp_path / "recipe.yaml").write_text("title: Tiny\ncard_file: card.md\ncard_tables: [table.md]\n")
    text = _invoke("export", tmp_path / "ptq.pt", "-o", tmp_path / "model", "--recipe", tmp_path / "recipe.yaml")
    assert (tmp_path / "model" / "MODEL_CARD.md").read_text() == "# The card\n\n## Scores\n\n### By source\n"
    assert "OpenVINO, f32 hint" in text and "ONNX Runtime" in text
    assert Model.read(tmp_path / "model").manifest.precision == "int8"
    means = []
    for network in (best, tmp_path / "ptq.pt", tmp_path / "model"):
        text = _invoke("evaluate", network, "--config", folder / "float.yaml")
        mean = next(line for line in text.splitlines() if "mean" in line).split("│")
        means.append(float(mean[3]))
        low, high = map(float, mean[5].split(" to "))
        assert low <= means[-1] <= high
        ellipse = next(line for line in text.splitlines() if "ellipse" in line)
        assert float(ellipse.split("│")[3]) > 0.9  # the objects are ellipses
    assert means[0] > 0.3 and means[1] == pytest.approx(means[0], abs=0.05) and means[2] == pytest.approx(means[1], abs=0.03)
    everyone = _invoke("evaluate", tmp_path / "ptq.pt", "--config", folder / "float.yaml", "--split", "train", "--dry-run")
    assert "objects of 3 groups" in everyone and "14 patients" in everyone
    with pytest.raises(QMedSAMError, match="no split 'test'"):
        _invoke("evaluate", tmp_path / "ptq.pt", "--config", folder / "float.yaml", "--split", "test")
    with pytest.raises(QMedSAMError, match="quantized already"):
        _invoke("ptq", tmp_path / "ptq.pt", "--config", folder / "float.yaml", "-o", tmp_path / "again.pt")


def test_an_export_that_computes_something_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The confidence too: a propagation stops by it."""
    network = NetworkConfig(options=TINY, input_size=32)
    networks.save(tmp_path / "tiny.pt", networks.make(network), network)
    text = _invoke("export", tmp_path / "tiny.pt", "-o", tmp_path / "right")
    assert text.count("; confidence ") == 2 and "something else" not in text

    class Constant(graphs._Decoder):
        def forward(self, embedding: torch.Tensor, boxes: torch.Tensor) -> tuple:
            logits, confidence = self.model.predict(embedding, boxes)
            return logits, confidence * 0 + 0.1

    monkeypatch.setattr(graphs, "_Decoder", Constant)
    text = _invoke("export", tmp_path / "tiny.pt", "-o", tmp_path / "wrong")
    assert text.count("100.00% of the boxes' pixels alike") == 2 and text.count("something else") == 2


@pytest.mark.parametrize(("architecture", "whole", "kind"), [("qmedsam-compact", 1, "slice"), ("litemedsam", 0.2, "roi")])
def test_a_model_ships_with_the_frame_it_was_trained_and_scored_on(
    architecture: str, whole: float, kind: str, folder: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its architecture's public weights were shown."""
    options = TINY if architecture == "qmedsam-compact" else NARROW
    data = {"manifest": str(manifest), "samples_per_epoch": 4, "held_out": 0.3, "held_out_per_group": 1, "workers": 0}
    values = {"architecture": architecture, "options": options, "input_size": 64 if options is TINY else 256, "margin": 0.4}
    values.update(data={**data, "whole_slice": whole}, batch_size=2, epochs=1, threads=1)
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(values))
    _invoke("train", "--config", tmp_path / "stage.yaml", "-o", tmp_path / "run")
    _, network = networks.load(tmp_path / "run" / "best.pt")
    assert model_fields(network, "m")["frame"] == ({"kind": kind} if kind == "slice" else {"kind": kind, "margin": 0.4})
    # Scored by another configuration's data it keeps its frame.
    other = make_source(described(folder / "float.yaml", network)).held_out()[0].frame
    assert other.size / other.scale_x == pytest.approx(80) if kind == "slice" else other.size / other.scale_x < 79


def test_what_does_not_say_its_frame_has_its_architectures() -> None:
    """The shipped version's float weights, and public ones."""
    network = networks.load(Path(__file__).resolve().parents[2] / "Training" / "checkpoints" / "compact-160.pt")[1]
    assert network.frame is None and model_fields(network, "m")["frame"] == {"kind": "roi", "margin": 0.3}
    assert model_fields(NetworkConfig(architecture="litemedsam"), "m")["frame"] == {"kind": "slice"}


def test_threshold_moves_the_logits_to_where_held_out_dsc_is_best(folder: Path, tmp_path: Path) -> None:
    best, config = folder / "float" / "best.pt", folder / "float.yaml"
    model, network = networks.load(best)
    model.move_logits(0.75)
    networks.save(tmp_path / "off.pt", model, network)
    networks.save(tmp_path / "not" / "there" / "yet.pt", model, network)

    def rows(text: str) -> dict:
        cells = [line.split("\u2502")[1:3] for line in text.splitlines() if line.startswith("\u2502")]
        return {float(a): float(b) for a, b in cells}

    before = rows(_invoke("threshold", tmp_path / "off.pt", "--config", config, "-o", tmp_path / "never.pt", "--dry-run"))
    assert not (tmp_path / "never.pt").exists() and len(before) == 9
    text = _invoke("threshold", tmp_path / "off.pt", "--config", config, "-o", tmp_path / "on.pt")
    chosen = min((t for t, mean in before.items() if mean >= max(before.values()) - 0.001), key=abs)
    assert f"moved by {-chosen:+.2f}" in text
    after = rows(_invoke("threshold", tmp_path / "on.pt", "--config", config, "-o", tmp_path / "never.pt", "--dry-run"))
    assert after[0] == before[chosen] >= before[0]
    _invoke("threshold", tmp_path / "off.pt", "--config", config, "--by", "-0.5", "-o", tmp_path / "by.pt")
    by = rows(_invoke("threshold", tmp_path / "by.pt", "--config", config, "-o", tmp_path / "never.pt", "--dry-run"))
    assert [by[n / 4] for n in range(-4, 3)] == [before[n / 4 + 0.5] for n in range(-4, 3)]
    with pytest.raises(QMedSAMError, match="no bias"):
        build("litemedsam").move_logits(1)


def test_compare_writes_the_papers_tables(folder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("NNCF, the control, is not installed")
    # In a process of its own: importing NNCF changes torch for everything that follows.
    arguments = ["compare", folder / "float" / "best.pt", "--config", folder / "float.yaml", "-o", tmp_path, "--repeats", "1"]
    command = [sys.executable, "-m", "qmedsam_training.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    with (tmp_path / "compare.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["group"] == "mean of groups"]
    assert [r["form"] for r in rows] == ["float", "float, bf16 hint", "PTQ", "NNCF PTQ", "ellipse in the box"]
    ellipse = rows.pop()
    assert float(ellipse["dsc"]) > 0.9 and ellipse["mib"] == ellipse["ms OpenVINO"] == ""  # the objects are ellipses
    assert all(0 <= float(r["dsc"]) <= 1 and float(r["ms OpenVINO"]) > 0 for r in rows)
    sizes = {r["form"]: float(r["mib"]) for r in rows}
    assert sizes["PTQ"] < sizes["float"] and "| PTQ |" in text
    assert (tmp_path / "compare.png").stat().st_size > 5000


def test_a_folder_that_is_no_model_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    """The name forgotten (``-o MODELS``), or the folder of the runs: nothing is deleted, and it is said before the export."""
    best, config = folder / "float" / "best.pt", folder / "float.yaml"
    models = tmp_path / "models"
    (models / "precious").mkdir(parents=True)
    (models / "precious" / "weights.bin").write_bytes(b"years")
    with pytest.raises(QMedSAMError, match=r"not a model folder.*precious"):
        _invoke("export", best, "-o", models)
    assert (models / "precious" / "weights.bin").read_bytes() == b"years"
    with pytest.raises(QMedSAMError, match="not a model folder"):  # folder/float is the run
        _invoke("compare", best, "--config", config, "-o", folder, "--no-nncf")
    assert best.is_file()
    torch.save(build("litemedsam").state_dict(), tmp_path / "lite.pth")
    with pytest.raises(QMedSAMError, match="not a model folder"):
        _invoke("import-checkpoint", tmp_path / "lite.pth", "--architecture", "litemedsam", "-o", models)


def test_an_empty_folder_is_filled_and_a_model_replaced(tmp_path: Path) -> None:
    shipped = next(p for p in shipped_folder().iterdir() if p.is_dir())
    fields = json.loads((shipped / "manifest.json").read_text())

    def parts(scratch: Path) -> None:
        for name in fields["files"]:
            shutil.copy(shipped / name, scratch)

    (tmp_path / "model").mkdir()
    for card in ("# One", "# Two"):
        write_folder(tmp_path / "model", parts, fields, card)
        Model.read(tmp_path / "model").verify()
        assert (tmp_path / "model" / "MODEL_CARD.md").read_text() == card
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_with_nobody_held_out_nothing_can_be_scored(folder: Path, tmp_path: Path) -> None:
    """0, or a share so small that no file falls into it."""
    values = yaml.safe_load((folder / "float.yaml").read_text())
    best, config = folder / "float" / "best.pt", tmp_path / "all.yaml"
    values["data"]["held_out"] = 0
    config.write_text(yaml.safe_dump(values))
    for command, *more in (("threshold", "-o", tmp_path / "t.pt"), ("compare", "-o", tmp_path / "c"), ("evaluate",)):
        with pytest.raises(QMedSAMError, match="Nobody is held out"):
            _invoke(command, best, "--config", config, *more)
    values["optimizer"]["schedule"] = "plateau"
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(QMedSAMError, match="held-out score"):
        _invoke("train", "--config", config, "-o", tmp_path / "r")
    values["data"].update(held_out=0.1, held_out_least=6)  # of 21 files
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(QMedSAMError, match="for a plateau to follow"):
        _invoke("train", "--config", config, "-o", tmp_path / "r")
    with pytest.raises(QMedSAMError, match=r"held out in turn.*report\.md"):
        _invoke("evaluate", best, "--config", config)


def test_all_runtimes_are_timed_on_the_same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from qmedsam_training import compare

    seen, before = [], torch.get_num_threads()

    class Runtime:
        def encode(self, image) -> None:
            seen.append(torch.get_num_threads())

        def decode(self, embedding, box) -> None:
            pass

    held = SimpleNamespace(image=torch.zeros(3, 8, 8), box=torch.zeros(1, 4))
    compare.timed({"float": {"PyTorch": Runtime()}}, held, 2, before + 1, lambda text: None)
    assert seen == [before + 1] * 3 and torch.get_num_threads() == before


def test_wrong_files_are_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(QMedSAMError, match="could not be read"):
        _invoke("export", tmp_path / "x.pt", "-o", tmp_path / "m")
    with pytest.raises(QMedSAMError, match="no checkpoint"):
        _invoke("train", "--config", folder / "float.yaml", "-o", tmp_path / "r", "--init", tmp_path / "z.pt", "--dry-run")
    torch.save({"model": {}}, tmp_path / "y.pt")
    with pytest.raises(QMedSAMError, match="which network"):
        _invoke("export", tmp_path / "y.pt", "-o", tmp_path / "m")


def test_the_readmes_settings_are_those_of_the_code() -> None:
    """Made with ``qmedsam-train settings``; every one says what it is."""
    page = (Path(__file__).resolve().parents[2] / "Training" / "README.md").read_text(encoding="utf-8")
    listed = page.split("<!-- settings -->\n")[1].split("\n<!-- end of settings -->")[0]
    assert listed == _invoke("settings").rstrip("\n")
    rows = [line.split(" | ") for line in listed.splitlines()[2:]]
    assert len(rows) > 55 and all(row[-1].rstrip(" |") for row in rows), [row for row in rows if not row[-1].rstrip(" |")]


def test_own_cases_train_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configuration, the user's folders: no CSV, no YAML."""
    seen = []
    monkeypatch.setattr("qmedsam_training.train.run", lambda settings, *a: seen.append(settings) or tmp_path / "best.pt")
    Verdict(4, 4).save(tmp_path)
    config = Path(__file__).resolve().parents[2] / "Training" / "configs" / "own-cases.yaml"
    folders = ["--images", tmp_path / "i", "--labels", tmp_path / "l", "--modality", "CT"]
    text = _invoke("train", "--config", config, *folders, "-o", tmp_path, "--seed", "5")
    (data,), seed = [settings.data for settings in seen], seen[0].seed
    assert data.manifest is None and [f.images for f in data.folders] == [tmp_path / "i"] and seed == 5
    assert "Nobody was held out" in text
    with pytest.raises(QMedSAMError, match="go together"):
        _invoke("train", "--config", config, *folders[:2], "-o", tmp_path)
