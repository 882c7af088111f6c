"""Long work beside the window: delivered once, cancelled within a slice, never after its receiver has gone."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import slicer
from nodes import HandTimer, addRoi, addSegmentation, addVolume, brightSegmenter, grid, labelmaps
from QMedSAMSegmentLib.agreement import AgreementOverlay
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.preview import Preview
from QMedSAMSegmentLib.runs import Prompt, Run
from QMedSAMSegmentLib.session import Session
from QMedSAMSegmentLib.settings import Settings
from QMedSAMSegmentLib.worker import Job, onThread


class Receiver:
    def __init__(self) -> None:
        self.results, self.errors, self.steps = [], [], []

    def job(self, work, **changes) -> Job:
        return Job(work, self.results.append, self.errors.append, self.report, timer=HandTimer, **changes)

    def report(self, done: int, total: int, left) -> None:
        self.steps.append((done, total, left))


#: Seconds that a thread may take on a machine that does much else; over as soon as it is done.
PATIENCE = 120


def _until(found: list) -> None:
    """Fire the timer until something has come."""
    end = time.monotonic() + PATIENCE
    while not found and time.monotonic() < end:
        HandTimer.last.callback()


def test_without_a_thread_the_result_comes_once_with_the_timer() -> None:
    receiver = Receiver()

    def work(progress, cancelled):
        progress(1, 4)
        progress(4, 4)
        return "mask"

    receiver.job(work, launch=lambda f: f()).start()
    assert receiver.results == []
    for _ in range(3):
        HandTimer.last.callback()
    assert receiver.results == ["mask"] and receiver.errors == [] and not HandTimer.last.running
    assert [step[:2] for step in receiver.steps] == [(4, 4)]


def test_an_error_on_the_thread_reaches_the_receiver() -> None:
    receiver = Receiver()

    def work(progress, cancelled):
        raise ValueError("broken")

    receiver.job(work).start()
    _until(receiver.errors)
    assert [str(error) for error in receiver.errors] == ["broken"] and receiver.results == []


def test_an_abandoned_job_never_calls_back() -> None:
    receiver, ended = Receiver(), threading.Event()

    def work(progress, cancelled):
        progress(1, 2)
        while not cancelled():
            time.sleep(0.001)
        ended.set()

    job = receiver.job(work)
    job.start()
    job.abandon()
    assert ended.wait(PATIENCE) and not HandTimer.last.running
    HandTimer.last.callback()
    assert receiver.results == receiver.errors == receiver.steps == []


class Voxels:
    """Something large that a job works on or finds."""


@pytest.mark.parametrize("end", ["done", "failed", "abandoned before", "abandoned after"])
def test_what_is_over_keeps_no_voxels(end: str) -> None:
    """PythonQt holds the callback, and so the job, until its timer is deleted; the hand's timer holds it here."""
    volume, labels, pending = Voxels(), Voxels(), []
    known = [weakref.ref(volume), weakref.ref(labels)]

    def work(progress, cancelled, volume=volume, labels=labels):
        if end == "failed":
            raise ValueError(volume)
        return labels

    job = Job(work, lambda _, held=volume: None, lambda _, held=volume: None, launch=pending.append, timer=HandTimer)
    job.start()
    if end == "abandoned before":
        job.abandon()
    pending.pop()()
    if end == "abandoned after":
        job.abandon()
    HandTimer.last.callback()
    del work, volume, labels
    gc.collect()
    assert not HandTimer.last.running and [ref() for ref in known] == [None, None]


def _run(scene, slices: int = 200) -> Run:
    array = np.zeros((slices, 32, 32), np.int16)
    array[:, 8:20, 8:20] = 100
    volume = addVolume(scene, array, grid((1, 1, 1), (0, 0, 10)))
    roi = addRoi(scene, (grid((1, 1, 1), (0, 0, 10)) @ [14, 14, slices / 2, 1])[:3], np.diag([9.0, 9.0, slices / 2]))
    return Run(volume, addSegmentation(scene, volume, ["a"]), [Prompt(roi, "a")], Settings(strategy="fixed"))


def test_cancel_acts_within_one_slice_on_a_real_thread(scene) -> None:
    run, receiver = _run(scene), Receiver()
    at_third, go_on = threading.Event(), threading.Event()
    steps = []

    def work(progress, cancelled):
        def report(done, total):
            steps.append(done)
            progress(done, total)
            if done == 3:
                at_third.set()
                assert go_on.wait(PATIENCE)

        return run.compute(brightSegmenter(), report, cancelled)

    job = receiver.job(work)
    job.start()
    assert at_third.wait(PATIENCE)
    HandTimer.last.callback()
    job.cancel()
    go_on.set()
    _until(receiver.results)
    (result,) = receiver.results
    assert steps == [1, 2, 3] and result.cancelled and result.objects[0].slices == 3
    done, total, left = receiver.steps[0]
    assert (done, total) == (3, run.slices) and left > 0


def test_the_nodes_of_a_scene_closed_during_a_run_die_on_the_main_thread(scene) -> None:
    started, go_on, ended, died = threading.Event(), threading.Event(), threading.Event(), []

    class Slow:
        def segment(self, volume, boxes, **options):
            started.set()
            assert go_on.wait(20)
            return brightSegmenter().segment(volume, boxes, **options)

    def launch(function) -> None:
        onThread(lambda: (function(), ended.set()))

    session, run, late = Session(lambda *work: Job(*work, launch=launch, timer=HandTimer)), _run(scene, 5), []
    for node in (run.volumeNode, run.segmentationNode):
        node.AddObserver("DeleteEvent", lambda *_, name=node.GetName(): died.append((name, threading.current_thread().name)))
    session.start(run, Slow(), lambda *found: late.append(found), late.append, lambda *_: None)
    assert started.wait(20)
    del run, node
    scene.Clear(False)
    session.close()
    gc.collect()
    go_on.set()
    assert ended.wait(20)
    gc.collect()
    assert set(died) == {("CT", "MainThread"), ("Segmentation", "MainThread")} and late == []


def test_a_preview_changes_nothing_and_leaves_nothing(scene) -> None:
    run = _run(scene, 20)
    run.segmentationNode.GetSegmentation().GetSegment("a").SetColor(0.2, 0.4, 0.6)
    nodes = scene.GetNumberOfNodes()
    run.compute(brightSegmenter())
    before, preview = labelmaps(run.segmentationNode), Preview()
    node = preview.show(run)
    shown = node.GetSegmentation().GetSegment("a")
    assert shown.GetColor() == pytest.approx((0.2, 0.4, 0.6))
    assert node.GetSaveWithScene() == 0 and preview.shown
    assert labelmaps(run.segmentationNode) == before
    preview.show(run)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    preview.clear()
    assert scene.GetNumberOfNodes() == nodes and not preview.shown
    preview.show(run)
    scene.Clear(False)
    assert not preview.shown
    preview.clear()


def test_the_agreement_lies_over_the_slices_until_it_is_cleared(scene) -> None:
    run = _run(scene, 20)
    run.compute(brightSegmenter())
    overlay = AgreementOverlay()
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetForegroundVolumeID(run.volumeNode.GetID())
    composite.SetForegroundOpacity(0.2)
    nodes = scene.GetNumberOfNodes()
    overlay.show(run)
    assert overlay.node is None and composite.GetForegroundOpacity() == 0.2  # this run has none
    votes = np.zeros((20, 32, 32), np.uint8)
    votes[5:15, 8:20, 8:20] = 67
    run.result.agreement_kji = votes
    overlay.show(run)
    assert np.array_equal(slicer.util.arrayFromVolume(overlay.node), votes)
    assert np.allclose(ijkToWorld(overlay.node), ijkToWorld(run.volumeNode)) and overlay.node.GetSaveWithScene() == 0
    assert composite.GetForegroundVolumeID() == overlay.node.GetID() and composite.GetForegroundOpacity() == 0.5
    overlay.clear()
    assert composite.GetForegroundVolumeID() == run.volumeNode.GetID() and composite.GetForegroundOpacity() == 0.2
    assert scene.GetNumberOfNodes() == nodes
