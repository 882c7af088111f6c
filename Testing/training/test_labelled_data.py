"""Labelled cases of one's own: pictures and thin volumes in folders, files that cannot be read, objects too small to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sitk = pytest.importorskip("SimpleITK")

from qmedsam_training.architectures import ARCHITECTURES  # noqa: E402
from qmedsam_training.config import DataConfig, FolderConfig  # noqa: E402
from qmedsam_training.data import LabelledData, Preparation  # noqa: E402

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
    config = DataConfig(folders=[_folder(tmp_path, 5, ending, depth)], synthetic=0, held_out=0.5)
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
