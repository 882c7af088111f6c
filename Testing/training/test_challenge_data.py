"""The challenge's npz layout: index, sampler, sharding, cache, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training.config import DataConfig, FolderConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import ChallengeData, ChallengeIndex, Plan, Preparation, make_loader  # noqa: E402
from qmedsam_training.data.cases import Cases, paired  # noqa: E402
from qmedsam_training.data.index import Clips  # noqa: E402
from qmedsam_training.data.volumes import VolumeCache  # noqa: E402

PREPARATION = Preparation(64, {"kind": "minmax"}, 0.3, "slice")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
@settings(deadline=None)
def test_every_clip_is_found_once(counts: list) -> None:
    clips = Clips(tuple(f"m/d/{n}.npz" for n in range(len(counts))), np.cumsum(counts, dtype=np.int64))
    assert [clips.locate(n) for n in range(len(clips))] == [
        (f"m/d/{file}.npz", place) for file, count in enumerate(counts) for place in range(count)
    ]
    for outside in (-1, len(clips)):
        with pytest.raises(IndexError):
            clips.locate(outside)


def test_the_index_counts_labelled_slices_and_lists_broken_files(challenge: Path, tmp_path: Path) -> None:
    index = ChallengeIndex.of(challenge)
    assert {name: len(clips) for name, clips in index.modalities.items()} == {"CT": 24, "MR": 12, "US": 9}
    assert dict(index.broken).keys() == {"US/set/US_truncated.npz", "US/set/US_other.npz"}
    index.save(tmp_path / "index.json")
    again = ChallengeIndex.open(tmp_path / "index.json")
    assert again.root == challenge and again.broken == index.broken
    assert [again.modalities["CT"].locate(n) for n in range(24)] == [index.modalities["CT"].locate(n) for n in range(24)]


def test_a_modality_without_clips_and_a_foreign_index_are_refused(challenge: Path, tmp_path: Path) -> None:
    folder = tmp_path / "OCT" / "set"
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "OCT_0.npz", imgs=np.zeros((8, 8, 3), np.uint8), gts=np.zeros((8, 8), np.uint8))
    with pytest.raises(QMedSAMError, match="OCT"):
        ChallengeIndex.of(tmp_path)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(QMedSAMError, match="no index"):
        ChallengeIndex.open(tmp_path / "x.json")
    with pytest.raises(QMedSAMError, match="modality/dataset"):
        ChallengeIndex.of(folder / "nothing")


def _data(challenge: Path, **changes) -> ChallengeData:
    fields = {"challenge": challenge, "synthetic": 0.0, "whole_slice": 1.0, "held_out": 0.25, "box_shift": 10}
    return ChallengeData(DataConfig(**{**fields, **changes}), PREPARATION, seed=3)


@pytest.mark.parametrize("sampler", ["min", "one-tenth", "all"])
def test_epochs_are_balanced_redrawn_and_without_repeats(challenge: Path, sampler: str) -> None:
    data = _data(challenge, sampler=sampler)
    sizes = [count for _, _, count in data.describe()]
    keys = data.epoch(0)
    per_modality = np.histogram(keys, bins=data.starts)[0].tolist()
    wanted = {"min": [min(sizes)] * 3, "one-tenth": [max(n // 10, min(sizes)) for n in sizes], "all": sizes}
    assert per_modality == wanted[sampler] and len(set(keys.tolist())) == len(keys)
    assert not np.array_equal(keys, data.epoch(1)) and np.array_equal(keys, data.epoch(0))


@given(st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=12)
def test_ranks_share_an_epoch_without_overlap(world: int, epoch: int) -> None:
    class Numbers:
        def epoch(self, number: int) -> np.ndarray:
            return np.random.default_rng(number).permutation(50)

    plans = [Plan(Numbers(), 12, rank, world, seed=1) for rank in range(world)]
    whole = Plan(Numbers(), 12, seed=1)
    for plan in [*plans, whole]:
        plan.epoch = epoch
    for parts, batch in zip(zip(*plans), whole):
        assert [item for part in parts for item in part] == batch
    assert len(whole) == 4
    whole.first = 3
    rest = [(int(key), (1, epoch, position)) for position, key in enumerate(Numbers().epoch(epoch))][36:48]
    assert [item for batch in whole for item in batch] == rest


def test_a_plan_refuses_what_cannot_be_shared(challenge: Path) -> None:
    with pytest.raises(QMedSAMError, match="shared"):
        Plan(_data(challenge), 5, 0, 2)
    with pytest.raises(QMedSAMError, match="fewer than one batch"):
        Plan(_data(challenge), 1000)


def test_a_sample_depends_on_its_position_alone(challenge: Path) -> None:
    """Not on workers, nor on what was drawn before."""
    batches = []
    for workers in (0, 2):
        plan = Plan(_data(challenge), 6, seed=5)
        plan.first = workers // 2  # the second run starts one batch later, as a resumed one does
        batches.append(list(make_loader(plan, workers)))
    for a, b in zip(batches[0][1:], batches[1]):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_samples_are_framed_as_at_run_time(challenge: Path) -> None:
    data = _data(challenge)
    for position in range(40):
        key = int(data.epoch(0)[position % 15])
        sample = data.sample(key, np.random.default_rng(position))
        assert sample.image.shape == (3, 64, 64) and sample.image.min() == 0 and abs(sample.image.max() - 1) < 1e-6
        mask = sample.masks[0].numpy() > 0.5
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x0, y0, x1, _ = sample.boxes[0].tolist()
        # outward by 0 to 10 of 256 pixels, never inward, never off the frame
        assert -0.5 <= x0 <= columns[0] - 0.5 and columns[-1] + 0.5 <= x1 <= 63.5
        assert columns[0] - 0.5 - x0 <= 10 * 64 / 256 + 1e-4 and rows[0] - 0.5 - y0 <= 10 * 64 / 256 + 1e-4
        assert 0 < mask.mean() < 0.6, "the background never is the object"


def test_a_label_that_resampling_wipes_out_is_not_the_background(tmp_path: Path) -> None:
    """A 10-pixel line on a 512-pixel slice is gone at 64: another clip is drawn, and never an empty or inverted mask."""
    folder = tmp_path / "CT" / "set"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    thin, thick = np.zeros((512, 512), np.uint8), np.zeros((512, 512), np.uint8)
    thin[200, 100:110] = 1
    thick[100:300, 150:350] = 1
    for name, labels in (("CT_0", thin), ("CT_1", thick)):
        np.savez_compressed(folder / f"{name}.npz", imgs=rng.integers(0, 255, (512, 512, 3), dtype=np.uint8), gts=labels)
    data = _data(tmp_path)
    for key in range(2):
        sample = data.sample(key, np.random.default_rng(key))
        assert abs(float(sample.masks.mean()) - (200 / 512) ** 2) < 0.02


def test_the_cache_is_bounded(challenge: Path) -> None:
    cache = VolumeCache(lambda n: np.zeros(int(n) * 2**10, np.uint8), lambda a: a.nbytes, limit_mib=0.0625)
    for n in (20, 30, 40, 100, 20):
        assert len(cache[n]) == n * 2**10
        assert cache.bytes <= 64 * 2**10
    data = _data(challenge, cache_mib=0)
    assert data.sample(0, np.random.default_rng(0)).image.shape == (3, 64, 64)


def test_nifti_folders_are_paired_by_name(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    k, j, i = np.mgrid[:8, :24, :24]
    ball = (((i - 12) / 7) ** 2 + ((j - 12) / 7) ** 2 + ((k - 4) / 4) ** 2 <= 1).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(ball * 100), str(tmp_path / "imagesTr" / "liver_1_0000.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(ball * 100), str(tmp_path / "imagesTr" / "liver_2_0000.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(ball), str(tmp_path / "labelsTr" / "liver_1.nii.gz"))
    (tmp_path / "labelsTr" / "liver_2.nii.gz").write_bytes(b"damaged")
    folder = FolderConfig(images=tmp_path / "imagesTr", labels=tmp_path / "labelsTr", modality="MR")
    cases = Cases(paired(folder))
    assert list(cases.targets) == [f"MR/{tmp_path.name}"] and [name for name, _ in cases.skipped] == ["liver_2"]
    with pytest.raises(QMedSAMError, match="No image"):
        paired(folder.model_copy(update={"labels": tmp_path}))


def test_configurations_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "stage.yaml"
    for text, match in (
        ("data: {manifest: a.csv, challenge: b}", "either 'challenge'"),
        ("data: {manifest: a.csv}\nlearning_rat: 3", "learning_rat: there is no such setting"),
        ("data: {manifest: a.csv, sampler: most}", r"data\.sampler"),
        ("just text", "not a configuration"),
        ("a: [", "could not be read"),
    ):
        path.write_text(text)
        with pytest.raises(QMedSAMError, match=match):
            TrainConfig.read(path)
    path.write_text("data: {manifest: a.csv}")
    config = TrainConfig.read(path, epochs=4, optimizer__learning_rate=0.5, minutes=None)
    assert config.epochs == 4 and config.optimizer.learning_rate == 0.5
