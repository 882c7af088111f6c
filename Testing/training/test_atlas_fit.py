"""Training on an atlas: the hinted network, a real run of a few steps that is stopped and goes on, scores, commands, export."""

from __future__ import annotations

import copy
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("openvino")

from packs import atlas_of, picture, volume  # noqa: E402
from qmedsam import Box, QMedSAMError, Segmenter, Volume  # noqa: E402
from qmedsam.models import Model  # noqa: E402
from qmedsam.network import HINTS, KINDS  # noqa: E402
from qmedsam.network.openvino_network import OpenVINONetwork  # noqa: E402
from qmedsam_training import networks  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.architectures.compact import CompactSAM  # noqa: E402
from qmedsam_training.atlas.calibration import calibration_samples  # noqa: E402
from qmedsam_training.atlas.drawing import Habits  # noqa: E402
from qmedsam_training.atlas.fit import FitConfig, Sampler, asked, fit, grown_from, scored, step_loss  # noqa: E402
from qmedsam_training.atlas.looks import normalised  # noqa: E402
from qmedsam_training.atlas.prompts import prompts_of  # noqa: E402
from qmedsam_training.atlas.store import Atlas  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.config import NetworkConfig  # noqa: E402
from qmedsam_training.export import model_fields, write_model  # noqa: E402
from small import TINY, invoke  # noqa: E402

SIZE = 64
SAID = {"hints": len(HINTS), "kinds": len(KINDS), "candidates": 3}
SHIPPED = Path(__file__).resolve().parents[2] / "Training" / "checkpoints" / "compact-160.pt"
HABITS = Habits(size=SIZE)
_invoke = partial(invoke, app)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    rng = np.random.default_rng(0)
    cases = [volume(rng, n, hounsfield=n > 3) for n in range(6)] + [picture(rng, n, colour=n % 2 > 0) for n in range(6)]
    return atlas_of(cases, tmp_path_factory.mktemp("atlas"))


def tiny(seed: int = 0, **options: Any) -> CompactSAM:
    torch.manual_seed(seed)
    return CompactSAM(**{**TINY, **SAID, "input_size": SIZE, **options})


def on_frames(model: CompactSAM, sampler: Sampler) -> float:
    """The loss on some frames that do not change."""
    torch.manual_seed(99)
    drawn = [sampler.draw() for _ in range(3)]
    with torch.no_grad():
        losses = []
        for one in drawn:
            prompts = prompts_of(one)
            model.eval()
            embedding = model.encode(normalised(one.image, one.valid))
            answer = asked(model, embedding, prompts.boxes, prompts.hints, prompts.kinds)
            losses.append(float(step_loss(*answer, prompts.truth, sampler.config)))
    return sum(losses) / 3


@pytest.fixture(scope="module")
def grown() -> Dict[str, CompactSAM]:
    """0.4.0's network, and a hinted one grown from it."""
    before, _ = networks.load(SHIPPED)
    torch.manual_seed(0)
    after = build("qmedsam-compact", **SAID).eval()
    grown_from(before.state_dict(), after)
    return {"before": before, "after": after}


def test_a_grown_network_begins_with_what_it_grew_from(grown) -> None:
    """Its first candidate is 0.4.0's mask, the others are nearly it; silence, or so far anything else, changes nothing."""
    torch.manual_seed(0)
    image, boxes = torch.randn(1, 3, 160, 160), torch.tensor([[30.0, 40.0, 120.0, 110.0], [5.0, 9.0, 60.0, 70.0]])
    before, after = grown["before"], grown["after"]
    with torch.no_grad():
        logits, quality = before.predict(before.encode(image), boxes)
        embedding = after.encode(image)
        silent = after.predict(embedding, boxes)
        for said in (after.silence(boxes), (torch.randn(2, 4, 80, 80), torch.eye(3)[:2])):
            found = after.predict(embedding, boxes, *said)
            assert torch.allclose(found[0], silent[0], atol=1e-5) and torch.allclose(found[1], silent[1], atol=1e-5)
    assert silent[0].shape == (2, 3, 80, 80) and silent[1].shape == (2, 3)
    scale = float(logits.std())
    # The others' tokens are a little apart, and all tokens look at each other: so is the first, a little.
    apart = [float((silent[0][:, n] - logits).pow(2).mean().sqrt()) / scale for n in range(3)]
    assert apart[0] < 0.15 and all(0 < other < 0.6 for other in apart[1:]), apart
    assert all(((silent[0][:, n] > 0) == (logits > 0)).float().mean() > 0.95 for n in range(3))
    assert torch.allclose(silent[1][:, 0], quality, atol=0.05)


def test_without_noise_a_grown_network_is_what_it_grew_from(grown) -> None:
    torch.manual_seed(0)
    after = build("qmedsam-compact", **{**SAID, "candidates": 1}).eval()
    grown_from(grown["before"].state_dict(), after)
    image, boxes = torch.randn(1, 3, 96, 96), torch.tensor([[20.0, 30.0, 70.0, 60.0]])
    with torch.no_grad():
        expected, found = (model.predict(model.encode(image), boxes)[0] for model in (grown["before"], after))
    assert torch.allclose(expected, found, atol=1e-4)


def test_growing_keeps_the_candidates_that_are_there() -> None:
    old, new = tiny(1), tiny(2)
    grown_from(old.state_dict(), new)
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values()))
    more = tiny(3, candidates=5)
    grown_from(old.state_dict(), more)
    tokens, before = more.mask_decoder.output_tokens, old.mask_decoder.output_tokens
    assert torch.equal(tokens[:3], before[:3]) and torch.equal(tokens[-1], before[-1])
    assert not torch.equal(tokens[3], before[0]) and torch.allclose(tokens[3], before[0], atol=0.01)


def test_a_batch_is_as_large_as_asked(atlas) -> None:
    for batch in (2, 3, 7, 16):
        for shares in ((0.45, 0.25, 0.15, 0.15), (0.5, 0.5, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0)):
            sampler = Sampler(atlas, FitConfig(batch=batch, shares=shares), HABITS)
            assert sum(sampler.counts) == batch and all((n == 0) >= (share == 0) for n, share in zip(sampler.counts, shares))
    rows = atlas.of_patients({"blobs/p1"}).nonzero()[:, 0]
    sampler = Sampler(atlas, FitConfig(shares=(1, 1, 1, 0)), HABITS, rows)
    assert sampler.counts[1] == 0 and sum((w > 0).sum() for w in sampler.weights) == 3
    with pytest.raises(QMedSAMError, match="nothing to draw"):
        Sampler(atlas, FitConfig(shares=(1, 1, 1, 0)), HABITS, rows[:0])


class Interrupted(Sampler):
    """Somebody presses Ctrl-C while the third batch is drawn."""

    drawn = 0

    def draw(self) -> Any:
        self.drawn += 1
        if self.drawn == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().draw()


@pytest.mark.slow
def test_a_run_learns_and_goes_on_where_it_was_stopped(atlas, tmp_path: Path) -> None:
    config = FitConfig(steps=10, batch=6, rate=5e-3, average=0.5, rounds=(0, 1), statistics=4, again=0.5)
    walking = Habits(size=SIZE, flat=1.0, walked=0.6)
    sampler = Sampler(atlas, config, walking)
    model = tiny()
    before = on_frames(model, sampler)
    whole = fit(model, sampler, config, tmp_path / "whole", lambda line: None)
    assert on_frames(whole, sampler) < 0.93 * before
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), Interrupted(atlas, config, walking), config, tmp_path / "parts", lambda line: None)
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["step"] == 3
    parts = fit(tiny(5), sampler, config, tmp_path / "parts", lambda line: None)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values()):
        assert torch.equal(a, b), name
    # Run again it is done; with more steps it goes on from the weights, not from their averages.
    again = fit(tiny(6), sampler, config, tmp_path / "whole", lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    kept = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)["model"]
    assert not torch.equal(kept["mask_decoder.hyper.2.weight"], whole.state_dict()["mask_decoder.hyper.2.weight"])
    with pytest.raises(QMedSAMError, match="another network"):
        fit(tiny(width=16), sampler, config, tmp_path / "whole", lambda line: None)


@pytest.mark.parametrize("options", [{}, {"hints": 0, "kinds": 0, "candidates": 1}, {"hints": 0, "kinds": 0}, {"candidates": 1}])
def test_every_compact_network_is_trained_and_scored(atlas, tmp_path: Path, options) -> None:
    config = FitConfig(steps=1, batch=4, rounds=(1,), statistics=1)
    model = fit(tiny(**options), Sampler(atlas, config, HABITS), config, tmp_path, lambda line: None)
    rows = (atlas.columns["region"] == 0).nonzero()[::2, 0]
    table = scored(model, atlas, rows, HABITS, clicks=1, batch=5)
    hinted = model.hints > 0
    assert set(table) == {"tight 0", "best", "volume", *(["tight 1", "volume+neighbour"] if hinted else [])}
    assert set(table["tight 0"]) == set(atlas.groups)
    assert all(0 <= value <= 1 for of in table.values() for value in of.values())
    assert all(table["best"][group] >= table["tight 0"][group] for group in atlas.groups)
    if hinted:
        told = set(table["volume+neighbour"])
        assert told and told <= {"MR/balls", "CT/balls"}, "a picture has no neighbour: it would be told the truth"
    assert scored(model, atlas, rows, HABITS, clicks=1, batch=5) == table


def test_calibration_says_everything_that_can_be_said(atlas) -> None:
    samples = list(calibration_samples(atlas, tiny().eval(), 32, habits=HABITS))
    hints = torch.cat([sample[3] for sample in samples])
    assert len(samples) == 4 and all(sample[0].shape == (8, 3, SIZE, SIZE) for sample in samples)
    assert hints.flatten(2).any(2).any(0).all(), "neighbour, present mask, and strokes of both kinds"
    assert torch.cat([sample[4] for sample in samples]).any(0).all()
    again = list(calibration_samples(atlas, tiny().eval(), 32, habits=HABITS))
    assert all(torch.equal(a, b) for one, other in zip(samples, again) for a, b in zip(one, other))
    boxes_alone = next(calibration_samples(atlas, tiny(hints=0, kinds=0).eval(), 8, habits=HABITS))
    assert len(boxes_alone) == 3


@pytest.mark.slow
def test_the_commands_from_cases_to_int8(manifest: Path, tmp_path: Path) -> None:
    text = _invoke("atlas", "build", manifest, "-o", tmp_path / "a.atlas")
    assert "30 cases" in text and "US/blobs" in text
    init = NetworkConfig(options=TINY, input_size=SIZE)
    networks.save(tmp_path / "tiny.pt", networks.make(init), init)
    common = ["--init", tmp_path / "tiny.pt", "--batch", 4, "--deep", 32, "--device", "cpu", "--hold-out", 0.3]
    text = _invoke("atlas", "fit", tmp_path / "a.atlas", "-o", tmp_path / "run", "--steps", 2, *common)
    assert "best.pt" in text
    model, network = networks.load(tmp_path / "run" / "best.pt")
    assert (
        model.hints == 4
        and model.candidates == 3
        and model.hint_side == SIZE // 2
        and network.options["widths"] == TINY["widths"]
    )
    with pytest.raises(QMedSAMError, match="another seed"):
        _invoke("atlas", "fit", tmp_path / "a.atlas", "-o", tmp_path / "run", "--steps", 4, "--seed", 1, *common)
    table = _invoke("atlas", "score", tmp_path / "a.atlas", tmp_path / "run" / "best.pt", "--hold-out", 0.3, "--most", 4)
    assert "US/blobs" in table and "mean of groups" in table and "volume+neighbour" in table
    _invoke("atlas", "ptq", tmp_path / "a.atlas", tmp_path / "run" / "best.pt", "-o", tmp_path / "int8.pt", "--images", 8)
    quantized, network = networks.load(tmp_path / "int8.pt")
    assert network.quantization is not None and quantized.hints == 4
    with pytest.raises(QMedSAMError, match="no float checkpoint"):
        _invoke("atlas", "score", tmp_path / "a.atlas", tmp_path / "int8.pt")


def test_commands_say_what_cannot_be(manifest: Path, atlas, tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match="no source 'nowhere'"):
        _invoke("atlas", "build", manifest, "-o", tmp_path / "b", "--without", "nowhere")
    _invoke("atlas", "build", manifest, "-o", tmp_path / "b", "--without", "balls", "--no-regions")
    for arguments, word in (
        (("--steps", 2, "--seconds", 3), "How long"),
        ((), "How long"),
        (("--steps", 1, "--without", "CT/balls"), "no group 'CT/balls'"),
        (("--steps", 1, "--without", "US/blobs"), "No object is left"),
        (("--steps", 1, "--device", "abacus"), "no device 'abacus'"),
    ):
        with pytest.raises(QMedSAMError, match=word):
            _invoke("atlas", "fit", tmp_path / "b", "-o", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists(), "what was not started claims no folder"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """A network that listens, made so, since hints begin as nothing; it finds something everywhere."""
    network = NetworkConfig(options={**TINY, **SAID}, input_size=SIZE)
    torch.manual_seed(0)
    model = networks.make(network)
    with torch.no_grad():
        for layer in (model.mask_decoder.prompt.hint, model.mask_decoder.prompt.hint_fine, model.mask_decoder.prompt.kind):
            layer.weight.normal_(0, 0.5)
    model.move_logits(6.0)
    folder = write_model(tmp_path_factory.mktemp("models") / "said", model.eval(), model_fields(network, "said"), "# Said\n")
    return model, Model.read(folder)


def test_an_exported_hinted_network_equals_torch(exported) -> None:
    """Whatever number of boxes, with and without what is said; its reference answer agrees on this machine."""
    model, there = exported
    assert there.manifest.prompts == {"hints": list(HINTS), "kinds": list(KINDS), "candidates": 3, "depth_px": 0.0}
    runtime = OpenVINONetwork(there, threads=1)
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (3, SIZE, SIZE)).astype(np.float32)
    boxes = np.sort(rng.uniform(2, 60, (6, 2, 2)), axis=1).reshape(6, 4).astype(np.float32)
    hints = rng.uniform(-1, 1, (6, 4, SIZE // 2, SIZE // 2)).astype(np.float32)
    kinds = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 6)]
    embedding = runtime.encode(image)
    answers = []
    for said in ((hints, kinds), (None, None), (hints, None)):
        logits, confidence = runtime.decode(embedding, boxes, *said)
        assert logits.shape == (6, 3, SIZE // 2, SIZE // 2) and confidence.shape == (6, 3)
        silence = model.silence(torch.from_numpy(boxes))
        given = [torch.from_numpy(one) if one is not None else silent for one, silent in zip(said, silence)]
        with torch.no_grad():
            expected, quality = model.predict(model.encode(torch.from_numpy(image)[None]), torch.from_numpy(boxes), *given)
        assert np.abs(logits - expected.numpy()).max() < 1e-2 and np.abs(confidence - quality.numpy()).max() < 1e-3
        answers.append(logits)
    assert np.abs(answers[0] - answers[1]).max() > 0.1 and np.abs(answers[0] - answers[2]).max() > 1e-3
    assert not runtime.doubt


def test_the_segmenter_tells_it_of_the_neighbour(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    decode = OpenVINONetwork.decode

    def listening(self: OpenVINONetwork, embedding: np.ndarray, boxes: np.ndarray, hints: Any, kinds: Any) -> Any:
        heard.append((copy.copy(hints), copy.copy(kinds)))
        return decode(self, embedding, boxes, hints, kinds)

    monkeypatch.setattr(OpenVINONetwork, "decode", listening)
    _, model = exported
    rng = np.random.default_rng(0)
    grey = Volume(rng.normal(0, 40, (7, 40, 40)).astype(np.int16), modality="MR")
    result = Segmenter(model=str(model.folder)).segment(grey, [Box.from_voxels((8, 9, 1), (30, 31, 5))], strategy="propagate")
    assert result.labels_kji.any()
    assert all(hints.shape[1:] == (4, SIZE // 2, SIZE // 2) and kinds.shape[1:] == (3,) for hints, kinds in heard)
    told = [bool(hints[0, 0].any()) for hints, _ in heard]
    assert not told[0] and any(told) and heard[0][1].tolist() == [[0, 1, 0]]
    assert all(kinds[0].tolist() == [0, 0, 1] for (hints, kinds), known in zip(heard, told) if known)
