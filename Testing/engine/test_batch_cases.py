"""Which files become cases, which boxes they get, and what is refused before anything runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from qmedsam import QMedSAMError
from qmedsam.batch import collect
from qmedsam.batch.one import prompts_of
from qmedsam.files import name_of, read_boxes, read_segments, read_volume, write_boxes, write_segmentation
from qmedsam.geometry import Volume

sitk = pytest.importorskip("SimpleITK")
slicerio = pytest.importorskip("slicerio")

from cohort import phantom, write_case, write_volume  # noqa: E402


def _named(cases) -> dict:
    return {case.name: case for case in cases}


def test_a_folder_pairs_volumes_with_their_boxes(tmp_path: Path) -> None:
    folder, made = tmp_path / "in", phantom(0)
    write_case(folder, "ct")
    write_case(folder, "ct-2", boxes="-boxes.json")  # not ct's, although its name begins with "ct"
    write_volume(folder / "mr" / "t1.nrrd", made.volume)
    for name in ("t1-liver", "t1_ROI"):
        write_boxes(folder / "mr" / f"{name}.mrk.json", made.boxes, made.volume)
    (folder / "ct.json").write_text('{"Modality": "CT", "Manufacturer": "X"}')  # what dcm2niix leaves
    (folder / ".hidden.nii.gz").write_bytes(b"x")
    write_volume(folder / "old.mha", made.volume)
    write_volume(folder / "old_label.mha", Volume(made.labels_kji, made.volume.ijk_to_ras))
    write_segmentation(folder / "nobody.seg.nrrd", made.labels_kji, made.volume, [(1, "a", None)])
    (folder / "case.npz").write_bytes(b"")
    cases = _named(collect([folder], tmp_path / "out"))
    assert sorted(cases) == ["case", "ct", "ct-2", "mr/t1", "old"]
    assert [p.name for p in cases["ct"].boxes] == ["ct.mrk.json"] and [p.name for p in cases["ct-2"].boxes] == ["ct-2-boxes.json"]
    assert [p.name for p in cases["mr/t1"].boxes] == ["t1-liver.mrk.json", "t1_ROI.mrk.json"]
    assert cases["old"].segmentation == folder / "old_label.mha" and not cases["old"].boxes
    assert cases["case"].boxes == (folder / "case.npz",)
    assert cases["mr/t1"].output == tmp_path / "out" / "mr" / "t1.seg.nrrd"
    assert not any(case.problem for case in cases.values())


def test_a_second_label_map_is_no_volume(tmp_path: Path) -> None:
    made = phantom(0)
    write_volume(tmp_path / "ct.nii.gz", made.volume)
    for name in ("ct_seg", "ct_seg_2"):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(made.labels_kji, made.volume.ijk_to_ras))
    (case,) = collect([tmp_path], tmp_path / "out")
    assert case.name == "ct" and "several segmentations (ct_seg.nii.gz, ct_seg_2.nii.gz)" in case.problem


def test_the_cost_of_a_folder_grows_with_its_files_not_with_their_square(tmp_path: Path, monkeypatch) -> None:
    """Thousands of pictures in one folder are usual; asking the disk about every pair of them takes minutes."""
    asked: list = []
    monkeypatch.setattr("qmedsam.files.neighbours.name_of", lambda path: asked.append(path) or name_of(path))
    for n in range(30):
        (tmp_path / f"ISIC_{n}.jpg").write_bytes(b"x")
        (tmp_path / f"ISIC_{n}.json").write_text("[[1, 2, 3, 4]]")
        (tmp_path / f"ISIC_{n}_mask.png").write_bytes(b"x")
    cases = collect([tmp_path], tmp_path / "out")
    assert [case.boxes[0].stem for case in cases] == [case.name for case in cases] and len(cases) == 30
    assert len(asked) <= 4 * 30  # an image twice at most


def test_rois_saved_one_by_one_keep_their_own_names(tmp_path: Path) -> None:
    """Slicer 5.12 writes one ROI per file and no name into it."""
    made = phantom(0)
    write_volume(tmp_path / "ct.nii.gz", made.volume)
    for name in ("ct-liver", "ct-left kidney", "ct"):
        write_boxes(tmp_path / f"{name}.mrk.json", made.boxes, made.volume)
        content = json.loads((tmp_path / f"{name}.mrk.json").read_text())
        del content["markups"][0]["name"], content["markups"][0]["labelValue"]
        (tmp_path / f"{name}.mrk.json").write_text(json.dumps(content))
    (case,) = collect([tmp_path], tmp_path / "out")
    boxes = prompts_of(case, read_volume(case.volume))
    assert [(box.label, box.name) for box in boxes] == [(1, "left kidney"), (2, "liver"), (3, "ct")]


def test_globs_and_single_volumes(tmp_path: Path) -> None:
    for n in (1, 2):
        write_case(tmp_path / "in" / f"p{n}", "ct", n)
        write_case(tmp_path / "in" / f"p{n}", "mr", n)
    found = _named(collect([tmp_path / "in" / "*" / "ct*"], tmp_path / "out"))
    assert sorted(found) == ["p1/ct", "p2/ct"] and found["p1/ct"].boxes  # the boxes are found too, and are no volumes
    assert sorted(_named(collect([tmp_path / "in" / "p*"], tmp_path / "out"))) == ["p1/ct", "p1/mr", "p2/ct", "p2/mr"]
    both = collect([tmp_path / "in" / f"p{n}" / "ct.nii.gz" for n in (1, 2)], tmp_path / "out")
    assert [case.name for case in both] == ["p1/ct", "p2/ct"]
    for bad in ("nothing", "*.mha", "p1/ct.mrk.json"):
        with pytest.raises(QMedSAMError):
            collect([tmp_path / "in" / bad], tmp_path / "out")


def test_a_folder_of_dicom_files_is_one_volume(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "series"
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(4):
        image = sitk.GetImageFromArray(np.full((20, 20), 10 * k, np.int16))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|0032": f"0\\0\\{2 * k}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for key, value in {**tags, "0020|0013": str(k), "0008|0018": f"1.2.3.{k}"}.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(image)
    (folder / "roi.json").write_text("[[2, 2, 0, 9, 9, 3]]")
    for source in (folder, tmp_path / "in"):
        (case,) = collect([source], tmp_path / "out")
        assert (case.volume, case.boxes, case.output.name) == (folder, (folder / "roi.json",), "series.seg.nrrd")
    (tmp_path / "in" / "series.json").write_text("[[3, 3, 0, 9, 9, 3]]")
    (case,) = collect([folder], tmp_path / "out")
    assert case.boxes == (tmp_path / "in" / "series.json",)


def test_the_directory_of_a_cd_is_no_volume(tmp_path: Path) -> None:
    dicom = bytes(128) + b"DICM" + bytes(64)
    (tmp_path / "cd" / "IMAGES").mkdir(parents=True)
    (tmp_path / "cd" / "DICOMDIR").write_bytes(dicom)
    (tmp_path / "cd" / "IMAGES" / "I0001").write_bytes(dicom)
    assert [case.volume for case in collect([tmp_path / "cd"], tmp_path / "out")] == [tmp_path / "cd" / "IMAGES"]
    with pytest.raises(QMedSAMError, match="for DICOM the folder"):
        collect([tmp_path / "cd" / "IMAGES" / "I0001"], tmp_path / "out")


def test_lists(tmp_path: Path) -> None:
    write_case(tmp_path / "scans", "a")
    table = tmp_path / "cases.csv"
    rows = ["Volume;boxes;modality;window;output;ward", "scans/a.nii.gz;scans/a.mrk.json;CT;400,40;x/one.nii.gz;7", ";;;;;9"]
    rows += ["scans/b.nii.gz;b.json;magic;;;", "scans/c.nii.gz;;;;;", "../d.nii.gz;d.json;;wide;;"]
    table.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")  # as a spreadsheet saves it
    cases = collect([table], tmp_path / "out")
    first = cases[0]
    assert (first.volume, first.boxes) == (tmp_path / "scans" / "a.nii.gz", (tmp_path / "scans" / "a.mrk.json",))
    assert (first.modality, first.window, first.name) == ("CT", (400, 40), "x/one")
    assert first.output == tmp_path / "out" / "x" / "one.nii.gz" and not first.problem
    words = ["no volume", "magic", "no boxes", "wide"]
    assert len(cases) == 5 and all(word in case.problem for word, case in zip(words, cases[1:]))

    lines = tmp_path / "cases.jsonl"
    objects = [{"volume": "scans/a.nii.gz", "boxes": ["scans/a.mrk.json", "b.json"], "window": [80, 40], "name": "../up"}, [1]]
    objects += [{"volume": 5}, {"image": "e.nii", "mask": "e-m.nii"}, {"volume": "f.npz", "output": "f.docx"}]
    lines.write_text("\n".join([*map(json.dumps, objects), "{", ""]))
    cases = collect([lines], tmp_path / "out")
    assert cases[0].window == (80, 40) and len(cases[0].boxes) == 2
    assert cases[0].output == tmp_path / "out" / "up.seg.nrrd", "a name never leads out of the folder"
    assert cases[3].segmentation == tmp_path / "e-m.nii" and not cases[3].problem
    for n, word in ((1, "object"), (2, "not a text"), (4, "docx"), (5, "object")):
        assert word in cases[n].problem
    table.write_text('volume,boxes\n"a\nb.nii","c;d.json"\n')  # a line break in a name
    (case,) = collect([table], tmp_path / "out")
    assert case.volume.name == "a\nb.nii"
    huge = "volume,boxes\n" + "x" * 200_000
    for text, word in (("", "empty"), ("boxes\n1", "no column"), ("volume,boxes\n", "lists no case"), (huge, "not a CSV")):
        table.write_text(text)
        with pytest.raises(QMedSAMError, match=word):
            collect([table], tmp_path / "out")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_folders_with_dots_in_a_list_keep_their_names_wherever_it_is_read(tmp_path: Path, monkeypatch, elsewhere: bool) -> None:
    """Series are often exported into folders that are called by their UIDs."""
    for name in ("1.2.3.10", "1.2.3.11"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    (tmp_path / "l.csv").write_text("volume,boxes\nscans/1.2.3.10,a.json\nscans/1.2.3.11,b.json\n")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd" if elsewhere else tmp_path)
    assert [case.name for case in collect([tmp_path / "l.csv"], tmp_path / "out")] == ["scans/1.2.3.10", "scans/1.2.3.11"]


def test_the_manifest_of_evaluate_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "case_id,modality,dim,source,split,path_image,path_mask\nx,CT,3D,s,v,a.nii.gz,m.nii.gz\n"
    )
    (case,) = collect([tmp_path / "manifest.csv"], tmp_path / "out")
    assert (case.name, case.modality, case.segmentation) == ("x", "CT", tmp_path / "m.nii.gz")


def test_what_is_refused_before_anything_runs(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "ct")
    write_case(tmp_path / "in", "ct", suffix=".nrrd")
    with pytest.raises(QMedSAMError, match=r"ct\.nii\.gz' and '.*ct\.nrrd' would both be written to '.*ct\.seg\.nrrd'"):
        collect([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "ct.nrrd").unlink()
    for folder in (tmp_path / "in", tmp_path / "in" / ".." / "in"):
        with pytest.raises(QMedSAMError, match="folder of the volumes"):
            collect([tmp_path / "in"], folder)
    row = {"volume": "in/ct.nii.gz", "boxes": "in/ct.mrk.json", "output": str(tmp_path / "in" / "ct.nii.gz")}
    (tmp_path / "l.jsonl").write_text(json.dumps(row))
    with pytest.raises(QMedSAMError, match="would be written over"):
        collect([tmp_path / "l.jsonl"], tmp_path / "out")
    two = "volume,segmentation\nin/ct.nii.gz,liver.nii.gz\nin/ct.nii.gz,spleen.nii.gz\n"
    (tmp_path / "two.csv").write_text(two)
    with pytest.raises(QMedSAMError, match="is there twice") as twice:
        collect([tmp_path / "two.csv"], tmp_path / "out")
    assert "masks in one file" in twice.value.hint
    with pytest.raises(QMedSAMError, match="no format"):
        collect([tmp_path / "in"], tmp_path / "out", "docx")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "ct")
    write_case(tmp_path / "archive", "mr")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "archive", target_is_directory=True)
    (tmp_path / "archive" / "back").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "results").symlink_to(tmp_path / "out", target_is_directory=True)
    write_case(tmp_path / "out", "pet")
    assert [case.name for case in collect([tmp_path / "in"], tmp_path / "out")] == ["ct", "linked/mr"]


def test_results_inside_the_input_are_no_cases(tmp_path: Path) -> None:
    write_case(tmp_path, "ct")
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    shutil.move(str(tmp_path.parent / "copy"), tmp_path / "old")
    (tmp_path / "old" / "batch.jsonl").write_text("")
    write_case(tmp_path / "out", "ct")
    assert [case.name for case in collect([tmp_path], tmp_path / "out")] == ["ct"]


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".mha"])
def test_segments_give_boxes_of_their_voxels(tmp_path: Path, suffix: str) -> None:
    made = phantom(1)
    labels = np.zeros(made.labels_kji.shape, np.uint8)
    labels[2:5, 10:21, 8:31], labels[7, 3, 4] = 5, 9
    segments = [(5, "Läber", (0.25, 0.5, 0.75)), (7, "empty", None), (9, "one voxel", None)]
    write_segmentation(tmp_path / f"s{suffix}", labels, made.volume, segments)
    boxes = read_segments(tmp_path / f"s{suffix}", made.volume)
    assert [box.label for box in boxes] == [5, 9]
    tolerance = 1e-4 if suffix == ".nii.gz" else 1e-9  # NIfTI keeps a quaternion of 32 bit; on the same grid it is exact
    assert np.allclose(boxes[0].corners_ijk.min(axis=0), [7.5, 9.5, 1.5], atol=tolerance)
    assert np.allclose(boxes[0].corners_ijk.max(axis=0), [30.5, 20.5, 4.5], atol=tolerance)
    if suffix == ".seg.nrrd":
        assert boxes[0].name == "Läber" and np.allclose(boxes[0].color, (0.25, 0.5, 0.75))
    wider = read_segments(tmp_path / f"s{suffix}", made.volume, margin=0.1)
    assert np.allclose(np.ptp(wider[0].corners_ijk, axis=0), np.array([23, 11, 3]) * 1.2, atol=1e-3)


def test_segments_on_slicers_cropped_grids_and_layers(tmp_path: Path) -> None:
    """Slicer crops a segmentation to what is in it, and puts overlapping segments into layers, each with the label 1."""
    made = phantom(2)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ made.volume.ijk_to_ras
    corner = np.eye(4)
    corner[:3, 3] = (6, 4, 3)
    voxels = np.zeros((2, 20, 18, 6), np.uint8)
    voxels[0, 2:11, 3:9, 1:4] = 1
    voxels[1, 5:15, 5:9, 2:6] = 1
    segments = [{"id": f"S{n}", "name": f"s{n}", "labelValue": 1, "layer": n, "color": [1, 0, 0]} for n in (0, 1)]
    content = {"voxels": voxels, "ijkToLPS": to_lps @ corner, "segments": segments}
    slicerio.write_segmentation(str(tmp_path / "s.seg.nrrd"), content)
    boxes = read_segments(tmp_path / "s.seg.nrrd", made.volume)
    assert [(box.label, box.name) for box in boxes] == [(1, "s0"), (2, "s1")]
    assert np.allclose(boxes[0].corners_ijk.min(axis=0), [7.5, 6.5, 3.5])
    assert np.allclose(boxes[1].corners_ijk.max(axis=0), [20.5, 12.5, 8.5])


def test_segments_on_another_grid_become_oriented_boxes(tmp_path: Path) -> None:
    made, other = phantom(1), phantom(4)
    write_segmentation(tmp_path / "s.seg.nrrd", other.labels_kji, other.volume, [(1, "a", None)])
    (box,) = read_segments(tmp_path / "s.seg.nrrd", made.volume)
    to_ras = [made.volume.ijk_to_ras, other.volume.ijk_to_ras]
    (own,) = read_segments(tmp_path / "s.seg.nrrd", other.volume)
    corners = [(m @ np.append(b.corners_ijk, np.ones((8, 1)), axis=1).T)[:3] for m, b in zip(to_ras, (box, own))]
    assert np.allclose(corners[0], corners[1], atol=1e-6) and np.abs(box.half_axes_ijk[0, 1]) > 0.01


def test_bad_segmentations(tmp_path: Path) -> None:
    made = phantom(0)
    write_segmentation(tmp_path / "empty.seg.nrrd", np.zeros_like(made.labels_kji), made.volume, [(1, "a", None)])
    good = tmp_path / "good.seg.nrrd"
    write_segmentation(good, made.labels_kji, made.volume, [(1, "a", None)])
    (tmp_path / "cut.seg.nrrd").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "layer.seg.nrrd").write_bytes(good.read_bytes().replace(b"Segment0_Layer:=0", b"Segment0_Layer:=3"))
    for name, word in (("empty", "no segment"), ("cut", "could not be read"), ("layer", "layer"), ("nobody", "no file")):
        with pytest.raises(QMedSAMError, match=word):
            read_segments(tmp_path / f"{name}.seg.nrrd", made.volume)


def test_boxes_of_one_file_are_as_in_the_file(tmp_path: Path) -> None:
    write_case(tmp_path, "ct")
    (case,) = collect([tmp_path], tmp_path / "out")
    volume = read_volume(case.volume)
    (ours,), (theirs,) = prompts_of(case, volume), read_boxes(case.boxes[0], volume)
    assert np.array_equal(ours.half_axes_ijk, theirs.half_axes_ijk) and (ours.name, ours.label) == (theirs.name, theirs.label)


def test_a_list_of_boxes_on_pictures(tmp_path: Path) -> None:
    """200 photographs and a table of boxes: a case per photograph, whatever the columns are called."""
    for n in range(3):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((40, 50), 9 * n, np.uint8)), str(tmp_path / f"p{n}.png"))
    rows = ["image,x0,y0,x1,y1,label", "p0.png,1,2,30,31,nevus", "p1.png,3,4,20,21,", "p0.png,5,6,9,10,scar", "p2.png,a,6,9,10,x"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    first, second, bad = collect([tmp_path / "boxes.csv"], tmp_path / "out")
    assert (first.name, first.volume, second.name) == ("p0", tmp_path / "p0.png", "p1")
    boxes = prompts_of(first, read_volume(first.volume))
    assert [(b.label, b.name) for b in boxes] == [(1, "nevus"), (2, "scar")]
    assert boxes[0].corners_ijk.min(axis=0).tolist() == [0.5, 1.5, -0.5] and boxes[0].corners_ijk.max(axis=0)[0] == 30.5
    assert "Line 5" in bad.problem and not first.problem
    for column in ("image", "filename", "file"):
        (tmp_path / "other.csv").write_text(f"{column};xmin;ymin;xmax;ymax\np1.png;3;4;20;21\n")
        assert collect([tmp_path / "other.csv"], tmp_path / "out")[0].drawn == second.drawn
    (tmp_path / "other.csv").write_text("picture;xmin;ymin;xmax;ymax\np1.png;3;4;20;21\n")
    with pytest.raises(QMedSAMError, match=r"no column 'volume'.*image,x0,y0,x1,y1"):
        collect([tmp_path / "other.csv"], tmp_path / "out")
    objects = [
        {"image": "p0.png", "boxes": [[1, 2, 30, 31], {"box": [5, 6, 9, 10], "label": "scar"}]},
        {"image": "p1.png", "boxes": [3, 4, 20, 21]},
        {"image": "p2.png", "boxes": [[1, 2, 3]]},
    ]
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, objects)))
    cases = collect([tmp_path / "boxes.jsonl"], tmp_path / "out")
    assert [box.name for box in prompts_of(cases[0], read_volume(cases[0].volume))] == ["", "scar"]
    assert cases[1].drawn == second.drawn and "four or six numbers" in cases[2].problem
    assert type(first).from_json(json.loads(json.dumps(first.to_json()))) == first


def test_boxes_of_a_list_count_for_what_was_done_before(tmp_path: Path) -> None:
    from qmedsam.batch import Settings
    from qmedsam.batch.identity import key_of

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((40, 50), np.uint8)), str(tmp_path / "p.png"))
    keys = []
    for right in (30, 30, 31):
        (tmp_path / "b.csv").write_text(f"image,x0,y0,x1,y1\np.png,1,2,{right},31\n")
        (case,) = collect([tmp_path / "b.csv"], tmp_path / "out")
        keys.append(key_of(case, Settings())[0])
    assert keys[0] == keys[1] != keys[2]


def test_pictures_get_pictures_and_volumes_get_segmentations() -> None:
    from qmedsam.batch.settings import suffix_of
    from qmedsam.files import FORMATS

    assert suffix_of("auto", Path("a.nii.gz")) == ".seg.nrrd" and suffix_of("nrrd", Path("a.png")) == ".nrrd"
    assert suffix_of("auto", Path("a.JPG")) == FORMATS.get("png", ".seg.nrrd")
