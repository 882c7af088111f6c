"""Time points of a series: boxes follow their objects, and every time point has a segmentation of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from qmedsam.batch import Settings, collect, run_batch
from qmedsam.commands.app import app
from qmedsam.errors import QMedSAMError
from qmedsam.files import image_of, read_labels
from qmedsam.following import ALL, follow, frame_path, parse_frame_index
from qmedsam.geometry import Box, Volume
from qmedsam.network.fake import FakeNetwork
from qmedsam.segmenter import Segmenter
from shapes import ball, dsc, tight
from typer.testing import CliRunner

SHAPE = (14, 56, 60)


def truths(count: int = 6, step=(3.0, 2.0, 0.0), growth: float = 0.5) -> list:
    """A ball that wanders and grows."""
    places = [np.array([20, 22, 6]) + n * np.array(step) for n in range(count)]
    return [ball(SHAPE, place, (7 + growth * n, 7 + growth * n, 4)) for n, place in enumerate(places)]


def volume(truth: np.ndarray) -> Volume:
    return Volume((truth * 100).astype(np.int16), np.eye(4), "MR")


@pytest.fixture
def fake() -> Segmenter:
    return Segmenter(network=FakeNetwork())


def test_boxes_follow_their_objects(fake: Segmenter) -> None:
    """Drawn two voxels around the object at the first time point, which is farther away than that at the third."""
    masks = truths()
    box = tight(masks[0], grow=2.0, label=1)
    segment = partial(fake.segment, modality="MR", strategy="fixed")
    found = list(follow(map(volume, masks), lambda _: [box], segment))
    assert dsc(masks[0], masks[5]) < 0.1
    for (_, (prompt,), result), truth in zip(found, masks):
        assert dsc(result.labels_kji == 1, truth) > 0.9
        edges = tight(truth).corners_ijk
        beside = (
            np.abs(prompt.corners_ijk.min(axis=0) - edges.min(axis=0)),
            np.abs(prompt.corners_ijk.max(axis=0) - edges.max(axis=0)),
        )
        assert np.max(beside) < 4  # as loose as it was drawn, within the slack of two looks
    assert found[0][1][0] is box


def test_what_is_lost_is_waited_for(fake: Segmenter) -> None:
    masks = truths(3, step=(0, 0, 0), growth=0)
    masks[1] = np.zeros_like(masks[1])
    masks[1][1:3, 50:54, 50:55] = True  # something else, far off
    box = tight(masks[0], grow=2.0, label=1)
    segment = partial(fake.segment, modality="MR", strategy="fixed")
    results = list(follow(map(volume, masks), lambda _: [box], segment))
    assert [bool(result.labels_kji.any()) for _, _, result in results] == [True, False, True]
    assert np.allclose(results[2][1][0].corners_ijk, box.corners_ijk, atol=0.6)


def test_turned_boxes_of_one_voxel_stay(fake: Segmenter) -> None:
    masks = truths(3, step=(0, 0, 0), growth=0)
    flat = Box(np.array([20.0, 22, 6]), np.diag([9.0, 9.0, 0.0]), 1)
    segment = partial(fake.segment, modality="MR", strategy="fixed")
    for _, (prompt,), _ in follow(map(volume, masks), lambda _: [flat], segment):
        assert np.allclose(prompt.half_axes_ijk, flat.half_axes_ijk)


def test_numbers_of_time_points() -> None:
    assert [parse_frame_index(text) for text in (None, "0", " 12 ", "all", "ALL")] == [None, 0, 12, ALL, ALL]
    for text in ("-1", "1.5", "first", "", "9" * 30):
        with pytest.raises(QMedSAMError, match="no time point"):
            parse_frame_index(text)
    assert frame_path(Path("a/b.seg.nrrd"), 3, ".seg.nrrd") == Path("a/b-t003.seg.nrrd")


def series(path: Path, masks: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.JoinSeries([image_of((m * 100).astype(np.int16), np.eye(4)) for m in masks]), str(path))
    return path


@pytest.mark.slow
def test_segment_writes_every_time_point(tmp_path: Path, monkeypatch) -> None:
    masks = truths(3)
    path = series(tmp_path / "heart.nii.gz", masks)
    monkeypatch.setattr("qmedsam.segmenter.Segmenter._network", lambda self, model: FakeNetwork())
    box = tight(masks[0], grow=2.0)
    low, high = box.corners_ijk.min(axis=0) + 0.5, box.corners_ijk.max(axis=0) - 0.5
    typed = ",".join(f"{v:g}" for v in (*low, *high))
    common = [
        "segment",
        str(path),
        "--box",
        typed,
        "--modality",
        "MR",
        "--strategy",
        "fixed",
        "-o",
        str(tmp_path / "out.seg.nrrd"),
    ]
    runner = CliRunner()
    done = runner.invoke(
        app, [*common, "--frame-index", "all", "--report", str(tmp_path / "r.json"), "--png", str(tmp_path / "p.png")]
    )
    assert done.exit_code == 0, done.output
    for n, truth in enumerate(masks):
        assert dsc(read_labels(tmp_path / f"out-t{n:03d}.seg.nrrd") == 1, truth) > 0.8
        assert (tmp_path / f"p-t{n:03d}.png").stat().st_size > 1000
    points = json.loads((tmp_path / "r.json").read_text())["time_points"]
    assert [point["frame_index"] for point in points] == [0, 1, 2]
    assert points[2]["boxes_ijk"][0][0] > points[0]["boxes_ijk"][0][0] + 3
    assert runner.invoke(app, [*common, "--frame-index", "0"]).exit_code == 0
    assert dsc(read_labels(tmp_path / "out.seg.nrrd") == 1, masks[0]) > 0.8
    refused = runner.invoke(app, common)
    assert isinstance(refused.exception, QMedSAMError) and "3 time points" in str(refused.exception)


def test_batch_does_every_time_point_once(tmp_path: Path, fake: Segmenter) -> None:
    masks = truths(3)
    series(tmp_path / "in" / "heart.nii.gz", masks)
    box = tight(masks[0], grow=2.0)
    numbers = [*(box.corners_ijk.min(axis=0) + 0.5), *(box.corners_ijk.max(axis=0) - 0.5)]
    (tmp_path / "in" / "heart.json").write_text(json.dumps([[float(v) for v in numbers]]))

    def run(frame_index):
        settings = Settings(modality="MR", strategy="fixed", pictures=False, frame_index=frame_index)
        cases = collect([tmp_path / "in"], tmp_path / "out")
        return run_batch(cases, tmp_path / "out", settings, segmenter=fake).outcomes[0]

    outcome = run(ALL)
    assert outcome.state == "done" and "3 time points" in outcome.message, outcome.message
    for n, truth in enumerate(masks):
        assert dsc(read_labels(tmp_path / "out" / f"heart-t{n:03d}.seg.nrrd") == 1, truth) > 0.8
    assert run(ALL).state == "unchanged"
    (tmp_path / "out" / "heart-t002.seg.nrrd").write_bytes(b"other")
    assert run(ALL).state == "done"
    assert run(None).state == "failed"
    assert run(1).state == "done" and (tmp_path / "out" / "heart.seg.nrrd").exists()


def test_lists_name_time_points(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"volume": "a.nii", "boxes": "a.json", "frame_index": 2}\n{"volume": "b.nii", "boxes": "a.json", "frame_index": "all"}\n'
        '{"volume": "c.nii", "boxes": "a.json", "frame_index": "x"}\n'
    )
    cases = collect([tmp_path / "a.jsonl"], tmp_path / "out")
    assert [case.frame_index for case in cases[:2]] == [2, ALL] and "no time point" in cases[2].problem
