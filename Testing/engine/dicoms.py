"""DICOM files for tests, written with pydicom: series and multi-frame images of a scene that is known in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, ENHANCED_MR, ENHANCED_CT = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "4.1", "2.1"))
US_MULTI, ENHANCED_US, XA, SC_MULTI, NM, SEG, RTDOSE, RTSTRUCT = (
    f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("3.1", "6.2", "12.1", "7.3", "20", "66.4", "481.2", "481.3")
)


@dataclass
class Plane:
    """A slice of the scene.

    Attributes:
        position: LPS of its first pixel, mm.
        rows: direction of rising column, then of rising row.
        spacing: mm between rows and between columns.
        shape: rows, columns.
        time: which time point; the scene brightens with it.
        tags: of its own.
    """

    position: np.ndarray
    rows: np.ndarray
    spacing: Sequence[float] = (0.8, 0.7)
    shape: Sequence[int] = (18, 22)
    time: int = 0
    tags: Dict[str, Any] = field(default_factory=dict)

    def pixels(self) -> np.ndarray:
        j, i = np.mgrid[: self.shape[0], : self.shape[1]]
        points = self.position + i[..., None] * self.spacing[1] * self.rows[0] + j[..., None] * self.spacing[0] * self.rows[1]
        return scene(points, self.time)


def scene(points_lps: np.ndarray, time: int = 0) -> np.ndarray:
    """Values from 0 to some 2,000 at points ``(..., 3)`` in LPS mm: smooth, and different in every direction."""
    x, y, z = np.moveaxis(np.asarray(points_lps, float), -1, 0)
    return np.round(700 + 250 * np.sin(x / 7) + 200 * np.cos(y / 5) + 150 * np.sin(z / 4 + 0.3) + 300 * time).astype(np.int16)


def planes(
    count: int = 7, step: float = 2.5, axes: Optional[np.ndarray] = None, origin=(10.0, 20.0, -50.0), **options
) -> List[Plane]:
    """A regular stack; ``axes`` are three directions in rows (column, row, normal)."""
    axes = np.eye(3) if axes is None else axes
    return [Plane(np.array([10.0, 20.0, -50.0]) + k * step * axes[2], axes[:2], **options) for k in range(count)]


def assert_scene(volume, time: int = 0, tolerance: float = 1.0) -> None:
    """Every voxel of a volume that was read lies where its value says."""
    k, j, i = np.indices(volume.array_kji.shape)
    ijk1 = np.stack([i, j, k, np.ones_like(i)], axis=-1).reshape(-1, 4)
    lps = (volume.ijk_to_ras @ ijk1.T)[:3].T * (-1, -1, 1)
    wanted = scene(lps, time).astype(float)
    assert np.abs(volume.array_kji.ravel() - wanted).max() <= tolerance


def _base(kind: str, modality: str, series: str, **tags: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", series, "1.2.3.9"
    dataset.Modality, dataset.SeriesDescription, dataset.PatientName = modality, "Scene", "Test"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """As a file with meta header and preamble."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    return written(dataset, path)


def written(dataset: Dataset, path: Path) -> Path:
    """Write a data set with its meta header, in the words of pydicom 2 (Python 3.9) or 3."""
    if int(pydicom.__version__.split(".")[0]) >= 3:
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    else:
        syntax = dataset.file_meta.TransferSyntaxUID
        dataset.is_implicit_VR, dataset.is_little_endian = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
        pydicom.dcmwrite(path, dataset, write_like_original=False)
    return path


def write_slices(folder: Path, stack: Sequence[Plane], modality: str = "CT", uid: str = "1.2.3.4", **tags: Any) -> List[Path]:
    """A file per slice, named by its place in ``stack``."""
    paths = []
    for n, plane in enumerate(stack):
        dataset = _base(MR if modality == "MR" else CT, modality, uid, **tags)
        dataset.InstanceNumber = n + 1
        dataset.ImagePositionPatient = [f"{v:.6g}" for v in plane.position]
        dataset.ImageOrientationPatient = [f"{v:.9f}"[:16] for v in plane.rows.ravel()]
        dataset.PixelSpacing = [f"{v:g}" for v in plane.spacing]
        for name, value in plane.tags.items():
            setattr(dataset, name, value)
        pixels = plane.pixels()
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()
        paths.append(save(dataset, folder / f"{n:03d}.dcm"))
    return paths


def _item(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def write_enhanced(path: Path, stack: Sequence[Plane], kind: str = ENHANCED_MR, modality: str = "MR", **tags: Any) -> Path:
    """A multi-frame file whose frames say where they lie, in the order of ``stack``."""
    dataset = _base(kind, modality, "1.2.3.5", **tags)
    volume = kind == ENHANCED_US
    groups = []
    for plane in stack:
        group = Dataset()
        position = [float(f"{v:.6g}") for v in plane.position]
        if volume:
            group.PlanePositionVolumeSequence = Items([_item(ImagePositionVolume=position)])
            group.PlaneOrientationVolumeSequence = Items([_item(ImageOrientationVolume=plane.rows.ravel().tolist())])
        else:
            group.PlanePositionSequence = Items([_item(ImagePositionPatient=position)])
            turned = [f"{v:.9f}"[:16] for v in plane.rows.ravel()]
            group.PlaneOrientationSequence = Items([_item(ImageOrientationPatient=turned)])
        group.PixelMeasuresSequence = Items([_item(PixelSpacing=[f"{v:g}" for v in plane.spacing])])
        group.FrameContentSequence = Items([_item(TemporalPositionIndex=plane.time + 1)])
        for name, value in plane.tags.items():
            setattr(group, name, value)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Items(groups)
    pixels = np.stack([plane.pixels() for plane in stack])
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    return save(dataset, path)


def write_multiframe(path: Path, pixels: np.ndarray, kind: str, modality: str, **tags: Any) -> Path:
    """A multi-frame file that says nothing of single frames."""
    dataset = _base(kind, modality, "1.2.3.6", **tags)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape[:3]
    if pixels.ndim == 4:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    if pixels.dtype == np.uint8:
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    return save(dataset, path)
