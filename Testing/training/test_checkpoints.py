"""Checkpoints by any habit of training scripts: the weights are found, and it is said where."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.checkpoints import load_public  # noqa: E402
from qmedsam_training.config import NetworkConfig  # noqa: E402
from qmedsam_training.networks import load, make, save  # noqa: E402
from small import TINY  # noqa: E402

State = Dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return build("qmedsam-compact", **TINY).state_dict()


def _led(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _compiled_inside(state: State) -> State:
    """torch.compile of a part alone, DataParallel around all."""
    return {"module." + name.replace("image_encoder.", "image_encoder._orig_mod."): v for name, v in state.items()}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: s, ""),
        (lambda s: _led("module.", s), ""),
        (lambda s: _led("_orig_mod.", s), ""),
        (_compiled_inside, ""),
        (lambda s: _led("module.model.", s), "'model'"),
        (lambda s: _led("net.", s), "'net'"),
        (lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3}, "'model'"),
        (lambda s: {"state_dict": _led("model.net.", s), "hyper_parameters": {"lr": 1.0}}, "'state_dict.model.net'"),
        (lambda s: {"network": {"weights": s}, "step": torch.tensor(3)}, "'network.weights'"),
        (lambda s: {"teacher": s}, "'teacher'"),
        (lambda s: {**_led("student.", s), "criterion.weight": torch.ones(2)}, "'student'"),
    ],
)
def test_weights_are_found_wherever_a_script_put_them(
    wrap: Callable, said: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(wrap(state), tmp_path / "theirs.pth")
    model = build("qmedsam-compact", **TINY)
    text = load_public(model, tmp_path / "theirs.pth")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert said in text and bool(text) == bool(said) and caplog.text.count("taken from") == bool(said)


def test_averaged_weights_are_taken_and_the_others_named(state: State, tmp_path: Path) -> None:
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"model": other, "model_ema": {"module." + name: value for name, value in state.items()}}, tmp_path / "both.pth")
    model = build("qmedsam-compact", **TINY)
    text = load_public(model, tmp_path / "both.pth")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert "'model_ema'" in text and "'model' would fit too" in text


def test_a_larger_teacher_beside_it_is_not_taken(state: State, tmp_path: Path) -> None:
    large = {name: torch.zeros(tuple(2 * n for n in value.shape)) for name, value in state.items()}
    torch.save({**_led("ema_teacher.", large), **_led("student.", state)}, tmp_path / "two.pth")
    model = build("qmedsam-compact", **TINY)
    assert "'student'" in load_public(model, tmp_path / "two.pth")


def test_what_is_missing_or_foreign_behind_a_prefix_is_still_said(state: State, tmp_path: Path) -> None:
    name = next(iter(state))
    broken = {k: v for k, v in state.items() if k != name}
    torch.save({"model": _led("net.", {**broken, "extra": torch.ones(1)})}, tmp_path / "broken.pth")
    with pytest.raises(QMedSAMError, match=rf"missing {name}; foreign extra"):
        load_public(build("qmedsam-compact", **TINY), tmp_path / "broken.pth")


def test_weights_that_are_no_numbers_are_refused(state: State, tmp_path: Path) -> None:
    broken = {**state, "mask_decoder.iou.0.bias": state["mask_decoder.iou.0.bias"] * float("nan")}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(QMedSAMError, match=r"no numbers: mask_decoder\.iou\.0\.bias"):
        load_public(build("qmedsam-compact", **TINY), tmp_path / "nan.pth")
    network = NetworkConfig(options=TINY, input_size=32)
    model = make(network)
    model.load_state_dict(broken)
    save(tmp_path / "ours.pt", model, network)
    with pytest.raises(QMedSAMError, match="no numbers"):
        load(tmp_path / "ours.pt")
