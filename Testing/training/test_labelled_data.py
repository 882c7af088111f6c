"""Labelled cases of one's own: pictures and thin volumes in folders, files that cannot be read, objects too small to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
sitk = pytest.importorskip("SimpleITK")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import train  # noqa: E402
from qmedsam_training.architectures import ARCHITECTURES  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.config import DataConfig, FolderConfig, TrainConfig  # noqa: E402
from qmedsam_training.data import ChallengeData, LabelledData, Preparation, calibration_samples, cases, samples  # noqa: E402
from qmedsam_training.data.cases import labelled_cases, split_off  # noqa: E402
from small import TINY  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

PREPARATION = Preparation.of(ARCHITECTURES["qmedsam-compact"], 64)


def _folder(root: Path, count: int, ending: str, depth: int = 1, thickness: float = 1, radius: float = 18) -> FolderConfig:
    """Images of 64 x 80 with an ellipse (on every slice), and their label maps."""
    y, x = np.mgrid[:64, :80]
    ellipse = ((x - 40) / radius / 1.1) ** 2 + ((y - 30) / radius) ** 2 <= 1
    mask = np.stack([ellipse] * depth).astype(np.uint8)
    for place, array in (("images", 60 + 90 * mask), ("labels", mask)):
        (root / place).mkdir()
        for n in range(count):
            image = sitk.GetImageFromArray(array if ending != "png" else array[0])
            image.SetSpacing((1, 1, thickness)[: image.GetDimension()])
            sitk.WriteImage(image, str(root / place / f"case{n}.{ending}"))
    return FolderConfig(images=root / "images", labels=root / "labels", modality="US")


@pytest.mark.parametrize(
    ("ending", "depth", "axes"), [("png", 1, {2}), ("nii.gz", 1, {2}), ("nii.gz", 3, {2}), ("nii.gz", 12, {0, 1, 2})]
)
def test_pictures_and_thin_volumes_in_folders_are_looked_at_from_above_alone(
    ending: str, depth: int, axes: set, tmp_path: Path
) -> None:
    config = DataConfig(folders=[_folder(tmp_path, 5, ending, depth)], synthetic=0, held_out=0.5, held_out_least=2)
    data = LabelledData(config, PREPARATION)
    targets = [t for group in data.cases.targets.values() for case in group for t in case]
    assert {t.view_axis for t in targets} == axes
    for seed in range(20):
        assert data.sample(0, np.random.default_rng(seed)).masks.shape[1:] == (64, 64)
    assert data.held_out()


def test_a_frame_beside_a_thin_slice_is_drawn_again(tmp_path: Path) -> None:
    """Of slices that are 0.4 mm across no network pixel need have its centre on one."""
    folder = _folder(tmp_path, 3, "nii.gz", depth=8, thickness=0.05)
    data = LabelledData(DataConfig(folders=[folder], synthetic=0, held_out=0), PREPARATION)
    for seed in range(60):
        assert data.sample(0, np.random.default_rng(seed)).image.shape == (3, 64, 64)


def _manifest(root: Path, broken: range) -> Path:
    """Six ultrasound pictures of six patients, some of them damaged."""
    (root / "folder").mkdir()
    _folder(root / "folder", 6, "png")
    for n in broken:
        (root / "folder" / "images" / f"case{n}.png").write_bytes(b"nothing")
    rows = [f"c{n},US,2D,set,train,p{n},folder/images/case{n}.png,folder/labels/case{n}.png" for n in range(6)]
    path = root / "cases.csv"
    path.write_text("\n".join(["case_id,modality,dim,source,split,patient_id,path_image,path_mask", *rows]))
    return path


def test_cases_that_cannot_be_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In training and in scoring, those of the held-out part too."""
    data = {"manifest": _manifest(tmp_path, range(3)), "samples_per_epoch": 2, "workers": 0}
    data.update(held_out=0.5, held_out_least=2)
    kept, away = split_off(labelled_cases(DataConfig(**data)), DataConfig(**data))
    assert {len({"c0", "c1", "c2"} & {c.case_id for c in part}) for part in (kept, away)} == {1, 2}, "some in each"
    config = TrainConfig(data=data, options=TINY, input_size=32, batch_size=2, epochs=1)
    train.run(config, tmp_path / "run")
    assert "3 of the cases could not be used; the first: c" in caplog.text
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    told = ["evaluate", tmp_path / "run" / "best.pt", "--config", tmp_path / "stage.yaml", "--dry-run"]
    assert "3 of the cases could not be used" in CliRunner().invoke(app, list(map(str, told)), env={"COLUMNS": "200"}).output


def test_when_no_case_can_be_read_the_reason_is_told(tmp_path: Path) -> None:
    path = _manifest(tmp_path, range(6))
    for use in (
        lambda: LabelledData(DataConfig(manifest=path), PREPARATION),
        lambda: next(calibration_samples(ARCHITECTURES["qmedsam-compact"], 1, path)),
    ):
        with pytest.raises(QMedSAMError, match=r"the first: c0: .*case0\.png"):
            use()


def test_without_strength_whole_slices_are_only_flipped(tmp_path: Path) -> None:
    """Not zoomed either: the ellipse keeps its place but for the side."""
    config = DataConfig(folders=[_folder(tmp_path, 2, "png")], synthetic=0, whole_slice=1, held_out=0, augmentation=0)
    data = LabelledData(config, PREPARATION)
    masks = [data.sample(0, np.random.default_rng(seed)).masks[0].numpy() > 0.5 for seed in range(6)]
    assert all(np.array_equal(m, masks[0]) or np.array_equal(m, masks[0][:, ::-1]) for m in masks)


def test_objects_that_are_too_small_to_draw_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of their pixels is left at half the size: the loop went on for ever."""
    monkeypatch.setattr(samples, "MOST_DRAWS", 20)
    (tmp_path / "folder").mkdir()
    config = DataConfig(folders=[_folder(tmp_path / "folder", 2, "png", radius=3)], synthetic=0, whole_slice=1, held_out=0)
    with pytest.raises(QMedSAMError, match="labelled cases left no object of 20 pixels at 32 x 32"):
        LabelledData(config, replace(PREPARATION, size=32)).sample(0, np.random.default_rng(0))
    (tmp_path / "US" / "set").mkdir(parents=True)
    labels = np.zeros((64, 64), np.uint8)
    labels[30:34, 30:34] = 1
    np.savez_compressed(tmp_path / "US" / "set" / "a.npz", imgs=np.repeat(40 * labels[..., None], 3, 2), gts=labels)
    data = ChallengeData(DataConfig(challenge=tmp_path, synthetic=0, whole_slice=1), replace(PREPARATION, size=32))
    with pytest.raises(QMedSAMError, match="files of 'US' left no object"):
        data.sample(0, np.random.default_rng(0))


def test_boxes_end_at_the_frame_as_they_do_at_run_time(tmp_path: Path) -> None:
    """Jittered ones once reached up to 35 % of the object out of it, where the engine's never do."""
    for shift in (None, 40.0):
        (tmp_path / str(shift)).mkdir()
        config = DataConfig(folders=[_folder(tmp_path / str(shift), 2, "png", radius=26)], held_out=0, box_shift=shift)
        data = LabelledData(config, PREPARATION)
        boxes = torch.cat([data.sample(0, np.random.default_rng(seed)).boxes for seed in range(60)])
        assert boxes.min() >= -0.5 and boxes.max() <= 63.5 and (boxes == 63.5).any()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_an_object_that_vanishes_in_resampling_is_not_taught_as_nothing() -> None:
    """The prompt comes from other slices and is large; on its own slice the object is a line that no pixel shows."""
    prompt = np.zeros((1, 64, 64), np.float32)
    prompt[0, 10:50, 10:50] = 1
    line, nothing = prompt * 0, prompt * 0
    line[0, 10:50, 30] = 0.4
    image, valid = np.random.default_rng(0).random((64, 64)), np.ones((64, 64), bool)
    shared = (prompt, PREPARATION, np.random.default_rng(0), None)
    assert samples.finished(image, valid, line, *shared, [False]) is None
    sample = samples.finished(image, valid, nothing, *shared, [True])
    assert sample is not None and not sample.masks.any(), "an object that has ended still is"


def test_components_are_searched_once_for_all_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again when a volume comes back into a cache that had to forget it."""
    (tmp_path / "folder").mkdir()
    folder = _folder(tmp_path / "folder", 3, "nii.gz", depth=12)
    calls, search = [], cases.components
    monkeypatch.setattr(cases, "components", lambda *a: calls.append(1) or search(*a))
    config = DataConfig(folders=[folder], synthetic=0, held_out=0, cache_mib=0)
    for _ in range(3):
        data = LabelledData(config, PREPARATION)
        one = [data.sample(0, np.random.default_rng(seed)).masks for seed in range(4)]
    assert len(calls) == 3 and all(mask.any() for mask in one)
    (folder.labels / "case0.nii.gz").touch()
    LabelledData(config, PREPARATION)
    assert len(calls) == 4, "a label map that was changed is searched again"


def test_a_thin_object_is_left_out_along_the_axis_that_never_shows_enough_of_it(tmp_path: Path) -> None:
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[6, 2:13, 3:14] = 1  # one slice thick: 121 pixels from above, 11 from either side
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(60 + 90 * mask), str(tmp_path / "images" / "case.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "labels" / "case.nii.gz"))
    folder = FolderConfig(images=tmp_path / "images", labels=tmp_path / "labels", modality="US")
    ((targets,),) = cases.Cases(labelled_cases(DataConfig(folders=[folder]))).targets.values()
    assert [(target.view_axis, target.index) for target in targets] == [(2, 6)]
