"""A decoder trained on embeddings that are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam_training.architectures import ARCHITECTURES, build  # noqa: E402
from qmedsam_training.config import DataConfig, LossConfig, OptimizerConfig, QuantizationConfig  # noqa: E402
from qmedsam_training.data import LabelledData, Preparation  # noqa: E402
from qmedsam_training.embedded import Answers, Remembered, calibrated_decoder, embeddings, fit_decoder, lessons  # noqa: E402
from qmedsam_training.evaluation import TorchNetwork, mean_of_groups, score  # noqa: E402
from qmedsam_training.networks import quantize_parts  # noqa: E402
from small import TINY  # noqa: E402

SIZE = 64
FAST = OptimizerConfig(learning_rate=3e-3, warmup_epochs=0.2)


class Counting(TorchNetwork):
    """Says how many images it has encoded."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model, SIZE)
        self.encoded = 0

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return super().encode(image)


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("qmedsam-compact", **TINY).eval()


def _source(manifest: Path) -> LabelledData:
    data = DataConfig(manifest=manifest, synthetic=0.0, augmentation=0.0, propagated=0.0, held_out=0.25, held_out_per_group=3)
    return LabelledData(data, Preparation.of(ARCHITECTURES["qmedsam-compact"], SIZE))


@pytest.fixture(scope="module")
def shown(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    return lessons(Counting(_model()), _source(manifest), 8, tmp_path_factory.mktemp("lessons"))


def test_an_image_is_encoded_once_and_never_again(manifest: Path, tmp_path: Path) -> None:
    network, source = Counting(_model()), _source(manifest)
    first = lessons(network, source, 3, tmp_path)
    before = [path.read_bytes() for path in first]
    more = lessons(network, source, 5, tmp_path)
    assert network.encoded == 5 and more[:3] == first
    assert [path.read_bytes() for path in first] == before


@pytest.mark.parametrize("quantized", [False, True])
def test_the_decoder_alone_learns(quantized: bool, shown: List[Path], manifest: Path, tmp_path: Path) -> None:
    model = _model()
    held = _source(manifest).held_out()
    encoder = {name: value.clone() for name, value in model.image_encoder.state_dict().items()}
    if quantized:
        how = QuantizationConfig(parts=["mask_decoder"])
        quantize_parts(model, how, how.parts)
        calibrated_decoder(model, shown)
    network = Counting(_model())

    def scored() -> float:
        return mean_of_groups(score(Remembered(model, SIZE, embeddings(network, held, tmp_path)), held, with_nsd=False))[0]

    before, told = scored(), []
    fit_decoder(model, shown, LossConfig(), FAST, epochs=10, batch_size=2, tell=lambda epoch, dsc: told.append(dsc))
    assert scored() > before + 0.05
    assert len(told) == 10 and told[-1] > told[0]
    assert network.encoded == len(held), "the second scoring took the embeddings that were there"
    assert all(torch.equal(value, encoder[name]) for name, value in model.image_encoder.state_dict().items())


def test_remembered_embeddings_score_as_new_ones_do(manifest: Path, tmp_path: Path) -> None:
    model, held = _model(), _source(manifest).held_out()
    anew = score(TorchNetwork(model, SIZE), held)
    remembered = score(Remembered(model, SIZE, embeddings(TorchNetwork(model, SIZE), held, tmp_path)), held)
    assert [r.dsc for r in remembered] == pytest.approx([r.dsc for r in anew], abs=0.02)  # half precision


def test_a_teacher_is_imitated_and_does_not_learn(shown: List[Path]) -> None:
    model, teacher = _model(), _model()
    with torch.no_grad():
        for value in model.get_submodule("mask_decoder").parameters():
            value.add_(0.05 * torch.randn_like(value))
    before, told = {name: value.clone() for name, value in teacher.state_dict().items()}, []
    answers, fast = Answers(teacher, shown), {"epochs": 10, "batch_size": 2}
    fit_decoder(model, shown, LossConfig(), FAST, **fast, tell=lambda _, dsc: told.append(dsc), teacher=answers)
    assert told[-1] > told[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
