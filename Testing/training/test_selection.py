"""Who is held out, which epoch is kept, and what is said of it: on ten cases as on ten thousand."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import train, trainer  # noqa: E402
from qmedsam_training.averaging import averaged, learning_norms, reestimated  # noqa: E402
from qmedsam_training.config import DataConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import make_source  # noqa: E402
from qmedsam_training.data.splitting import dealt, held_out, needs_folds  # noqa: E402
from qmedsam_training.selection import ELLIPSE, Scores, Verdict, chosen, joined, unseen  # noqa: E402
from small import TINY  # noqa: E402
from torch import nn  # noqa: E402


def _named(*counts: int) -> Dict[str, List[str]]:
    return {f"source{s}": [f"patient{p}" for p in range(count)] for s, count in enumerate(counts)}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.01, 0.5), st.integers(2, 8))
def test_enough_patients_choose_or_all_do_in_turn(counts: List[int], share: float, least: int) -> None:
    """Of ten patients a hash once held out nobody in 28 % of all cases."""
    patients, config = _named(*counts), DataConfig(manifest="a", held_out=share, held_out_least=least)
    away, folds = held_out(patients, config), needs_folds(patients, config)
    if sum(counts) < 2:
        assert not away and not folds
    elif folds:
        assert not away
        parts = [held_out(patients, config.model_copy(update={"folds": folds, "fold": n})) for n in range(folds)]
        assert sorted(p for part in parts for p in part) == sorted((s, p) for s, names in patients.items() for p in names)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1 and min(map(len, parts)) >= 1
    else:
        assert least <= len(away) < sum(counts)
        assert all(sum(s == source for s, _ in away) < len(names) for source, names in patients.items()), "all still train"


def test_the_stated_share_is_held_out_of_every_source_and_stays_when_cases_are_added() -> None:
    config = DataConfig(manifest="a", held_out=0.12)
    before, after = held_out(_named(50, 4, 9), config), held_out(_named(51, 4, 9), config)
    assert [sum(source == f"source{n}" for source, _ in before) for n in range(3)] == [6, 0, 1]
    assert len(before & after) >= len(before) - 1
    assert needs_folds(_named(10), config) == 3 and needs_folds(_named(10), config.model_copy(update={"folds": 0})) == 0
    assert {len(part) for part in dealt(_named(5, 5), 3)} == {3, 4}


def _scores(rng: np.random.Generator, patients: int, epochs: int, gain: float = 0.0, noise: float = 0.05) -> Scores:
    base = rng.normal(0.8, noise, patients)
    by_epoch = {e: base + gain * e + rng.normal(0, noise, patients) for e in range(epochs)}
    return Scores(["g"] * patients, [f"p{n}" for n in range(patients)], by_epoch)


def test_the_score_that_chose_is_not_the_one_that_is_reported() -> None:
    """Twelve epochs that differ by chance alone: what they choose looks better than it is, what is reported does not."""
    rng = np.random.default_rng(0)
    chose, told = [], []
    for _ in range(150):
        scores = _scores(rng, 6, 12)
        truth = np.mean([values.mean() for values in scores.by_epoch.values()])
        verdict = Verdict.of(scores)
        chose.append(verdict.chose - truth)
        told.append(verdict.best.mean - truth)
    assert np.mean(chose) > 0.01 and abs(np.mean(told)) < 0.005


def test_what_is_reported_of_a_patient_is_of_the_epoch_that_the_others_chose() -> None:
    scores = Scores(["a", "a", "b"], ["p", "q", "r"], {0: np.array([0.5, 0.9, 0.5]), 1: np.array([0.9, 0.6, 0.6])})
    assert chosen(scores) == 1 and chosen(scores, "p") == 1 and chosen(scores, "q") == 1
    assert unseen(scores).tolist() == [0.9, 0.6, 0.6]
    scores.by_epoch[2] = np.array([0.1, 0.1, 0.6])
    assert chosen(scores) == 1 and chosen(scores, "p") == 2, "the others' gain of 0.5 and 0 may be chance"
    assert unseen(scores)[0] == 0.1
    assert scores.mean(np.array([0.2, 0.4, 0.9])) == pytest.approx(0.6)  # groups count alike
    assert np.isnan(unseen(Scores(["a"], ["p"], {0: np.array([0.5]), 1: np.array([0.9])}))).all()


def test_sources_of_one_patient_each_have_an_interval_too() -> None:
    """Drawn within their sources they would not vary: 27 patients of 27 sources once were worth 0.833 (0.833 to 0.833)."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.8, 0.1, 27)
    scores = Scores([f"g{n}" for n in range(27)], [f"p{n}" for n in range(27)], {})
    low, high = scores.interval(values)
    assert low < values.mean() - 0.02 and high > values.mean() + 0.02
    mixed = Scores(["a"] * 9 + ["b"], [f"p{n}" for n in range(10)], {})
    low, high = mixed.interval(np.array([*values[:9], 0.2]))
    assert low < mixed.mean(np.array([*values[:9], 0.2])) < high


def test_the_last_epoch_is_kept_unless_another_is_better_by_more_than_chance() -> None:
    """The largest of five means that differ by chance once sent a run back to its start."""
    patients = [f"p{n}" for n in range(8)]
    early, late = np.full(8, 0.8), np.array([0.9, 0.69] * 4)
    assert chosen(Scores(["g"] * 8, patients, {0: early, 1: late})) == 1, "half a point worse, and 10 points to and fro"
    assert chosen(Scores(["g"] * 8, patients, {0: early, 1: late - 0.1})) == 0
    assert chosen(Scores(["g"], ["p"], {0: np.array([0.8]), 1: np.array([0.7])})) == 0, "of one patient no chance is known"


@pytest.mark.parametrize(
    ("gain", "learned", "words"),
    [(0.05, True, "is better than what it started from"), (0.0, None, "is not shown"), (-0.05, False, "nothing was learned")],
)
def test_a_verdict_says_what_was_kept_and_whether_anything_was_learned(
    gain: float, learned: object, words: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    scores = _scores(rng, 10, 5, gain, 0.02)
    if gain == 0:  # better on the mean, and worse on as many
        scores.by_epoch = {0: np.full(10, 0.8), 1: 0.8 + np.array([0.1, -0.09] * 5)}
    verdict = Verdict.of(scores, folds=3)
    verdict.save(tmp_path)
    assert verdict.learned is learned and Verdict.read(tmp_path) == verdict
    text = (tmp_path / "report.md").read_text()
    assert words in text and "10 patients" in text and "| last |" in text and "| start | 0 |" in text
    assert ("epoch 0" in verdict.sentences()[0]) == (gain < 0)


def test_scores_come_back_from_their_file_and_folds_are_joined(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [_scores(rng, 3, 4), _scores(rng, 2, 3)]
    parts[0].by_epoch[ELLIPSE] = np.full(3, 0.7)
    parts[0].save(tmp_path / "scores.csv")
    again = Scores.read(tmp_path / "scores.csv")
    assert again.epochs == [0, 1, 2, 3] and again.patients == parts[0].patients
    assert all(np.allclose(again.by_epoch[e], parts[0].by_epoch[e], atol=1e-6) for e in parts[0].by_epoch)
    both = joined(parts)
    assert both.epochs == [0, 1, 2] and len(both.by_epoch[2]) == len(both.patients) == 5
    (tmp_path / "scores.csv").write_text("epoch,group\n1,2\n")
    with pytest.raises(QMedSAMError, match="scores of a run"):
        Scores.read(tmp_path / "scores.csv")


def test_an_average_forgets_its_start() -> None:
    """At a constant 0.999 it is after 80 steps still to 92 % where it began."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    nn.init.zeros_(model[0].weight)
    mean = averaged(model, 0.999)
    mean.update_parameters(model)
    nn.init.ones_(model[0].weight)
    for _ in range(80):
        mean.update_parameters(model)
    assert mean.module[0].weight.item() > 0.99
    still = averaged(model, 0.0)
    still.update_parameters(model)
    assert torch.equal(still.module[0].weight, model[0].weight)


def test_statistics_are_taken_anew_where_they_are_learned_and_nowhere_else() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.free = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor, boxes: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
            return self.free(self.frozen(images))

    torch.manual_seed(0)
    network = Network().train()
    batches = [(torch.randn(4, 3, 5, 5) * 2 + 7, torch.zeros(4, 4), torch.arange(4)) for _ in range(3)]
    norms = learning_norms(network, [network.frozen])
    assert norms == [network.free]
    reestimated(network, norms, lambda: batches)
    expected = torch.stack([images.mean((0, 2, 3)) for images, _, _ in batches]).mean(0)
    assert torch.allclose(network.free.running_mean * (1 + 1e-5) ** 0.5, expected, atol=1e-3)
    assert torch.equal(network.frozen.running_mean, torch.zeros(3)), "a frozen part keeps its own"
    assert not network.training and network.free.momentum == 0.1
    reestimated(network, [], lambda: pytest.fail("drawn for nothing"))


def _config(manifest: Path, **changes) -> TrainConfig:
    data = {"manifest": manifest, "synthetic": 0, "workers": 0, "samples_per_epoch": 40, "augmentation": 0.3}
    values = {"options": TINY, "input_size": 32, "batch_size": 4, "epochs": 3, "threads": 1, "seed": 1}
    values["optimizer"] = {"learning_rate": 0.01, "warmup_epochs": 0.2}
    return TrainConfig.model_validate({**values, **changes, "data": {**data, **changes.get("data", {})}})


@pytest.fixture(scope="module")
def few(manifest: Path) -> Path:
    """A manifest of nine pictures of nine patients."""
    path = manifest.with_name("few.csv")
    path.write_text("\n".join(manifest.read_text().splitlines()[:10]) + "\n")
    return path


@pytest.fixture(scope="module")
def folded(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folded")
    train.run(_config(few), folder)
    return folder


def test_a_short_run_keeps_what_it_learned(manifest: Path, tmp_path: Path) -> None:
    """With the recipe's decay of 0.999: 60 steps from random weights were kept as good as untrained."""
    best = train.run(_config(manifest, epochs=6, ema=0.999), tmp_path)
    verdict = Verdict.read(tmp_path)
    raw = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    kept = torch.load(best, weights_only=True)["model"]
    name = next(n for n in raw if n.endswith("norm.running_mean"))
    assert verdict.kept > 2 and verdict.best.mean > 0.75, verdict
    assert not torch.equal(raw[name], kept[name]) and (tmp_path / "final.pt").is_file()


def test_few_patients_are_held_out_in_folds_and_all_train_in_the_end(folded: Path, few: Path) -> None:
    verdict, scores = Verdict.read(folded), Scores.read(folded / "scores.csv")
    assert verdict.folds == 3 and verdict.patients == 9 == len(set(scores.patients))
    assert "9 patients that were held out, in 3 folds" in verdict.sentences()[0]
    best = torch.load(folded / "best.pt", weights_only=True)
    assert best["epoch"] == verdict.kept == chosen(scores) > 0
    with (folded / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows][-1] == str(verdict.kept) and rows[-1]["held_out_dsc"] == "nan"
    seen = []
    for fold in range(3):
        config = _config(few, data={"folds": 3, "fold": fold})
        seen += [held.patient for held in make_source(config).held_out()]
    assert sorted(seen) == sorted(scores.patients)


def test_folds_go_on_where_they_were_stopped(folded: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, calls = trainer.Trainer._learn, []

    def interrupted(stage: trainer.Trainer, batch: tuple) -> float:
        calls.append(1)
        if len(calls) == 45:  # in the second fold
            signal.raise_signal(signal.SIGTERM)
        return learn(stage, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_learn", interrupted)
        train.run(_config(few), tmp_path)
    assert (tmp_path / "fold-2").is_dir() and not (tmp_path / "fold-3").exists() and not (tmp_path / "report.json").exists()
    train.run(_config(few), tmp_path)
    one, other = (torch.load(folder / "best.pt", weights_only=True)["model"] for folder in (folded, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    verdicts = [Verdict.read(folder) for folder in (folded, tmp_path)]
    assert verdicts[0].kept == verdicts[1].kept and verdicts[0].chose == pytest.approx(verdicts[1].chose, abs=1e-6)


def test_where_nothing_is_learned_the_start_is_kept_and_it_is_said(folded: Path, few: Path, tmp_path: Path) -> None:
    ruinous = {"learning_rate": 0.3, "warmup_epochs": 0}
    best = train.run(_config(few, init=folded / "best.pt", epochs=1, optimizer=ruinous), tmp_path)
    assert torch.load(best, weights_only=True)["epoch"] == 0
    assert "nothing was learned" in Verdict.read(tmp_path).sentences()[0] and Verdict.read(tmp_path).learned is False
    start, kept = (torch.load(path, weights_only=True)["model"] for path in (folded / "best.pt", best))
    assert all(torch.equal(start[name], kept[name]) for name in start)


def test_a_plateau_wants_somebody_who_is_held_out_throughout(few: Path, tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match="plateau"):
        train.run(_config(few, optimizer={"schedule": "plateau"}), tmp_path)
