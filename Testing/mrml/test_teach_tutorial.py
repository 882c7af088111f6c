"""The tutorial: correct five kidneys, teach, see the sixth improve. From the scene to the taught model's mask in a segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodes import addRoi, addVolume, grid, segmentArray

pytest.importorskip("brevitas")
pytest.importorskip("openvino")

from qmedsam import ModelStore, Segmenter
from qmedsam.models import shipped_folder
from qmedsam_training.cli import app
from qmedsam_training.evaluation import TorchNetwork
from qmedsam_training.networks import compact_of
from qmedsam_training.teaching import plan as plan_module
from qmedsam_training.teaching import run as run_module
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic
from QMedSAMSegmentLib.segments import EditorWriter, orientedImage
from QMedSAMSegmentLib.teachfolder import TeachFolder, presentCase
from tinybase import tiny_base
from typer.testing import CliRunner

SHAPE = (10, 32, 36)
MATRIX = grid((1.0, 1.0, 2.0))
KIDNEY = "c~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes~^^~^^"


def kidney(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    k, j, i = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ci, cj = rng.uniform(16, 20), rng.uniform(14, 18)
    truth = ((i - ci) / 10) ** 2 + ((j - cj) / 8) ** 2 + ((k - 5) / 4) ** 2 <= 1
    return (rng.normal(0, 25, SHAPE) + 200 * truth).astype(np.int16), truth


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.slow
def test_five_kidneys_teach_and_the_sixth_improves(scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MOST_FRAMES", 24)
    monkeypatch.setattr(plan_module, "SCENES", 16)
    monkeypatch.setattr(run_module, "SCENES", 16)
    folder = TeachFolder(tmp_path / "cases")
    for n in range(5):  # as corrected: a segment of a volume in the scene
        array, truth = kidney(n)
        volumeNode = addVolume(scene, array, MATRIX, f"Mueller {n}")
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "corrected")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentId = node.GetSegmentation().AddEmptySegment("a", "Left kidney")
        node.GetSegmentation().GetSegment(segmentId).SetTag("TerminologyEntry", KIDNEY)
        writer = EditorWriter(scene)
        writer.aim(node, volumeNode)
        whole = tuple(slice(0, count) for count in SHAPE)
        writer.modify(node, segmentId, orientedImage(truth, whole, MATRIX), False)
        folder.add(*presentCase(volumeNode, node, [segmentId]))
    base, output = tiny_base(tmp_path / "tiny.pt"), tmp_path / "models" / "my-kidney"
    command = ["teach", folder.list, "-o", output, "--from", base, "--steps", 40, "--rate", 3e-3, "--threads", 1]
    said = CliRunner().invoke(app, list(map(str, command)), env={"COLUMNS": "200"})
    assert said.exit_code == 1 and "5 patients cannot show that it is better" in said.output and not output.exists()
    # The panel shows the table and asks; the user wants it.
    said = CliRunner().invoke(app, [*map(str, command), "--write-anyway"], env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    assert "5 objects in 5 cases (SCT:64033007/SCT:7771000)" in said.output
    assert said.output.index("NSD before") < said.output.index("Wrote"), "the table comes before the model"
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["targets"] == [{"name": "Left kidney", "codes": ["SCT:64033007/SCT:7771000"]}]
    assert manifest["precision"] == "int8" and manifest["dimension"] == 3 and manifest["scores"]["taught"]["cases"] == 5
    card = (output / "MODEL_CARD.md").read_text()
    assert "Mueller" not in card + json.dumps(manifest) and "| 5 | Left kidney |" in card and "NSD before" in card
    assert not list(output.parent.glob("*-teaching/*.frames"))

    store = ModelStore([tmp_path / "user", shipped_folder()], user=tmp_path / "user")
    store.add(output)
    array, truth = kidney(9)
    k, j, i = (np.flatnonzero(truth.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    low, high = np.array([i[0], j[0], k[0]]) - 0.5, np.array([i[-1], j[-1], k[-1]]) + 0.5
    center = (MATRIX @ np.append((low + high) / 2, 1))[:3]
    sixth = addVolume(scene, array, MATRIX, "sixth")

    def segmented(segmenter: Segmenter, name: str) -> tuple[Any, float]:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "sixth")
        node.SetReferenceImageGeometryParameterFromVolumeNode(sixth)
        segmentId = node.GetSegmentation().AddEmptySegment("", name)
        roiNode = addRoi(scene, center, MATRIX[:3, :3] @ np.diag((high - low) / 2), "R_1")
        _, result = QMedSAMSegmentLogic(lambda model: segmenter).segment(sixth, [roiNode], node, [segmentId])
        return result, dsc(segmentArray(node, segmentId, sixth), truth)

    before = segmented(Segmenter(network=TorchNetwork(compact_of(base)[0], 64)), "Left kidney")[1]
    result, after = segmented(Segmenter(store=store, threads=1), "left kidney")  # by the segment's name, not the ROI's
    assert result.model == "my-kidney" and any("was taught this" in message for message in result.messages)
    assert after > before + 0.02, (before, after)
    assert segmented(Segmenter(store=store, threads=1), "Spleen")[0].model == "qmedsam-volume"
