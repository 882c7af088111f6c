"""Mistakes in configurations, files and names: a sentence and a way out, never a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import networks  # noqa: E402
from qmedsam_training.ablations import Ablations  # noqa: E402
from qmedsam_training.checkpoints import load_public  # noqa: E402
from qmedsam_training.config import DataConfig, NetworkConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import ChallengeData, Plan, Preparation, make_loader  # noqa: E402
from qmedsam_training.quantization import quantized_layers  # noqa: E402
from small import TINY  # noqa: E402

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
