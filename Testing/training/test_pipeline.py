"""The shipped network's way, small: float epochs, QAT, export, census, parity, and the engine running it."""

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
from qmedsam_training.data import make_source  # noqa: E402
from qmedsam_training.export import census, model_fields, write_model  # noqa: E402
from qmedsam_training.networks import load  # noqa: E402
from qmedsam_training.quantization import Widths, fold_batch_norms, quantize  # noqa: E402
from qmedsam_training.runtimes import parity  # noqa: E402
from qmedsam_training.train import run  # noqa: E402
from small import TINY, EncoderAlone  # noqa: E402

SIZE = 64
#: What may run in float: the prompt encoder, the grid's positions, and the last mask product.
FLOAT_ALLOWED = ("/mask_decoder/prompt/", "/mask_decoder/position/", "/mask_decoder/MatMul")


def _config(manifest: Path, **changes) -> TrainConfig:
    values = {
        "options": TINY,
        "data": {"manifest": manifest, "synthetic": 0.3, "workers": 0, "samples_per_epoch": 120},
        "input_size": SIZE,
        "batch_size": 6,
        "epochs": 3,
        "optimizer": {"learning_rate": 0.003, "warmup_epochs": 0.25},
        "ema": 0.8,
    }
    return TrainConfig.model_validate({**values, **changes})


@pytest.fixture(scope="session")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory):
    """Folder of a float run and of the QAT run that follows, with its best checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    best = run(_config(manifest), folder / "float")
    data = {"manifest": manifest, "synthetic": 0.3, "workers": 0, "samples_per_epoch": 60}
    optimizer = {"learning_rate": 1e-4, "warmup_epochs": 0}
    qat = _config(manifest, quantization={"calibration_images": 32}, init=best, epochs=1, data=data, optimizer=optimizer)
    return folder, run(qat, folder / "qat")


def test_the_loss_falls(trained) -> None:
    folder, _ = trained
    with (folder / "float" / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3] and int(rows[-1]["step"]) == 60
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["held_out_dsc"]) > 0.5


def test_what_a_stage_starts_from_is_a_candidate(trained) -> None:
    with (trained[0] / "qat" / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["step"]) for r in rows] == [0, 10]


def test_with_nobody_held_out_all_train_and_the_last_weights_count(manifest: Path, tmp_path: Path) -> None:
    data = {"manifest": manifest, "synthetic": 0, "workers": 0, "samples_per_epoch": 12, "held_out": 0}
    config = _config(manifest, data=data, epochs=2)
    source = make_source(config)
    assert sum(cases for _, cases, _ in source.describe()) == 30 and source.held_out() == []
    best = run(config, tmp_path)
    assert torch.load(best, map_location="cpu", weights_only=True)["epoch"] == 2


def test_folding_changes_nothing(trained) -> None:
    model, network = load(trained[0] / "float" / "best.pt")
    assert network.quantization is None
    torch.manual_seed(0)
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
    model, network = load(trained[1])
    fields = model_fields(network, "tiny", license="Apache-2.0")
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny", model, fields, "# Tiny\n")
    return model, Model.read(folder)


def test_every_product_runs_in_int8(exported) -> None:
    _, model = exported
    rows = census(model.encoder) + census(model.decoder)
    kinds = {kind for _, kind, _ in rows}
    # An attention's two products are fused where the processor has AVX-512, and products of their own where it has not.
    assert {"Convolution", "FullyConnected"} <= kinds and kinds & {"Attention", "MatMul"}, kinds
    wrong = [r for r in rows if r[2] not in ("i8", "u8") and not r[0].startswith(FLOAT_ALLOWED)]
    assert not wrong, wrong


def test_the_census_catches_a_plain_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be able to fail: narrow-range weights exported as the paper's pipeline does run in float."""
    import qmedsam_training.export as export
    from brevitas.graph.calibrate import calibration_mode

    torch.manual_seed(0)
    encoder = build("qmedsam-compact", **TINY).image_encoder
    model = EncoderAlone(quantize(fold_batch_norms(encoder), widths=Widths(narrow_range=True)))
    with torch.no_grad(), calibration_mode(model):
        model(torch.randn(2, 3, SIZE, SIZE), torch.tensor([[5.0, 5.0, 50.0, 50.0]]), torch.tensor([0]))
    monkeypatch.setattr(export, "mend", lambda graph: graph)
    ov = export.import_openvino()
    export.onnx.save(export.to_onnx(model, SIZE, quantized=True)["encoder"], tmp_path / "plain.onnx")
    ov.save_model(ov.convert_model(tmp_path / "plain.onnx"), tmp_path / "plain.xml")
    rows = census(tmp_path / "plain.xml")
    assert rows and all(precision not in ("i8", "u8") for _, _, precision in rows), rows


def test_both_runtimes_equal_the_fake_quantized_network(exported) -> None:
    """From image to mask, OpenVINO under the f32 hint, and each half alone."""
    torch_model, model = exported
    for row in parity(torch_model, model.folder):
        assert not row.too_far and row.embedding < 0.05 and row.logits < 0.1 and row.same_mask > 0.98, str(row)


def test_parity_sees_an_encoder_that_is_off(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder, given torch's embedding, would not show it: by a tenth, as overflowing products made it."""
    torch_model, model = exported
    encode = OpenVINONetwork.encode

    def off(self, image: np.ndarray) -> np.ndarray:
        embedding = encode(self, image)
        return embedding + np.random.default_rng(0).normal(0, 0.1 * embedding.std(), embedding.shape).astype(np.float32)

    monkeypatch.setattr(OpenVINONetwork, "encode", off)
    openvino, onnx = parity(torch_model, model.folder)
    assert openvino.too_far and openvino.logits < 0.1 and not onnx.too_far


def test_the_engine_segments_with_it(exported) -> None:
    _, model = exported
    rng = np.random.default_rng(2)
    k, j, i = np.mgrid[:12, :48, :48]
    truth = ((i - 24) / 10) ** 2 + ((j - 22) / 12) ** 2 + ((k - 6) / 40) ** 2 <= 1
    volume = Volume((rng.normal(0, 40, truth.shape) + 300 * truth).astype(np.int16), modality="CT")
    result = Segmenter(model=str(model.folder)).segment(volume, [Box.from_voxels((13, 9, 2), (35, 35, 9))], strategy="fixed")
    mask = result.labels_kji[2:10] == 1
    assert 2 * (mask & truth[2:10]).sum() / (mask.sum() + truth[2:10].sum()) > 0.6
