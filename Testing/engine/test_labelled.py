"""Masks on their image's grid, whatever grid and format they come in; and what is no mask is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import QMedSAMError, Volume
from qmedsam.evaluation.cases import Case, components, of_modalities, read_manifest
from qmedsam.evaluation.scores import dsc
from qmedsam.files import image_of, read_segments, read_volume, write_segmentation
from qmedsam.files.labelled import read_label_map
from qmedsam.files.layouts import pairs_of
from shapes import ball

sitk = pytest.importorskip("SimpleITK")

SHAPE = (14, 40, 46)
TRUTH = ball(SHAPE, (18, 15, 6), (8, 7, 4)).astype(np.uint8)
TRUTH += 2 * ball(SHAPE, (36, 28, 9), (6, 8, 3)).astype(np.uint8)


def grid(turn: float = 0.15, spacing=(0.9, 1.1, 2.5), origin=(12.0, -40.0, 33.0)) -> np.ndarray:
    matrix, c, s = np.eye(4), np.cos(turn), np.sin(turn)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


VOLUME = Volume((TRUTH * 60).astype(np.int16), grid(), "MR", "a")


def save(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    sitk.WriteImage(image_of(array, matrix), str(path))
    return path


@settings(max_examples=40, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    crop=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3),
)
def test_the_same_voxels_in_other_axes_flipped_or_cropped_are_the_same_mask(tmp_path_factory, axes, flips, crop) -> None:
    """What reorienting to canonical axes and cropping do to a file; voxel by voxel it was another mask."""
    matrix = VOLUME.ijk_to_ras.copy()
    array = TRUTH
    cut = tuple(slice(a, n - b) for (a, b), n in zip(crop, SHAPE))
    array = array[cut]
    matrix[:3, 3] = (matrix @ [cut[2].start, cut[1].start, cut[0].start, 1])[:3]
    for n in range(3):
        if flips[n]:
            array = np.flip(array, n)
            column = 2 - n
            matrix[:3, 3] += matrix[:3, column] * (array.shape[n] - 1)
            matrix[:3, column] *= -1
    array = array.transpose(axes)
    matrix[:3, :3] = matrix[:3, [2 - axes[2 - n] for n in range(3)]]
    path = save(tmp_path_factory.mktemp("m") / "m.nrrd", np.ascontiguousarray(array), matrix)
    expected = np.zeros_like(TRUTH)
    expected[cut] = TRUTH[cut]
    (layer,) = read_label_map(path, VOLUME).layers
    np.testing.assert_array_equal(layer, expected)


def test_a_mask_of_another_spacing_lies_at_the_same_millimetres(tmp_path: Path) -> None:
    fine = tuple(2 * n for n in SHAPE)
    matrix = grid(spacing=(0.45, 0.55, 1.25))
    matrix[:3, 3] = (VOLUME.ijk_to_ras @ [-0.25, -0.25, -0.25, 1])[:3]
    truth = ball(fine, (36.5, 30.5, 12.5), (16, 14, 8)).astype(np.uint8)
    found = read_label_map(save(tmp_path / "m.nii.gz", truth, matrix), VOLUME)
    assert dsc(found.layers[0] == 1, TRUTH == 1) > 0.92  # other voxels: a slice beside its place it has 0.8
    assert any("another grid" in note for note in found.notes)


def test_a_mask_that_lies_elsewhere_is_told_or_refused(tmp_path: Path) -> None:
    beside, away = VOLUME.ijk_to_ras.copy(), VOLUME.ijk_to_ras.copy()
    beside[:3, 3] += VOLUME.ijk_to_ras[:3, 0] * 3
    away[:3, 3] += 200
    found = read_label_map(save(tmp_path / "beside.nii.gz", TRUTH, beside), VOLUME)
    np.testing.assert_array_equal(found.layers[0][..., 3:], TRUTH[..., :-3])
    assert any("2.7 mm beside" in note for note in found.notes)
    with pytest.raises(QMedSAMError, match="does not lie on its image"):
        read_label_map(save(tmp_path / "away.nii.gz", TRUTH, away), VOLUME)
    with pytest.raises(QMedSAMError, match="does not lie on its image"):  # half a body further down
        save(tmp_path / "low.nii.gz", TRUTH, VOLUME.ijk_to_ras @ _shifted(0, 0, -9))
        read_label_map(tmp_path / "low.nii.gz", VOLUME)


def _shifted(i: float, j: float, k: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = i, j, k
    return matrix


def test_a_segmentation_of_slicer_gives_names_and_overlapping_layers(tmp_path: Path) -> None:
    path = tmp_path / "m.seg.nrrd"
    write_segmentation(path, TRUTH, VOLUME, [(1, "liver", None), (2, "spleen", None), (3, "nothing", None)])
    found = read_label_map(path, VOLUME)
    assert found.names == {1: "liver", 2: "spleen", 3: "nothing"} and any("nothing" in note for note in found.notes)
    inner = ball(SHAPE, (18, 15, 6), (4, 4, 2)).astype(np.uint8)
    image = image_of(np.stack([(TRUTH == 1).astype(np.uint8), inner], axis=-1)[..., 0], VOLUME.ijk_to_ras)
    layers = sitk.Compose(image, image_of(inner, VOLUME.ijk_to_ras))
    for n, name in enumerate(("liver", "tumour")):
        for key, value in (("Name", name), ("LabelValue", "1"), ("Layer", str(n))):
            layers.SetMetaData(f"Segment{n}_{key}", value)
    sitk.WriteImage(layers, str(tmp_path / "layers.seg.nrrd"))
    found = read_label_map(tmp_path / "layers.seg.nrrd", VOLUME)
    assert found.names == {1: "liver", 2: "tumour"}
    parts = {label: (mask, crop) for label, mask, crop in components(found, True)}
    assert parts[1][0].sum() == (TRUTH == 1).sum()  # the tumour takes nothing from the liver
    assert set(parts) == {1} or parts[2][0].sum() == inner.sum()


def test_a_dicom_segmentation_and_contours_are_masks(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    folder = tmp_path / "series"
    _series(folder)
    volume = read_volume(folder)
    truth = np.zeros(volume.array_kji.shape, np.uint8)
    truth[2:7, 5:15, 6:20] = 1
    truth[4:6, 20:28, 8:18] = 2
    from qmedsam.files import Origin

    (tmp_path / "seg").mkdir()
    seg = tmp_path / "seg" / "1.dcm"
    write_segmentation(seg, truth, volume, [(1, "Liver", None), (2, "Spleen", None)], Origin(folder, None, "m"))
    for path in (seg, seg.parent):  # archives put it into a folder of its own
        found = read_label_map(path, volume, folder)
        np.testing.assert_array_equal(found.layers[0], truth)
        assert found.names == {1: "Liver", 2: "Spleen"} and len(found.layers) == 1
    assert [box.name for box in read_segments(seg, volume)] == ["Liver", "Spleen"]
    rt = _contours(tmp_path / "rt.dcm", truth, volume, pydicom)
    found = read_label_map(rt, volume, folder)
    np.testing.assert_array_equal(found.layers[0], truth)
    assert found.names == {1: "organ 1", 2: "organ 2"}


def _series(folder: Path) -> None:
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(10):
        image = sitk.GetImageFromArray(np.random.default_rng(k).integers(0, 500, (32, 30)).astype(np.int16))
        image.SetSpacing((1.5, 2.0))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0052": "1.2.9", "0010|0020": "P"}
        tags |= {"0020|0032": f"-20\\10\\{2.5 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0018|0050": "2.5", "0020|0013": str(k)}
        tags |= {"0008|0018": f"1.2.3.{k + 1}", "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|0010": "1"}
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)


def _contours(path: Path, truth: np.ndarray, volume: Volume, pydicom) -> Path:
    """The rectangles of ``truth`` as contours along their pixels' borders."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence

    to_lps = np.diag([-1.0, -1, 1, 1]) @ volume.ijk_to_ras
    whole = Dataset()
    whole.SOPClassUID, whole.SOPInstanceUID, whole.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.7", "RTSTRUCT"
    whole.StructureSetROISequence, whole.ROIContourSequence = Sequence(), Sequence()
    for number in (1, 2):
        described, drawn = Dataset(), Dataset()
        described.ROINumber, described.ROIName = number, f"organ {number}"
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for k in np.flatnonzero((truth == number).any(axis=(1, 2))):
            j, i = np.nonzero(truth[k] == number)
            edges = [(i.min() - 0.5, j.min() - 0.5), (i.max() + 0.5, j.min() - 0.5)]
            edges += [(i.max() + 0.5, j.max() + 0.5), (i.min() - 0.5, j.max() + 0.5)]
            points = [(to_lps @ [x, y, k, 1])[:3] for x, y in edges]
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.4f}" for point in points for v in point]
            drawn.ContourSequence.append(contour)
        whole.StructureSetROISequence.append(described)
        whole.ROIContourSequence.append(drawn)
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    whole.file_meta.MediaStorageSOPClassUID, whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPClassUID, "1.2.7"
    whole.is_little_endian, whole.is_implicit_VR = True, False  # pydicom 2, which Python 3.9 has, asks for them
    whole.save_as(path, write_like_original=False)
    return path


# --- values --------------------------------------------------------------------------------------------------------------

DISC = (ball((1, 120, 140), (60, 55, 0), (34, 28, 1))[0] * 255).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(20, 220, (120, 140, 3)).astype(np.uint8)


def _picture(path: Path, array: np.ndarray, **options) -> Path:
    from PIL import Image

    Image.fromarray(array).save(path, **options)
    return path


def _blurred(array: np.ndarray) -> np.ndarray:
    return sitk.GetArrayFromImage(
        sitk.Cast(sitk.DiscreteGaussian(sitk.GetImageFromArray(array.astype(np.float32)), 2.0), sitk.sitkUInt8)
    )


@pytest.mark.parametrize("kind", ["jpeg", "blur", "two greys"])
def test_a_soft_mask_is_one_object_and_says_so(tmp_path: Path, kind: str) -> None:
    """It was dozens of rings, each a label."""
    image = read_volume(_picture(tmp_path / "photo.png", PHOTO))
    if kind == "jpeg":
        path = _picture(tmp_path / "m.jpg", DISC, quality=70)
    elif kind == "blur":
        path = _picture(tmp_path / "m.png", _blurred(DISC))
    else:
        half = DISC.copy()
        half[50, 20:100] = 255
        half[30:80, 94] = np.where(DISC[30:80, 94] == 0, 128, 255)
        path = _picture(tmp_path / "m.png", half)
    found = read_label_map(path, image, tmp_path / "photo.png")
    assert len(np.unique(found.layers[0])) == 2 and "is grey" in found.notes[0]
    assert dsc(found.layers[0][0] > 0, DISC > 0) > 0.98
    assert len(list(components(found, False))) == 1
    assert len(read_segments(path, image)) == 1


def test_true_label_maps_are_left_as_they_are(tmp_path: Path) -> None:
    """Also bright ones, thin ones, and those of a whole brain with its hundred structures."""
    image = Volume(np.zeros((1, 120, 140), np.uint8) + PHOTO[None, ..., 0])
    regions = np.zeros((120, 140), np.uint8)
    regions[10:50, 10:60], regions[60:110, 10:60], regions[10:110, 70:130] = 128, 200, 255
    lines = np.zeros_like(regions)
    lines[20:22, 5:130], lines[60:61, 5:130] = 1, 2
    brain = ((np.mgrid[:120, :140][0] // 10) * 14 + np.mgrid[:120, :140][1] // 10 + 1).astype(np.uint8)
    for n, labels in enumerate((regions, lines, brain)):
        found = read_label_map(_picture(tmp_path / f"{n}.png", labels), image, tmp_path / "x.png")
        np.testing.assert_array_equal(found.layers[0][0], labels)
        assert not found.notes


def test_what_is_no_mask_is_refused_with_both_shapes(tmp_path: Path) -> None:
    photo = _picture(tmp_path / "photo.png", PHOTO)
    grey = _picture(tmp_path / "grey.png", PHOTO[..., 0])
    image = read_volume(photo)
    for path, said in ((photo, "colour picture of 140 x 120"), (grey, "140 x 120 x 1, 200 values")):
        with pytest.raises(QMedSAMError, match=said) as refused:
            read_label_map(path, image, photo)
        assert "the image: 140 x 120 x 1" in str(refused.value) and "swapped" in str(refused.value)
    share = TRUTH * np.float32(0.5) + np.float32(0.001) * np.arange(SHAPE[2], dtype=np.float32)
    with pytest.raises(QMedSAMError, match="probability map"):
        read_label_map(save(tmp_path / "p.nii.gz", share, VOLUME.ijk_to_ras), VOLUME)
    with pytest.raises(QMedSAMError, match="differ in shape"):
        read_label_map(_picture(tmp_path / "small.png", DISC[:100]), image, photo)


def test_objects_left_out_are_counted() -> None:
    labels = np.zeros((1, 200, 200), np.uint8)
    for n in range(11):
        labels[0, 15 * n : 15 * n + 8, 5:20] = 1
    labels[0, 3:6, 100:104] = labels[0, 30:33, 100:104] = 2
    counted: Counter = Counter()
    assert len(list(components(labels, False, counted))) == 8
    assert counted == {"smaller than 30 pixels": 2, "beyond the 8 largest of a label": 3}


# --- lists and layouts -----------------------------------------------------------------------------------------------------


def _pair(folder: Path, image: str, mask: str) -> None:
    for name, array in ((image, TRUTH * 50), (mask, TRUTH)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, array.astype(np.int16), grid())


def test_image_and_mask_are_enough_for_a_list(tmp_path: Path) -> None:
    _pair(tmp_path, "a.nii.gz", "a_mask.nii.gz")
    _picture(tmp_path / "b.png", PHOTO)
    _picture(tmp_path / "b_mask.png", DISC)
    (tmp_path / "m.csv").write_text("image,mask\na.nii.gz,a_mask.nii.gz\nb.png,b_mask.png\n")
    cases = read_manifest(tmp_path / "m.csv")
    assert [(c.case_id, c.is_3d, c.modality) for c in cases] == [("a", True, ""), ("b", False, "")]
    assert {c.source for c in cases} == {tmp_path.name}
    assert all(len(list(components(case.load()[1], case.is_3d))) for case in cases)


@pytest.mark.parametrize(
    "rows,said",
    [
        (["a.nii,m.nii,CT,volumetric,s"], "Line 2.*no dimension 'volumetric'"),
        (["a.nii,m.nii,CT,,s"], "Line 2.*no dim"),
        (["a.nii,m.nii,magic,3D,s"], "Line 2.*'magic'"),
        (["a.nii,m.nii,CT,3D,"], "Line 2.*no source"),
        (["a.nii,m.nii,CT,3D,s", "b.nii,n.nii,CT,3D,s", "a.nii,m.nii,CT,3D,s"], "Lines 2 and 4"),
    ],
)
def test_a_row_that_says_something_wrong_is_named(tmp_path: Path, rows, said: str) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["image,mask,modality,dim,source", *rows]))
    with pytest.raises(QMedSAMError, match=said):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("word,is_3d", [("3", True), ("3D", True), ("volume", True), ("2d", False), ("picture", False)])
def test_dimensions_have_several_names(tmp_path: Path, word: str, is_3d: bool) -> None:
    (tmp_path / "m.csv").write_text(f"image,mask,dim\na.nii,m.nii,{word}\n")
    assert read_manifest(tmp_path / "m.csv")[0].is_3d is is_3d


def test_a_volume_called_a_picture_is_refused(tmp_path: Path) -> None:
    _pair(tmp_path, "a.nii.gz", "m.nii.gz")
    case = Case("a", "MR", False, "s", "", "a", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    with pytest.raises(QMedSAMError, match="14 slices"):
        case.load()


def test_nnunet_and_decathlon(tmp_path: Path) -> None:
    root = tmp_path / "Dataset007_Organ"
    for name in ("organ_000", "organ_001"):
        _pair(root, f"imagesTr/{name}_0000.nrrd", f"labelsTr/{name}.nrrd")
        _pair(root, f"imagesTr/{name}_0001.nrrd", f"labelsTr/{name}.nrrd")
    about = {"channel_names": {"0": "T2w", "1": "ADC"}, "labels": {"background": 0, "gland": 1, "whole": [1, 2]}}
    (root / "dataset.json").write_text(json.dumps({**about, "numTraining": 2, "file_ending": ".nrrd"}))
    for path in (root, root / "dataset.json"):
        cases = read_manifest(path)
        assert [(c.case_id, c.image.name, c.modality) for c in cases] == [
            ("organ_000", "organ_000_0000.nrrd", "MR"), ("organ_001", "organ_001_0000.nrrd", "MR")]  # fmt: skip
        assert cases[0].names == ((1, "gland"),) and cases[0].source == root.name and cases[0].split == "train"
    old = tmp_path / "Task09_Spleen"
    _pair(old, "imagesTr/s_1.nii.gz", "labelsTr/s_1.nii.gz")
    (old / "imagesTr" / "._s_1.nii.gz").write_bytes(b"x")  # what a Mac leaves
    entry = {"image": "./imagesTr/s_1.nii.gz", "label": "./labelsTr/s_1.nii.gz"}
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": [entry], "test": ["./x.nii.gz"]}
    (old / "dataset.json").write_text(json.dumps(about))
    (case,) = read_manifest(old)
    assert (case.modality, case.names, case.split) == ("CT", ((1, "spleen"),), "train") and case.load()[1].layers


def test_data_lists_of_monai(tmp_path: Path) -> None:
    for n in range(3):
        _pair(tmp_path, f"img{n}.nii.gz", f"seg{n}.nii.gz")
    entries = [{"image": [f"img{n}.nii.gz"], "label": f"seg{n}.nii.gz", "fold": n} for n in range(3)]
    (tmp_path / "data.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    assert [(c.case_id, c.split) for c in read_manifest(tmp_path / "data.json")] == [
        ("img0", "train"), ("img1", "train"), ("img2", "validation")]  # fmt: skip
    assert [c.case_id for c in read_manifest(tmp_path / "data.json", "validation")] == ["img2"]
    (tmp_path / "bare.json").write_text(json.dumps(entries))
    assert len(read_manifest(tmp_path / "bare.json")) == 3
    assert len({*read_manifest(tmp_path / "bare.json", "train")}) == 3  # cases are keys of caches
    with pytest.raises(QMedSAMError, match="nothing of splits"):
        read_manifest(tmp_path / "bare.json", "validation")


def test_bids(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    for sub in ("01", "02"):
        name = f"sub-{sub}/anat/sub-{sub}"
        _pair(tmp_path, f"{name}_FLAIR.nii.gz", f"derivatives/m/{name}_label-lesion_mask.nii.gz")
        _pair(tmp_path, f"{name}_T1w.nii.gz", f"derivatives/m/{name}_dseg.nii.gz")
    _pair(tmp_path, "sub-01/anat/x.nii.gz", "derivatives/m/sub-01/anat/sub-01_space-MNI_dseg.nii.gz")
    _pair(tmp_path, "sub-03/pet/sub-03_ses-1_pet.nii.gz", "sub-03/pet/sub-03_ses-1_desc-tumour_mask.nii.gz")
    pairs = {p.name: p for p in pairs_of(tmp_path) or ()}
    assert set(pairs) == {
        *(f"sub-0{n}_{m}" for n in (1, 2) for m in ("label-lesion_mask", "dseg")),
        "sub-03_ses-1_desc-tumour_mask",
    }
    assert pairs["sub-01_dseg"].image.name == "sub-01_T1w.nii.gz" and pairs["sub-01_dseg"].modality == "MR"
    assert pairs["sub-03_ses-1_desc-tumour_mask"].modality == "PET" and pairs["sub-02_dseg"].patient == "sub-02"


def test_two_folders_and_files_beside_each_other(tmp_path: Path) -> None:
    """Numbered from _0000 on both sides, no pair is lost to nnU-Net's number of the channel."""
    for n in range(3):
        _pair(tmp_path / "two", f"images/img_000{n}.nrrd", f"labels/img_000{n}.nrrd")
        _pair(tmp_path / "near", f"p{n}/t1.nrrd", f"p{n}/t1_mask.nrrd")
    assert [c.case_id for c in read_manifest(tmp_path / "two")] == ["img_0000", "img_0001", "img_0002"]
    assert [c.case_id for c in read_manifest(tmp_path / "near")] == ["p0/t1", "p1/t1", "p2/t1"]
    _pair(tmp_path / "two", "labels/alone.nrrd", "labels/alone.nrrd")
    with pytest.raises(QMedSAMError, match=r"'alone\.nrrd'.*no image"):
        read_manifest(tmp_path / "two")
    (tmp_path / "none").mkdir()
    with pytest.raises(QMedSAMError, match="known way"):
        read_manifest(tmp_path / "none")


def test_batch_reads_the_same_layouts(tmp_path: Path) -> None:
    from qmedsam.batch import collect
    from qmedsam.batch.one import prompts_of

    root = tmp_path / "Dataset007_Organ"
    _pair(root, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
    _pair(root, "imagesTs/b_0000.nrrd", "labelsTr/a.nrrd")
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "gland": 1}, "file_ending": ".nrrd"}
    (root / "dataset.json").write_text(json.dumps(about))
    for source in (root, root / "dataset.json"):
        (case,) = collect([source], tmp_path / "out")
        assert (case.name, case.modality, case.output) == ("a", "CT", tmp_path / "out" / "a.seg.nrrd")
        assert [box.name for box in prompts_of(case, read_volume(case.volume))] == ["gland", ""]
    bids = tmp_path / "bids"
    (bids / "derivatives").mkdir(parents=True)
    (bids / "dataset_description.json").write_text("{}")
    _pair(bids, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/m/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    _pair(bids, "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_dseg.nii.gz")
    cases = collect([bids], tmp_path / "out")
    assert [c.volume.name for c in cases] == ["sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz"] and not any(c.problem for c in cases)
    _pair(tmp_path / "loose", "sub-01_T1w.nii.gz", "sub-01_desc-brain_mask.nii.gz")
    (case,) = collect([tmp_path / "loose"], tmp_path / "out")
    assert case.segmentation.name == "sub-01_desc-brain_mask.nii.gz"


def test_evaluate_reports_names_notes_and_what_was_left_out(tmp_path: Path) -> None:
    from qmedsam.evaluation.loop import evaluate

    class Truth:
        def segment(self, volume, boxes, **settings):
            from types import SimpleNamespace as N

            from qmedsam.evaluation.scores import ellipsoid_mask

            crops = [ellipsoid_mask(box, volume.array_kji.shape)[1] for box in boxes]
            found = [N(mask_kji_crop=volume.array_kji[c] > 0, crop=c, confidence=1.0) for c in crops]
            return N(objects=found, seconds={}, errors=[])

    shifted = VOLUME.ijk_to_ras @ _shifted(3, 0, 0)
    small = TRUTH.copy()
    small[0, 0, :5] = 5
    save(tmp_path / "a.nii.gz", np.roll(TRUTH, 3, axis=2).astype(np.int16) * 50, grid())
    save(tmp_path / "m.nii.gz", small, shifted)
    (tmp_path / "m.json").write_text(
        json.dumps({"labels": {"1": "liver"}, "training": [{"image": "a.nii.gz", "label": "m.nii.gz"}]})
    )
    summary = evaluate(read_manifest(tmp_path / "m.json"), Truth(), tmp_path / "out")
    assert summary["volume"]["mean"]["dsc"] == 1  # at its place by the header, not by its numbers
    assert summary["left_out"] == {"smaller than 100 voxels": 1} and "beside" in summary["notes"][0]["note"]
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "1 smaller than 100 voxels" in page and "beside its image" in page
    assert ",liver," in (tmp_path / "out" / "scores.csv").read_text()


def test_a_modality_that_is_named_is_that_of_cases_that_tell_none(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,mask\na.nii.gz,l.nii.gz\n")
    (plain,) = read_manifest(tmp_path / "m.csv")
    told = replace(plain, case_id="b", modality="MR")
    assert [(c.case_id, c.modality) for c in of_modalities([plain, told], ["ct"])] == [("a", "CT")]
    assert [(c.case_id, c.modality) for c in of_modalities([plain, told], ["MR"])] == [("a", "MR"), ("b", "MR")]
    assert [c.case_id for c in of_modalities([plain, told], ["CT", "MR"])] == ["b"]
    with pytest.raises(QMedSAMError, match="magic"):
        of_modalities([plain], ["magic"])


def test_two_masks_of_one_image_ask_for_names(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image,mask\nct.nii.gz,liver.nii.gz\nct.nii.gz,spleen.nii.gz\n")
    with pytest.raises(QMedSAMError, match="are two masks of one image") as asked:
        read_manifest(tmp_path / "m.csv")
    assert "case_id" in asked.value.hint
    (tmp_path / "m.csv").write_text("case_id,image,mask\na,ct.nii.gz,liver.nii.gz\nb,ct.nii.gz,spleen.nii.gz\n")
    assert [case.case_id for case in read_manifest(tmp_path / "m.csv")] == ["a", "b"]
