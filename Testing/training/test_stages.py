"""The QMedSAM paper's three stages for real, small: LiteMedSAM with a narrow encoder on the challenge's layout."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Sequence, Tuple

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam.intensity import normalise  # noqa: E402
from qmedsam_training import trainer  # noqa: E402
from qmedsam_training.architectures import ARCHITECTURES, build  # noqa: E402
from qmedsam_training.config import TeacherConfig, TrainConfig  # noqa: E402
from qmedsam_training.distillation import Teacher  # noqa: E402
from qmedsam_training.networks import load  # noqa: E402
from qmedsam_training.train import run  # noqa: E402
from small import NARROW, TINY  # noqa: E402
from torch import nn  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[2] / "Training" / "configs"
TEACHER = {"width": 16, "depth": 1, "heads": 2, "global_blocks": []}


def _stage(name: str, challenge: Path, **changes) -> TrainConfig:
    """A shipped configuration, with its sizes brought down."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    values.update(options=NARROW, batch_size=4, epochs=2, threads=1)
    values["data"].update(challenge=challenge, workers=0, held_out=0.25, held_out_per_group=1)
    if "quantization" in values:
        values["quantization"]["calibration_images"] = 6
    if "teacher" in values:
        values["teacher"].update(options=TEACHER, checkpoint=None)
    values["optimizer"]["warmup_epochs"] = min(values["optimizer"]["warmup_epochs"], 0.5)
    return TrainConfig.model_validate({**values, **changes})


def _log(folder: Path) -> list:
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def stages(challenge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders stage1 .. stage3, each started from the one before, from a random float network; the last one learns something."""
    folder = tmp_path_factory.mktemp("stages")
    torch.manual_seed(0)
    torch.save(build("litemedsam", **NARROW).state_dict(), folder / "lite.pth")
    init = folder / "lite.pth"
    for name, epochs, rate in (("stage1", 1, 0.01), ("stage2", 1, 0.01), ("stage3", 3, 0.05)):
        config = _stage(f"litemedsam-{name}", challenge, init=init, epochs=epochs)
        config.optimizer.learning_rate = rate
        init = run(config, folder / name)
    return folder


def _same(a: dict, b: dict, part: str) -> bool:
    names = [name for name in a if name.startswith(part + ".") and name in b]
    assert names
    return all(torch.equal(a[name], b[name]) for name in names)


def test_each_stage_trains_its_part_alone(stages: Path) -> None:
    lite = torch.load(stages / "lite.pth", weights_only=True)
    last = {name: torch.load(stages / name / "last.pt", weights_only=True)["model"] for name in ("stage1", "stage2", "stage3")}
    assert _same(lite, last["stage1"], "mask_decoder") and not _same(lite, last["stage1"], "image_encoder.neck")
    best = torch.load(stages / "stage1" / "best.pt", weights_only=True)["model"]
    assert _same(best, last["stage2"], "image_encoder"), "scales and weights of a frozen part stay"
    assert not _same(best, last["stage2"], "mask_decoder")
    assert not _same(last["stage2"], last["stage3"], "image_encoder")
    assert _same(lite, last["stage3"], "prompt_encoder"), "never trained, as in the paper"


def test_each_stage_quantizes_its_parts(stages: Path) -> None:
    parts = [load(stages / name / "best.pt")[1].quantization.parts for name in ("stage1", "stage2", "stage3")]
    assert parts == [["image_encoder"], ["image_encoder", "mask_decoder"], ["image_encoder", "mask_decoder"]]


def test_losses_fall_and_the_teacher_is_heard(stages: Path) -> None:
    alone, taught = ([r for r in _log(stages / name) if int(r["step"])] for name in ("stage2", "stage3"))
    assert len(taught) == 3 and float(taught[-1]["loss"]) < 0.95 * float(taught[0]["loss"]), taught
    assert all(float(r["distillation"]) > 0 for r in taught)
    assert [float(r["distillation"]) for r in alone] == [0]


@pytest.fixture(scope="module")
def tiny(challenge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a quantization-aware stage that takes seconds: what is looked at here is the loop.

    It starts from a float network that draws something, so that scores can differ."""
    folder = tmp_path_factory.mktemp("tiny")
    values = {
        "options": TINY,
        "input_size": 64,
        "data": {"challenge": str(challenge), "sampler": "all", "held_out": 0.25, "workers": 0, "synthetic": 0.2},
        "batch_size": 4,
        "epochs": 4,
        "optimizer": {"learning_rate": 0.003, "warmup_epochs": 0.2},
        "ema": 0.5,
        "threads": 1,
    }
    init = run(TrainConfig.model_validate(values), folder / "float")
    values.update(
        init=str(init),
        quantization={"calibration_images": 16},
        epochs=2,
        checkpoint_minutes=0,
        data={**values["data"], "workers": 1},
    )
    values["optimizer"] = {"kind": "sgd", "learning_rate": 0.02, "warmup_epochs": 0.5}
    path = folder / "stage.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stage in one process that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(TrainConfig.read(tiny), folder)
    return folder


#: Dies where the third checkpoint is written but does not yet stand in the place of the second.
KILLED = """
import os, signal
from qmedsam_training import cli
replace, written = os.replace, []
def killed(source, target):
    written.extend([target] if str(target).endswith("last.pt") else [])
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
cli.main()
"""


def _train(config: Path, output: Path, *more: str, python: Sequence[str] = ("-m", "qmedsam_training.cli")) -> Tuple[int, str]:
    """Exit code and text of the command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *python, "train", "--config", str(config), "-o", str(output), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    return done.returncode, done.stdout + done.stderr


def _weights(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)["model"]


def test_a_killed_run_goes_on_in_the_middle_of_its_epoch(tiny: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL while a checkpoint is written; the resumed run ends with the weights of the whole one, bit for bit."""
    code, text = _train(tiny, tmp_path, python=("-c", KILLED))
    assert code == -signal.SIGKILL and list(tmp_path.glob(".qmedsam-*/last.pt")), text
    progress = torch.load(tmp_path / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 2)
    code, text = _train(tiny, tmp_path)
    assert code == 0, text
    killed, unhurt = _weights(tmp_path), _weights(whole)
    assert all(torch.equal(killed[name], unhurt[name]) for name in unhurt)
    assert [r["loss"] for r in _log(tmp_path)] == [r["loss"] for r in _log(whole)]


def test_two_processes_give_the_result_of_one(tiny: Path, whole: Path, tmp_path: Path) -> None:
    """Over gloo; sums in another order differ in the last bits, and a bit may move a rounding of the fake quantization."""
    code, text = _train(tiny, tmp_path, "--devices", "2", "--accelerator", "cpu")
    assert code == 0, text
    one, two = _weights(whole), _weights(tmp_path)
    assert one.keys() == two.keys()
    off = {name: float((one[name] - two[name]).abs().max() / one[name].abs().max().clamp(min=1e-3)) for name in one}
    assert sorted(off.values())[int(0.9 * len(off))] < 0.02, max(off.items(), key=lambda item: item[1])
    rows, others = _log(whole), _log(tmp_path)
    assert len(rows) == len(others) == 3
    for a, b in zip(rows, others):
        assert float(a["held_out_mean_of_groups"]) > 0.2, "what draws nothing scores alike, however it is shared out"
        assert float(a["held_out_mean_of_groups"]) == pytest.approx(float(b["held_out_mean_of_groups"]), abs=0.02)
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=5e-3, nan_ok=True)


def test_a_folder_keeps_to_its_configuration(stages: Path, challenge: Path) -> None:
    config = _stage("litemedsam-stage2", challenge, init=stages / "stage1" / "best.pt", batch_size=2)
    with pytest.raises(QMedSAMError, match="another batch_size"):
        run(config, stages / "stage2")


def test_a_stage_refuses_a_start_that_does_not_fit(stages: Path, challenge: Path, tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match="quantized in another way"):
        run(_stage("litemedsam-finetune", challenge, init=stages / "stage1" / "best.pt"), tmp_path / "a")
    with pytest.raises(QMedSAMError, match="other options"):
        run(_stage("litemedsam-stage2", challenge, init=stages / "stage1" / "best.pt", options={}), tmp_path / "b")
    with pytest.raises(QMedSAMError, match="no part 'decoder'"):
        run(_stage("litemedsam-finetune", challenge, init=None, freeze=["decoder"]), tmp_path / "c")


def test_the_second_papers_fine_tuning(challenge: Path, tmp_path: Path) -> None:
    """Encoder alone, sharpness aware, the rate divided on a plateau; batch normalisations of the encoder learn on."""
    config = _stage("litemedsam-finetune", challenge, init=None, epochs=2)
    config.optimizer.patience = 0
    config.data.sampler = "min"
    run(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    rows = _log(tmp_path / "run")
    best, rate = -1.0, config.optimizer.learning_rate
    for row in rows:
        score = float(row["held_out_mean_of_groups"])
        if score > best:
            best = score
        else:
            rate /= 10
    assert state["base"] == pytest.approx(rate) and rate < config.optimizer.learning_rate, rows
    model, _ = load(tmp_path / "run" / "best.pt")
    assert any(isinstance(m, nn.BatchNorm2d) and float(m.num_batches_tracked) > 0 for m in model.modules())


@pytest.mark.parametrize("minutes", [None, 0.5], ids=["epochs", "a budget of time"])
def test_the_cosine_starts_at_the_full_rate_where_the_warm_up_ends(
    tiny: Path, minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paper, section 3.3. A clock of one second per look makes the budget end before the epochs do."""
    rates, clock = [], itertools.count()
    take = trainer.step
    monkeypatch.setattr(
        trainer, "step", lambda optimizer, *a: rates.append(optimizer.param_groups[0]["lr"]) or take(optimizer, *a)
    )
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = TrainConfig.read(tiny, minutes=minutes, epochs=9 if minutes else 3, checkpoint_minutes=99)
    config.init, config.quantization, config.data.workers, config.data.sampler = None, None, 0, "min"
    run(config, tmp_path)
    factors = [rate / config.optimizer.learning_rate for rate in rates]
    top = factors.index(1.0)
    assert factors[:top] == sorted(factors[:top]) and factors[0] == pytest.approx(0.01) and top >= 2
    after = factors[top:]
    steps = [a - b for a, b in zip(after, after[1:])]
    assert min(steps) > 0 and steps[0] < max(steps) / 2 and after[-1] < 0.1, factors


def test_gradients_are_cut_where_a_configuration_says_so(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The papers' do not."""
    assert all(TrainConfig.read(path).optimizer.clip is None for path in CONFIGS.glob("litemedsam-*.yaml"))
    norms = []

    def look(optimizer, sharp: bool, gradients) -> None:
        gradients()
        found = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(found).norm().item())

    monkeypatch.setattr(trainer, "step", look)
    for clip in (1.0, None):
        config = TrainConfig.read(tiny, minutes=1e-9)  # one batch
        config.init, config.quantization, config.data.workers = None, None, 0
        config.optimizer.clip, config.loss.pixel_weight = clip, 1e4
        run(config, tmp_path / str(clip))
    assert norms[0] == pytest.approx(1, rel=1e-3) and norms[1] > 10


def test_sharpness_aware_steps_differ_from_plain_ones() -> None:
    """One step on a quadratic, by hand: the gradient is taken rho further uphill."""
    from qmedsam_training.config import OptimizerConfig
    from qmedsam_training.optimization import make_optimizer, step

    ends = []
    for rho in (0.0, 0.5):
        x = nn.Parameter(torch.tensor([2.0]))
        config = OptimizerConfig(kind="sgd", learning_rate=0.1, weight_decay=0.0, sharpness=rho)
        optimizer = make_optimizer(config, [x])

        def gradients(x: nn.Parameter = x, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (x**2).sum()
            loss.backward()
            return loss

        step(optimizer, rho > 0, gradients)
        ends.append(x.item())
    assert ends == pytest.approx([2 - 0.1 * 4, 2 - 0.1 * 2 * 2.5])


def test_the_teacher_goes_image_by_image() -> None:
    """MedSAM took 8 GiB for a batch of two. What it teaches is the same."""
    config = TeacherConfig(architecture="qmedsam-compact", options=TINY, input_size=64)
    teacher = Teacher(config, build("qmedsam-compact", **TINY), 64, {"kind": "zscore"})
    encode, sizes = teacher.network.encode, []
    teacher.network.encode = lambda image: sizes.append(len(image)) or encode(image)
    images, owner = torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 1, 2])
    boxes, masks = torch.tensor([[10.0, 10.0, 40.0, 50.0]] * 4), torch.zeros(4, 64, 64)
    masks[:, 12:48, 12:38] = 1
    with torch.no_grad():
        goal, _ = teacher._lesson(images, boxes, masks, owner)
        assert torch.allclose(goal, encode(images), atol=1e-5) and sizes == [1, 1, 1]


@pytest.mark.parametrize(("student", "teacher"), [("minmax", "fixed"), ("fixed", "minmax"), ("zscore", "fixed")])
def test_the_teacher_sees_what_the_engine_would_show_it(student: str, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 0..1 in the student's normalisation comes out in the teacher's."""
    means = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    kinds = {"minmax": {"kind": "minmax"}, "zscore": {"kind": "zscore"}, "fixed": {"kind": "fixed", **means}}
    compact = replace(ARCHITECTURES["qmedsam-compact"], normalization=kinds[teacher])
    monkeypatch.setitem(ARCHITECTURES, "teaching", compact)
    config = TeacherConfig(architecture="teaching", options=TINY, input_size=64)
    network = Teacher(config, build("qmedsam-compact", **TINY), 64, kinds[student])
    picture = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    shown, wanted = (
        normalise(picture, np.ones((64, 64), bool), kind, means["mean"], means["std"]) for kind in (student, teacher)
    )
    assert np.allclose(network.seen(torch.from_numpy(shown)[None])[0].numpy(), wanted, atol=1e-4)
