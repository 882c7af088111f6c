"""The whole of Training, small: float steps, a kill, resuming, QAT, export, census, parity, and the engine running it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import Box, Segmenter, Volume  # noqa: E402
from qmedsam.models import Model  # noqa: E402
from qmedsam.network.openvino_network import OpenVINONetwork  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.config import TrainConfig  # noqa: E402
from qmedsam_training.export import census, write_model  # noqa: E402
from qmedsam_training.quantization import fold_batch_norms, quantize  # noqa: E402
from qmedsam_training.train import load_trained, run  # noqa: E402

TINY = {"widths": (8, 16, 16, 24, 24), "depths": (1, 1, 1, 1), "embed": 16, "width": 32, "deep": 32}
SIZE = 64
#: What may run in float: the prompt encoder, the grid's positions, and the last mask product.
FLOAT_ALLOWED = ("/mask_decoder/prompt/", "/mask_decoder/position/", "/mask_decoder/MatMul")


def _config(manifest: Path, **changes) -> TrainConfig:
    values = {
        "options": TINY,
        "data": {"manifest": manifest, "synthetic": 0.3, "workers": 0},
        "input_size": SIZE,
        "batch_size": 6,
        "steps": 60,
        "warmup_steps": 5,
        "learning_rate": 0.003,
        "evaluate_every": 20,
        "ema": 0.8,
    }
    return TrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="session")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory):
    """Folders of a float run, interrupted once, and of the QAT run that follows."""
    folder = tmp_path_factory.mktemp("runs")
    run(_config(manifest, steps=40), folder / "float")  # what a run killed after its checkpoint at 40 leaves
    best = run(_config(manifest, steps=60), folder / "float")
    qat = _config(manifest, stage="qat", init=best, steps=10, learning_rate=1e-4, evaluate_every=10)
    return folder, qat, run(qat, folder / "qat")


def test_loss_falls_and_a_resumed_run_continues_its_log(trained) -> None:
    folder, _, _ = trained
    with (folder / "float" / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["step"]) for r in rows] == [20, 40, 60]
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["held_out_dsc"]) > 0.5


def test_folding_and_quantizing_change_little(manifest: Path, trained) -> None:
    folder = trained[0]
    model = load_trained(_config(manifest), folder / "float" / "best.pt")
    image, box = torch.randn(1, 3, SIZE, SIZE), torch.tensor([[10.0, 12.0, 50.0, 44.0]])
    with torch.no_grad():
        before = model.decode(model.encode(image), box)
        after = fold_batch_norms(model).decode(model.encode(image), box)
    assert torch.allclose(before, after, atol=1e-4)


def test_quantizing_needs_folded_norms_and_known_names() -> None:
    with pytest.raises(ValueError, match="Fold the batch"):
        quantize(build("qmedsam-compact", **TINY))
    with pytest.raises(ValueError, match="nowhere"):
        quantize(fold_batch_norms(build("qmedsam-compact", **TINY)), skip=("nowhere",))


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory: pytest.TempPathFactory):
    _, config, checkpoint = trained
    model = load_trained(config, checkpoint)
    fields = {
        "name": "tiny",
        "title": "Tiny",
        "version": "0",
        "license": "Apache-2.0",
        "architecture": "qmedsam-compact",
        "precision": "int8",
        "input_size": SIZE,
        "normalization": {"kind": "zscore"},
        "frame": {"kind": "roi", "margin": 0.3},
        "modalities": ["*"],
    }
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny", model, fields, "# Tiny\n")
    return model, Model.read(folder)


def test_every_product_runs_in_int8(exported) -> None:
    _, model = exported
    rows = census(model.encoder) + census(model.decoder)
    kinds = {kind for _, kind, _ in rows}
    assert {"Convolution", "Deconvolution", "FullyConnected", "Attention"} <= kinds, kinds
    wrong = [r for r in rows if r[2] not in ("i8", "u8") and not r[0].startswith(FLOAT_ALLOWED)]
    assert not wrong, wrong


def test_the_census_catches_a_plain_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be able to fail: narrow-range weights exported as the paper's pipeline does run in float."""
    import qmedsam_training.export as export
    from brevitas.graph.calibrate import calibration_mode

    model = quantize(fold_batch_norms(build("qmedsam-compact", **TINY)), narrow_range=True)
    with torch.no_grad(), calibration_mode(model):
        model(torch.randn(2, 3, SIZE, SIZE), torch.tensor([[5.0, 5.0, 50.0, 50.0]]), torch.tensor([0]))
    monkeypatch.setattr(export, "mend", lambda graph: graph)
    ov = export.import_openvino()
    export.onnx.save(export.to_onnx(model, SIZE, quantized=True)["encoder"], tmp_path / "plain.onnx")
    ov.save_model(ov.convert_model(tmp_path / "plain.onnx"), tmp_path / "plain.xml")
    rows = census(tmp_path / "plain.xml")
    assert rows and all(precision not in ("i8", "u8") for _, _, precision in rows), rows


def test_openvino_equals_the_fake_quantized_network(exported) -> None:
    """With the f32 hint. Int32 sums round once in a while to the other side than float sums: a share, not a bound."""
    torch_model, model = exported
    network = OpenVINONetwork(model, precision="f32")
    rng = np.random.default_rng(1)
    image = rng.standard_normal((3, SIZE, SIZE), dtype=np.float32)
    boxes = np.array([[8, 9, 50, 44], [20, 14, 41, 60], [3, 3, 60, 60]], np.float32)
    with torch.no_grad():
        embedding = torch_model.encode(torch.from_numpy(image)[None]).numpy()
        logits, confidence = (t.numpy() for t in torch_model.predict(torch.from_numpy(embedding), torch.from_numpy(boxes)))
    ours = network.encode(image)
    scale = np.abs(embedding).max()
    assert np.mean(np.abs(ours - embedding)) < 2e-3 * scale
    ours_logits, ours_confidence = network.decode(embedding, boxes)
    assert np.mean((ours_logits > 0) == (logits > 0)) > 0.995
    assert np.allclose(ours_confidence, confidence, atol=0.02)


def test_the_engine_segments_with_it(exported) -> None:
    _, model = exported
    rng = np.random.default_rng(2)
    k, j, i = np.mgrid[:12, :48, :48]
    truth = ((i - 24) / 10) ** 2 + ((j - 22) / 12) ** 2 + ((k - 6) / 40) ** 2 <= 1
    volume = Volume((rng.normal(0, 40, truth.shape) + 300 * truth).astype(np.int16), modality="CT")
    result = Segmenter(model=str(model.folder)).segment(volume, [Box.from_voxels((13, 9, 2), (35, 35, 9))], strategy="fixed")
    mask = result.labels_kji[2:10] == 1
    assert 2 * (mask & truth[2:10]).sum() / (mask.sum() + truth[2:10].sum()) > 0.6
