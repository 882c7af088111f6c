"""A run owns its folder: one process at a time, whole files or none, seen from a log as from a terminal."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import networks, train, trainer  # noqa: E402
from qmedsam_training.config import TrainConfig  # noqa: E402
from qmedsam_training.interruption import Interruption  # noqa: E402
from qmedsam_training.reporting import Lines  # noqa: E402
from small import TINY  # noqa: E402


def _config(manifest: Path, **changes) -> TrainConfig:
    data = {"manifest": manifest, "workers": 0, "samples_per_epoch": 4, "held_out": 0.3, "held_out_per_group": 1, "synthetic": 0}
    values = {"options": TINY, "input_size": 32, "batch_size": 2, "epochs": 1, "ema": 0, "threads": 1}
    return TrainConfig.model_validate({**values, **changes, "data": {**data, **changes.get("data", {})}})


def test_two_processes_do_not_train_in_one_folder(manifest: Path, tmp_path: Path) -> None:
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom qmedsam_training.train import _owned\n"
        "with _owned(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(QMedSAMError, match="Another process trains"):
            train.run(_config(manifest), tmp_path)
    finally:
        other.kill()  # even so it holds nothing any more
        other.wait()
    assert train.run(_config(manifest), tmp_path).is_file()


def test_a_full_disk_leaves_the_previous_checkpoint_and_a_sentence(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.run(_config(manifest), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    names = sorted(p.name for p in tmp_path.iterdir())

    def full(content: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(networks.torch, "save", full)
    network = networks.NetworkConfig(options=TINY, input_size=32)
    with pytest.raises(QMedSAMError, match=r"last\.pt.*No space left") as raised:
        networks.save(tmp_path / "last.pt", networks.make(network), network)
    assert raised.value.hint
    assert (tmp_path / "last.pt").read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == names


def test_what_a_killed_run_left_half_written_goes(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / ".qmedsam-abc").mkdir()
    (tmp_path / ".qmedsam-abc" / "last.pt").write_bytes(b"half")
    train.run(_config(manifest), tmp_path)
    assert not list(tmp_path.glob(".qmedsam-*"))


def test_a_file_in_the_place_of_the_folder_is_said(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for place in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(QMedSAMError, match="cannot be made"):
            train.run(_config(manifest), place)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_is_not_made_longer_than_its_schedule(manifest: Path, tmp_path: Path) -> None:
    """The rate has fallen by then, and would jump back."""
    train.run(_config(manifest, epochs=2), tmp_path)
    with pytest.raises(QMedSAMError, match=r"run of 2 epochs.*--init"):
        train.run(_config(manifest, epochs=4), tmp_path)
    assert train.run(_config(manifest, epochs=1), tmp_path).is_file(), "a shorter one is over"
    plateau = {"schedule": "plateau"}
    train.run(_config(manifest, optimizer=plateau), tmp_path / "plateau")
    train.run(_config(manifest, optimizer=plateau, epochs=2), tmp_path / "plateau")


def test_table_and_curves_are_there_while_it_goes(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, seen = trainer.Trainer._learn, []

    def looking(stage: trainer.Trainer, batch: tuple) -> float:
        seen.append((stage.at.epoch, (tmp_path / "log.png").is_file(), (tmp_path / "log.csv").read_text().count("\n")))
        return learn(stage, batch)

    monkeypatch.setattr(trainer.Trainer, "_learn", looking)
    train.run(_config(manifest, epochs=2), tmp_path)
    assert seen == [(0, False, 1), (0, False, 1), (1, True, 2), (1, True, 2)]


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_stops_as_ctrl_c_does(workers: int, manifest: Path, tmp_path: Path) -> None:
    """SLURM sends it to the workers too; the batch in progress may still need them."""
    config = _config(manifest, data={"workers": workers, "samples_per_epoch": 8})

    def terminate(share: float, text: str) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path, terminate)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["step"] == 1
    train.run(config, tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["step"] == 4


def test_only_the_first_sigterm_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *a: calls.append(1))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.asked and not calls
            signal.raise_signal(signal.SIGTERM)
        assert calls == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_terminal_there_is_a_line_a_minute() -> None:
    lines, now = [], [0.0]
    tell = Lines(lines.append, clock=lambda: now[0])
    for second in range(0, 181, 10):
        now[0] = float(second)
        tell(0.4 + second / 1000, f"epoch {second}")
    tell(1.0, "done")
    assert len(lines) == 5, lines
    assert " 40 % epoch 0" in lines[0] and " 46 % epoch 60 (60 s, 9 min left)" in lines[1] and "100 % done" in lines[-1]


def test_the_command_tells_its_progress_into_a_pipe_and_stops_at_sigterm(manifest: Path, tmp_path: Path) -> None:
    """As SLURM would have it: no terminal, one line at once, SIGTERM, a sentence, and the exit code of an interruption."""
    import yaml

    values = _config(manifest, epochs=500).model_dump(mode="json", exclude_none=True)
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "qmedsam_training.cli", "train", "--config", str(tmp_path / "stage.yaml")]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, until = "", time.monotonic() + 300
    while " % " not in said and process.poll() is None and time.monotonic() < until:
        said += process.stdout.readline()
    assert "epoch 1, DSC" in said, said
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "The same command goes on" in rest, rest
    assert (tmp_path / "run" / "last.pt").is_file()
