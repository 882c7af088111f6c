"""What a run logs, when it stops, and what a continuation may change."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, List

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from lightning_fabric.utilities.rank_zero import rank_zero_only  # noqa: E402
from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import rehearsal, train, trainer  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.config import QuantizationConfig, TrainConfig  # noqa: E402
from qmedsam_training.data.volumes import VolumeCache  # noqa: E402
from qmedsam_training.plan import describe  # noqa: E402
from qmedsam_training.selection import Verdict  # noqa: E402
from small import TINY  # noqa: E402
from typer.testing import CliRunner  # noqa: E402


def _config(manifest: Path, **changes) -> TrainConfig:
    """Two batches of two images an epoch."""
    data = {"manifest": manifest, "workers": 0, "samples_per_epoch": 4, "held_out": 0.3, "held_out_per_group": 1}
    values = {"options": TINY, "input_size": 32, "batch_size": 2, "epochs": 1, "ema": 0, "threads": 1}
    return TrainConfig.model_validate({**values, **changes, "data": {**data, **changes.get("data", {})}})


def _log(folder: Path) -> List[dict]:
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_log_is_of_one_run_and_says_an_epoch_once(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the row of an epoch and its checkpoint; then begun anew."""
    save, calls = trainer.Trainer.checkpoint, []

    def killed(stage: trainer.Trainer) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        save(stage)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(trainer.Trainer, "checkpoint", killed)
        train.run(_config(manifest), tmp_path)
    train.run(_config(manifest), tmp_path)
    assert [row["epoch"] for row in _log(tmp_path)] == ["1"]
    (tmp_path / "last.pt").unlink()
    train.run(_config(manifest), tmp_path)
    assert [row["epoch"] for row in _log(tmp_path)] == ["1"]


def test_what_is_logged_and_normalised_with_is_seen_at_the_weights_themselves(manifest: Path, tmp_path: Path) -> None:
    """A sharpness-aware step looks a second time, at the worst point nearby."""
    losses, norms = [], []
    for rho in (0.0, 0.5):
        config = _config(manifest, optimizer={"sharpness": rho}, data={"samples_per_epoch": 2, "held_out": 0})
        train.run(config, tmp_path / str(rho))
        losses.append([(row["loss"], row["dsc"]) for row in _log(tmp_path / str(rho))])
        model = torch.load(tmp_path / str(rho) / "last.pt", weights_only=True)["model"]
        norms.append(torch.cat([value for name, value in model.items() if "running_" in name]))
    assert losses[0] == losses[1] and torch.equal(*norms)


def test_scoring_counts_towards_the_budget_and_not_towards_the_rate(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch takes a second, scoring a minute: the budget of two minutes ends while the second epoch is scored."""
    now, step, score = [0.0], trainer.step, trainer.score

    def lasting(seconds: float, function: Callable) -> Callable:
        def wrapped(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        return wrapped

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(trainer, "step", lasting(1, step))
    monkeypatch.setattr(trainer, "score", lasting(60, score))
    train.run(_config(manifest, epochs=9, minutes=2, data={"synthetic": 1}), tmp_path)  # scenes have several masks each
    assert [(row["step"], row["seconds"], row["samples_per_second"]) for row in _log(tmp_path)] == [
        ("2", "2", "2"),
        ("4", "64", "2"),
    ]


def test_processes_on_a_cpu_do_not_ask_for_a_gpus_normalisation(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--accelerator cpu on a machine that has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    wrapped = SimpleNamespace(
        global_rank=0,
        world_size=2,
        device=torch.device("cpu"),
        setup=lambda lesson, optimizer: (lesson, SimpleNamespace(optimizer=optimizer)),
    )
    stage = trainer.Trainer(_config(manifest), wrapped, tmp_path)
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in stage.student.modules())


def test_what_changes_no_result_may_change_in_a_continuation(manifest: Path, tmp_path: Path) -> None:
    train.run(_config(manifest), tmp_path)
    assert train._previous(_config(manifest, data={"workers": 3, "cache_mib": 7}), tmp_path)["progress"]["step"] == 2
    with pytest.raises(QMedSAMError, match="another data"):
        train._previous(_config(manifest, data={"synthetic": 0.1}), tmp_path)


def test_the_way_out_of_a_loss_that_is_no_number_is_one(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder would refuse another learning rate."""
    forward = trainer.Lesson.forward
    monkeypatch.setattr(trainer.Lesson, "forward", lambda *a: tuple(value * float("nan") for value in forward(*a)))
    with pytest.raises(QMedSAMError, match=r"no longer a number.* --init .*best\.pt -o NEW"):
        train.run(_config(manifest), tmp_path)


def test_a_board_is_one_file_and_no_score_is_shown_before_there_is_one(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    lines = []
    train.run(_config(manifest, epochs=2, tensorboard=True), tmp_path, lambda share, text: lines.append(text))
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 1
    assert ["held out" in line for line in lines] == [False, False, True, True]


def test_one_process_speaks_for_all(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text(f"data: {{manifest: {manifest}}}")
    monkeypatch.setattr(train, "run", lambda *a: tmp_path / "best.pt")
    Verdict(3, 3).save(tmp_path)
    for rank, said in ((0, True), (1, False)):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        told = CliRunner().invoke(app, ["train", "--config", str(config), "-o", str(tmp_path)]).output
        assert ("Best checkpoint" in told) == ("Training" in told) == said


def test_the_plan_is_what_the_run_then_takes(manifest: Path, tmp_path: Path) -> None:
    """Memory within a fifth of the peak of a run of eight steps in a process of its own; a step once was counted, not taken."""
    config = _config(manifest, batch_size=16, input_size=128, data={"samples_per_epoch": 128, "held_out": 0, "synthetic": 1})
    config.quantization = QuantizationConfig(calibration_images=8)
    plan = dict(describe(config))
    assert plan["newly calibrated"] == "image_encoder, mask_decoder" and "s a step" in plan["time"]
    told = float(re.search(r"([\d,]+) MiB at its peak", plan["memory"])[1].replace(",", ""))
    script = (
        "import sys\nfrom pathlib import Path\nfrom qmedsam_training.config import TrainConfig\n"
        "from qmedsam_training.rehearsal import peak\nfrom qmedsam_training.train import run\n"
        "run(TrainConfig.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))\nprint(peak() / 2**20)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, input=config.model_dump_json(), capture_output=True, text=True, check=True)
    taken = float(done.stdout.split()[-1])
    assert told == pytest.approx(taken, rel=0.2) and taken > 400, "the interpreter and its libraries are counted"


def test_what_a_step_would_fail_with_is_said_by_the_plan(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = SimpleNamespace(returncode=-9, stdout="", stderr="")
    monkeypatch.setattr(rehearsal.subprocess, "run", lambda *a, **k: failing)
    with pytest.raises(QMedSAMError, match="does not fit into the memory"):
        describe(_config(manifest))
    failing.returncode, failing.stdout = 0, '{"error": ["A sentence.", "A hint."]}'
    with pytest.raises(QMedSAMError, match=r"A sentence\. A hint"):
        describe(_config(manifest))


def test_caches_that_fill_later_are_counted() -> None:
    cache = VolumeCache(lambda key: key, lambda value: 10 * 2**20, 100)
    assert cache.growth(5) == 0, "nothing is known yet"
    assert cache[1] + cache[2] == 3
    assert cache.growth(5) == 30 * 2**20 and cache.growth(1000) == 80 * 2**20


def test_machines_without_a_shared_folder_are_refused(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has done seven steps of which this one knows nothing."""
    monkeypatch.setattr(train.Fabric, "broadcast", lambda *a: 7)
    with pytest.raises(QMedSAMError, match="all machines share"):
        train.run(_config(manifest), tmp_path)
