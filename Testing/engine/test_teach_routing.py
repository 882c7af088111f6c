"""A model that was taught some structures: asked for these alone, and said to have answered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qmedsam import ModelStore, QMedSAMError, Segmenter
from qmedsam.batch.identity import routed_sha256
from qmedsam.models import shipped_folder
from qmedsam.terminology import code_of, code_of_tags
from shapes import ball, phantom, tight

KIDNEY = "Segmentation category~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes~^^~^^"
TISSUE = "Segmentation category~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes~^^~^^"


def taught(folder: Path, name: str = "mine", **changes: Any) -> Path:
    """The shipped model for volumes as one that was taught something."""
    shutil.copytree(shipped_folder() / "qmedsam-volume", folder / name)
    path = folder / name / "manifest.json"
    manifest = {**json.loads(path.read_text()), "name": name, "title": name, "targets": [{"name": "Left kidney"}], **changes}
    path.write_text(json.dumps(manifest))
    return folder / name


def store(folder: Path) -> ModelStore:
    return ModelStore([folder, shipped_folder()], user=folder)


def test_codes_of_slicers_entries() -> None:
    assert code_of(KIDNEY) == "SCT:64033007/SCT:7771000"
    assert code_of(TISSUE) == "" and code_of("") == "" and code_of("a~b") == ""
    assert code_of_tags(f"Segmentation.Status:inprogress|TerminologyEntry:{KIDNEY}|") == "SCT:64033007/SCT:7771000"
    assert code_of_tags("Segmentation.Status:inprogress|") == ""


def test_it_is_routed_to_by_name_or_code_and_for_nothing_else(tmp_path: Path) -> None:
    taught(tmp_path, targets=[{"name": "Left kidney", "codes": ["SCT:64033007/SCT:7771000"]}], modalities=["CT"])
    s = store(tmp_path)
    assert s.route("CT", name=" left  KIDNEY").name == "mine"
    assert s.route("CT", name="niere", code="SCT:64033007/SCT:7771000").name == "mine"
    for modality, is_3d, name, code in (
        ("CT", True, "kidney", ""),
        ("CT", True, "", ""),
        ("CT", True, "x", "SCT:64033007"),
        ("MR", True, "Left kidney", ""),
        ("CT", False, "Left kidney", ""),
    ):
        assert s.route(modality, is_3d, name, code).name != "mine"
    assert "mine" not in s.routes().values() and s.get("mine").manifest.targets[0]["name"] == "Left kidney"


def test_a_target_without_a_name_is_no_manifest(tmp_path: Path) -> None:
    taught(tmp_path, targets=[{"codes": ["SCT:1"]}])
    assert any("lacks 'name'" in why for _, why in store(tmp_path).broken())


def test_one_run_of_several_models_is_as_good_as_one_of_each(tmp_path: Path) -> None:
    taught(tmp_path)
    large, small = ball((24, 48, 60), (20, 24, 12), (14, 14, 8)), ball((24, 48, 60), (44, 24, 12), (9, 11, 7))
    volume = phantom(large | small)
    boxes = [tight(large, 1.0, name="liver"), tight(small, 1.0, name="left kidney")]
    told: list[tuple[int, int]] = []
    both = Segmenter(store=store(tmp_path), threads=1).segment(volume, boxes, progress=lambda d, t: told.append((d, t)))
    assert both.model == "qmedsam-volume, mine" and [one.label for one in both.objects] == [1, 2]
    assert [m for m in both.messages if "'left kidney': answered by the model 'mine'" in m]
    assert not any("liver" in m for m in both.messages)
    assert told == sorted(told) and told[-1] == (1000, 1000)
    general = Segmenter("qmedsam-volume", store=store(tmp_path), threads=1).segment(volume, boxes)
    assert np.array_equal(both.labels_kji, general.labels_kji), "the same weights under two names"
    assert [one.voxels for one in both.objects] == [one.voxels for one in general.objects]
    assert both.objects[0].mask_kji_crop is None
    named = Segmenter("mine", store=store(tmp_path), threads=1).segment(volume, boxes[:1])
    assert named.model == "mine" and not any("taught" in message for message in named.messages), "it was asked for by name"


def test_a_box_beside_the_image_costs_the_other_model_nothing(tmp_path: Path) -> None:
    taught(tmp_path)
    truth = ball((20, 40, 40), (20, 20, 10), (12, 12, 7))
    boxes = [tight(truth, name="liver"), tight(truth, name="left kidney")]
    away = boxes[1].__class__(boxes[1].center_ijk + 500, boxes[1].half_axes_ijk, name="left kidney")
    found = Segmenter(store=store(tmp_path), threads=1).segment(phantom(truth), [boxes[0], away])
    assert found.objects[0].voxels > 0 and "outside the image" in found.objects[1].error and len(found.errors) == 1
    with pytest.raises(QMedSAMError, match="outside"):
        Segmenter(store=store(tmp_path), threads=1).segment(phantom(truth), [away])


def test_a_run_that_is_stopped_stops_in_all_models(tmp_path: Path) -> None:
    taught(tmp_path)
    truth = ball((20, 40, 40), (20, 20, 10), (12, 12, 7))
    boxes = [tight(truth, name="liver"), tight(truth, name="left kidney")]
    found = Segmenter(store=store(tmp_path), threads=1).segment(phantom(truth), boxes, cancelled=lambda: True)
    assert found.cancelled and "not reached" in found.objects[1].error


def test_a_cohort_is_done_anew_when_a_taught_model_comes(tmp_path: Path) -> None:
    before = routed_sha256(store(tmp_path), None, "CT", True)
    assert routed_sha256(store(tmp_path), "qmedsam-volume", "CT", True) == before
    taught(tmp_path, modalities=["CT"])
    s = store(tmp_path)
    assert routed_sha256(s, None, "CT", True) != before == routed_sha256(s, None, "MR", True)
    assert routed_sha256(s, "qmedsam-volume", "CT", True) == before
