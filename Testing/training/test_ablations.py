"""Rows that train from one base, and what the data settings they turn really change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam.frames import Frame  # noqa: E402
from qmedsam.geometry import View, Volume  # noqa: E402
from qmedsam_training.ablations import Ablations, ablate  # noqa: E402
from qmedsam_training.architectures import ARCHITECTURES  # noqa: E402
from qmedsam_training.config import DataConfig  # noqa: E402
from qmedsam_training.data import LabelledData, Preparation  # noqa: E402
from qmedsam_training.data.augmentation import warped, zoomed  # noqa: E402
from small import TINY  # noqa: E402


def _plan(manifest: Path, folder: Path, *rows: dict) -> Path:
    data = {"manifest": str(manifest), "samples_per_epoch": 8, "held_out": 0.3, "held_out_per_group": 2, "workers": 0}
    base = {"options": TINY, "input_size": 64, "data": data, "batch_size": 4, "epochs": 1, "threads": 1}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"base": base, "rows": list(rows)}))
    return path


def test_every_row_trains_its_change_once(manifest: Path, tmp_path: Path) -> None:
    wide = {**TINY, "embed": 32}
    rows = [{"name": "base"}, {"name": "Wider!", "change": {"options": wide}}, {"name": "32", "change": {"input_size": 32}}]
    plan = Ablations.read(_plan(manifest, tmp_path, *rows))
    assert plan.settings(plan.rows[2]).data.samples_per_epoch == 8  # the rest of the base stays
    outcomes = ablate(plan, tmp_path)
    assert [o.name for o in outcomes] == ["base", "Wider!", "32"]
    assert outcomes[1].parameters > outcomes[0].parameters == outcomes[2].parameters
    assert all(0 <= o.dsc <= 1 and o.objects == 9 for o in outcomes)
    lines = (tmp_path / "ablations.md").read_text().splitlines()
    assert len(lines) == 5 and "points" in lines[3] and "points" not in lines[2]
    before = (tmp_path / "wider" / "best.pt").stat().st_mtime_ns
    assert ablate(plan, tmp_path) == outcomes  # nothing trains twice
    assert (tmp_path / "wider" / "best.pt").stat().st_mtime_ns == before


def test_a_wrong_row_is_found_before_anything_trains(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match="widht"):
        Ablations.read(_plan(manifest, tmp_path, {"name": "a"}, {"name": "b", "change": {"widht": 3}}))
    with pytest.raises(QMedSAMError, match="same name"):
        Ablations.read(_plan(manifest, tmp_path, {"name": "a b"}, {"name": "A-B"}))


def test_held_out_boxes_move_outward_by_at_most_the_jitter(manifest: Path) -> None:
    preparation = Preparation.of(ARCHITECTURES["qmedsam-compact"], 64)

    def held(jitter: float) -> list:
        config = DataConfig(manifest=manifest, held_out=0.3, held_out_per_group=6, held_out_jitter=jitter)
        return LabelledData(config, preparation).held_out()

    def sides(sample) -> np.ndarray:  # of the box, in pixels of the slice
        x0, y0, x1, y1 = sample.box[0].numpy()
        return np.array([(x1 - x0) / sample.frame.scale_x, (y1 - y0) / sample.frame.scale_y])

    tight, loose = held(0), held(0.1)
    assert len(tight) == len(loose) > 6
    growth = np.array([sides(b) / sides(a) for a, b in zip(tight, loose)])
    assert (growth > 1).any() and (growth >= 1 - 1e-5).all() and (growth <= 1.2 + 1e-5).all()
    assert all(b.truth.sum() == a.truth.sum() for a, b in zip(tight, loose))  # the object, whatever its box
    assert [s.box.tolist() for s in held(0.1)] == [s.box.tolist() for s in loose]


def test_without_strength_only_flips_are_left() -> None:
    view = View.of(Volume(np.zeros((1, 40, 50), np.float32), np.eye(4)), 2)
    frame = Frame.around((10, 10, 30, 30), view, 64, 0.3)
    same = zoomed(frame, 64, 1.0, 0.0, np.random.default_rng(0))
    assert vars(same) == pytest.approx(vars(frame))
    picture = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    for seed in range(8):
        drawn, valid, masks = warped(picture, np.ones((64, 64), bool), picture[None], 64, 0.0, np.random.default_rng(seed))
        assert valid.all() and np.allclose(drawn, masks[0])
        assert np.allclose(drawn, picture, atol=1e-4) or np.allclose(drawn, picture[:, ::-1], atol=1e-4)
