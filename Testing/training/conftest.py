"""A tiny labelled data set, made here: bright blobs on 2D pictures and in one small volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = ["case_id,modality,dim,source,split,patient_id,path_image,path_mask"]
    y, x = np.mgrid[:64, :72]
    for n in range(24):
        cx, cy = rng.uniform(24, 48, 2)
        mask = ((x - cx) / rng.uniform(8, 16)) ** 2 + ((y - cy) / rng.uniform(8, 16)) ** 2 <= 1
        image = np.clip(rng.normal(60, 12, mask.shape) + 90 * mask, 0, 255).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"{n}.png"))
        sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8)), str(folder / f"{n}_mask.png"))
        rows.append(f"c{n},US,2D,blobs,train,p{n},{n}.png,{n}_mask.png")
    k, j, i = np.mgrid[:16, :40, :40]
    mask = ((i - 20) / 9) ** 2 + ((j - 18) / 11) ** 2 + ((k - 8) / 6) ** 2 <= 1
    for n in range(6):
        volume = sitk.GetImageFromArray((rng.normal(0, 60, mask.shape) + 300 * mask - 100).astype(np.int16))
        volume.SetSpacing((1.0, 1.0, 3.0))
        sitk.WriteImage(volume, str(folder / f"v{n}.nii.gz"))
        truth = sitk.GetImageFromArray(mask.astype(np.uint8))
        truth.CopyInformation(volume)
        sitk.WriteImage(truth, str(folder / f"v{n}_mask.nii.gz"))
        rows.append(f"v{n},CT,3D,balls,train,q{n},v{n}.nii.gz,v{n}_mask.nii.gz")
    path = folder / "manifest.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the challenge's layout: CT and MR volumes, ultrasound pictures, one truncated and one foreign file."""
    root = tmp_path_factory.mktemp("challenge")
    rng = np.random.default_rng(0)
    for modality in ("CT", "MR", "US"):
        (root / modality / "set").mkdir(parents=True)

    def blobs(count: int, side: int) -> np.ndarray:
        y, x = np.mgrid[:side, :side]
        labels = np.zeros((count, side, side), np.uint8)
        for slice_ in labels:
            for label, (cx, cy) in enumerate(((side * 0.3, side * 0.35), (side * 0.7, side * 0.6)), start=1):
                radius = rng.uniform(0.12, 0.2, 2) * side
                slice_[((x - cx) / radius[0]) ** 2 + ((y - cy) / radius[1]) ** 2 <= 1] = label
        return labels

    for modality, files, slices in (("CT", 6, 4), ("MR", 6, 2)):
        for n in range(files):
            labels = np.concatenate([np.zeros((1, 80, 80), np.uint8), blobs(slices, 80)])  # its first slice holds nothing
            images = np.clip(rng.normal(60, 12, labels.shape) + 50 * labels, 0, 255).astype(np.uint8)
            np.savez_compressed(root / modality / "set" / f"{modality}_{n}.npz", imgs=images, gts=labels, spacing=[1.0, 1.0, 4.0])
    for n in range(9):
        labels = blobs(1, 96)[0]
        grey = np.clip(rng.normal(60, 12, labels.shape) + 50 * labels, 0, 255).astype(np.uint8)
        np.savez_compressed(root / "US" / "set" / f"US_{n}.npz", imgs=np.repeat(grey[..., None], 3, 2), gts=labels)
    whole = (root / "US" / "set" / "US_0.npz").read_bytes()
    (root / "US" / "set" / "US_truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez_compressed(root / "US" / "set" / "US_other.npz", imgs=np.zeros((4, 4, 3), np.uint8))
    return root
