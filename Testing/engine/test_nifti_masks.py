"""A NIfTI mask says its place in the words of its image: qform, sform, both codes and the unit, read by another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qmedsam.files import Origin, read_volume, write_image, write_segmentation
from qmedsam.geometry import Volume
from qmedsam.phantom.shapes import rotation

nib = pytest.importorskip("nibabel")

FAST = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = np.random.default_rng(3).integers(0, 4, (12, 40, 44)).astype(np.uint8)
MATRIX = np.array([[-0.7, 0, 0, 31], [0, -0.9, 0, 12], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
VOLUME = Volume(LABELS, MATRIX)
SEGMENTS = [(1, "liver", (0.8, 0.3, 0.1)), (2, "left kidney", None), (3, "", None)]


def rotations() -> st.SearchStrategy:
    return st.tuples(*[st.floats(-180, 180)] * 3).map(lambda angles: rotation(*angles))


@st.composite
def placements(draw) -> Dict[str, Any]:
    """What a NIfTI header may say of its place; ITK reads the image when the sform it takes has the voxels' sizes."""
    spacing = np.array(draw(st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 3.25])] * 3)))
    turns = [draw(rotations()) * [1, 1, draw(st.sampled_from([1, -1]))] for _ in range(2)]
    offsets = [np.array(draw(st.tuples(*[st.floats(-200, 200)] * 3))) for _ in range(2)]
    return {
        "spacing": spacing,
        "qform": np.c_[turns[0] * spacing, offsets[0]],
        "sform": np.c_[turns[1] * spacing, offsets[1]],
        "qform_code": draw(st.integers(0, 4)),
        "sform_code": draw(st.integers(0, 5)),
        "units": draw(st.sampled_from(["unknown", "mm", "meter", "micron"])),
        "version": draw(st.sampled_from([nib.Nifti1Image, nib.Nifti1Pair])),
        "order": draw(st.sampled_from("<>")),
    }


def nifti_of(folder: Path, placed: Dict[str, Any], suffix: str) -> Path:
    kind = placed["version"]
    header = kind.header_class(endianness=placed["order"])
    header.set_data_dtype(np.int16)
    matrix = np.vstack([placed["sform"], [0, 0, 0, 1]])
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), matrix, header)
    image.set_qform(np.vstack([placed["qform"], [0, 0, 0, 1]]), placed["qform_code"])
    image.set_sform(matrix, placed["sform_code"])
    image.header.set_zooms(placed["spacing"])
    image.header.set_xyzt_units(placed["units"])
    path = folder / ("image.hdr" if kind is nib.Nifti1Pair else f"image{suffix}")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@FAST
@given(placements())
def test_a_nifti_mask_lies_on_its_image_in_every_program(tmp_path_factory, suffix: str, placed) -> None:
    """Whether a program takes qform, sform, neither, or passes over the unit: it takes the same for both."""
    folder = tmp_path_factory.mktemp("nifti")
    source = nifti_of(folder, placed, suffix)
    volume = read_volume(source)
    labels = (volume.array_kji % 3).astype(np.uint8)
    segments = [(1, "one", None), (2, "two", None)]
    write_segmentation(folder / f"mask{suffix}", labels, volume, segments, Origin(source))
    image, mask = nib.load(source), nib.load(folder / f"mask{suffix}")
    for form in ("get_qform", "get_sform"):
        (a, code), (b, same) = (getattr(one.header, form)(coded=True) for one in (image, mask))
        assert code == same and (a is None) == (b is None) and (a is None or np.allclose(a, b, rtol=1e-6, atol=1e-6))
    assert mask.header.get_xyzt_units()[0] == image.header.get_xyzt_units()[0] == placed["units"]
    assert np.allclose(mask.header.get_zooms(), image.header.get_zooms())
    assert np.allclose(mask.affine, image.affine, rtol=1e-6) and mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(image.dataobj) % 3)
    again = read_volume(folder / f"mask{suffix}")
    assert np.array_equal(again.array_kji, labels) and np.allclose(again.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)


def test_a_scaled_sform_is_taken_over(tmp_path: Path) -> None:
    """Of twice the voxels' size, as registrations leave it; ITK reads the image, in its own way."""
    placed = {"spacing": np.ones(3), "qform": np.eye(4)[:3], "sform": np.diag([2.0, 2, 2, 1])[:3], "qform_code": 1}
    placed.update(sform_code=1, units="mm", version=nib.Nifti1Image, order="<")
    source = nifti_of(tmp_path, placed, ".nii.gz")
    volume = read_volume(source)
    write_image(tmp_path / "mask.nii.gz", (volume.array_kji > 9).astype(np.uint8), volume, source)
    image, mask = nib.load(source), nib.load(tmp_path / "mask.nii.gz")
    assert np.allclose(mask.get_sform(), image.get_sform()) and np.allclose(mask.get_qform(), image.get_qform())


def test_the_mask_of_an_analyze_file_lies_on_it_in_every_program(tmp_path: Path) -> None:
    """Which take the axes of Analyze differently, but those of a NIfTI file with both codes 0 as they take Analyze's."""
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nib.AnalyzeImage(array, None)
    image.header.set_zooms((0.5, 2.0, 3.0))
    nib.save(image, tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        volume = read_volume(tmp_path / name)
        labels = (volume.array_kji > 20).astype(np.uint8)
        write_segmentation(tmp_path / "m.nii.gz", labels, volume, [(1, "one", None)], Origin(tmp_path / name))
        mask = nib.load(tmp_path / "m.nii.gz")
        assert np.allclose(mask.affine, nib.load(tmp_path / "a.img").affine)
        assert np.array_equal(np.asarray(mask.dataobj), array > 20)
        assert np.allclose(read_volume(tmp_path / "m.nii.gz").ijk_to_ras, volume.ijk_to_ras)


def test_a_nifti_2_image(tmp_path: Path) -> None:
    """Whoever reads it gives a volume; its mask is a NIfTI-1 file in the same place."""
    matrix = np.array([[0, 2.0, 0, 5], [-3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    image = nib.Nifti2Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), matrix)
    image.set_sform(matrix, 4)
    image.set_qform(matrix, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = Volume(np.asarray(image.dataobj).T, matrix)
    write_segmentation(
        tmp_path / "m.nii", (volume.array_kji > 9).astype(np.uint8), volume, SEGMENTS, Origin(tmp_path / "a.nii.gz")
    )
    mask = nib.load(tmp_path / "m.nii")
    assert isinstance(mask, nib.Nifti1Image) and np.allclose(mask.affine, matrix)
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (4, 3)


def test_a_mask_on_another_grid_than_its_source_says_its_own_place(tmp_path: Path) -> None:
    source = tmp_path / "a.nii.gz"
    write_image(source, LABELS, VOLUME)
    shifted = Volume(LABELS, MATRIX @ np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    for volume, labels in ((shifted, LABELS), (Volume(LABELS[:4], MATRIX), LABELS[:4])):
        write_segmentation(tmp_path / "b.nii.gz", labels, volume, SEGMENTS, Origin(source))
        assert np.allclose(read_volume(tmp_path / "b.nii.gz").ijk_to_ras, volume.ijk_to_ras, atol=1e-4)
    for foreign in ("c.nii.gz", "d.nrrd", "gone.nii"):
        (tmp_path / foreign).write_bytes(b"x" * 600 * (foreign[0] != "g"))
        write_segmentation(tmp_path / "b.nii.gz", LABELS, VOLUME, SEGMENTS, Origin(tmp_path / foreign))
        assert np.allclose(read_volume(tmp_path / "b.nii.gz").ijk_to_ras, MATRIX, atol=1e-4)
