"""Ctrl-C wherever it falls: the run that goes on ends as one that nobody stopped, bit for bit."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam_training import train, trainer  # noqa: E402
from qmedsam_training.config import TrainConfig  # noqa: E402
from qmedsam_training.interruption import Interruption  # noqa: E402
from small import TINY  # noqa: E402


def _config(manifest: Path, **changes) -> TrainConfig:
    data = {"manifest": manifest, "synthetic": 0, "workers": 0, "samples_per_epoch": 12, "held_out": 0.3}
    values = {
        "options": TINY,
        "input_size": 64,
        "data": {**data, "held_out_per_group": 1, **changes.pop("data", {})},
        "batch_size": 4,
        "epochs": 1,
        "optimizer": {"learning_rate": 0.01, "warmup_epochs": 0, "sharpness": 0.05},
        "ema": 0.5,
        "threads": 1,
    }
    return TrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three sharpness-aware batches and a scoring that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train.run(_config(manifest), folder)
    return folder


def _at_call(number: int, function: Callable) -> Callable:
    """The same function; Ctrl-C falls after its n-th call's work is done, as in the middle of what called it."""
    calls = 0

    def wrapped(*arguments, **options):
        nonlocal calls
        result = function(*arguments, **options)
        calls += 1
        if calls == number:
            signal.raise_signal(signal.SIGINT)
        return result

    return wrapped


def _same(a: Path, b: Path) -> None:
    for name in ("last.pt", "best.pt"):
        left, right = (torch.load(folder / name, weights_only=True)["model"] for folder in (a, b))
        assert all(torch.equal(left[key], right[key]) for key in right), name
    rows = []
    for folder in (a, b):
        with (folder / "log.csv").open() as stream:
            rows.append([(r["epoch"], r["step"], r["loss"], r["held_out_dsc"]) for r in csv.DictReader(stream)])
    assert rows[0] == rows[1] and len(rows[0]) == 1


@pytest.mark.parametrize(
    ("owner", "name", "call", "batches"),
    [
        pytest.param(trainer.Lesson, "forward", 3, 2, id="between forward and step"),
        pytest.param(trainer.Lesson, "forward", 4, 2, id="at the worst point nearby"),
        pytest.param(trainer.Lesson, "forward", 6, 3, id="in the last batch"),
        pytest.param(trainer, "score", 1, 0, id="while scoring"),
    ],
)
def test_what_goes_on_ends_like_what_was_never_stopped(
    owner, name: str, call: int, batches: int, whole: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _at_call(call, getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            train.run(_config(manifest), tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["batch"] == batches
    assert signal.getsignal(signal.SIGINT) is handler
    assert train.run(_config(manifest), tmp_path).is_file()
    _same(tmp_path, whole)


def test_what_was_learned_is_scored_when_the_time_is_over(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is held out, and the last batch within the budget is the one that Ctrl-C fell into: its weights count."""
    config = _config(manifest, minutes=1e-9, data={"held_out": 0})
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Lesson, "forward", _at_call(1, trainer.Lesson.forward))
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tmp_path)
    best = torch.load(train.run(config, tmp_path), weights_only=True)["model"]
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["progress"]["step"] == 1 and best.keys() == last["model"].keys()
    assert all(
        torch.equal(best[name], weight) for name, weight in last["model"].items() if "running_" not in name and "num_" not in name
    ), "the mean of one step is that step; its statistics are taken anew"


def test_a_terminal_interrupts_workers_too_and_they_go_on(manifest: Path, tmp_path: Path) -> None:
    """The batch in progress may still need them."""

    def interrupt(share: float, text: str) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)

    train.run(_config(manifest, data={"workers": 1, "samples_per_epoch": 32}), tmp_path, interrupt)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["step"] == 8


def test_the_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
