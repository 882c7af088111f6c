"""Work side by side: the same voxels whatever the number of streams; whoever stops or fails ends all of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.network.fake import FakeNetwork
from qmedsam.network.openvino_network import PATIENCE, Requests
from qmedsam.strategies.side_by_side import side_by_side
from shapes import ball, tight

SHAPE = (16, 44, 48)


def scene() -> tuple[Volume, list[Box]]:
    truths = [ball(SHAPE, c, r) for c, r in (((14, 14, 7), (9, 8, 6)), ((33, 30, 8), (8, 8, 6)), ((33, 12, 8), (6, 7, 5)))]
    array = sum(60 * truth for truth in truths) + np.random.default_rng(0).normal(20, 6, SHAPE)
    boxes = [tight(truth, 1, label=n, name=str(n)) for n, truth in enumerate(truths, 1)]
    # two boxes of one size that overlap: whose voxels they are must not depend on who comes first
    boxes += [Box.from_voxels([20, 20, 4], [30, 30, 10], label=4), Box.from_voxels([24, 22, 4], [34, 32, 10], label=5)]
    return Volume(array.astype(np.int16), np.diag([1.0, 1.0, 1.5, 1.0]), "MR"), boxes


class Slow(FakeNetwork):
    """Takes a while in every call, and counts how many are in it at the same time."""

    def __init__(self, streams: int, fail_at: int = 0) -> None:
        super().__init__(streams=streams)
        self.lock, self.inside, self.most, self.calls, self.fail_at = threading.Lock(), 0, 0, 0, fail_at

    def decode(self, *arguments):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.calls += 1
            failing = self.calls == self.fail_at
        time.sleep(0.001)
        try:
            if failing:
                raise ValueError("the network broke")
            return super().decode(*arguments)
        finally:
            with self.lock:
                self.inside -= 1


@pytest.mark.parametrize("strategy", ["fixed", "propagate", "vote"])
def test_the_number_of_streams_changes_nothing_but_the_time(strategy: str) -> None:
    volume, boxes = scene()
    results, most = [], []
    for streams in (1, 2, 4):
        network = Slow(streams)
        done: list[int] = []
        run = Segmenter(network=network).segment
        results.append(run(volume, boxes, strategy=strategy, progress=lambda n, total, seen=done: seen.append(n)))
        most.append(network.most)
        assert done and done == sorted(done)
    first, *others = results
    assert most[0] == 1 and 1 < most[1] <= 2 and 1 < most[2] <= 4
    for other in others:
        assert np.array_equal(first.labels_kji, other.labels_kji)
        for one, same in zip(first.objects, other.objects):
            assert (one.voxels, one.confidence, one.slices) == (same.voxels, same.confidence, same.slices)
        assert first.cost["decodes"] == other.cost["decodes"]


def test_cancelling_stops_every_stream_within_a_slice() -> None:
    volume, boxes = scene()
    network = Slow(3)
    asked = []

    def cancelled() -> bool:
        asked.append(network.calls)
        return len(asked) >= 4

    result = Segmenter(network=network).segment(volume, boxes, strategy="fixed", cancelled=cancelled)
    assert result.cancelled and network.calls <= asked[3] + 3
    assert not [t for t in threading.enumerate() if t.name.startswith("qmedsam-stream")]


def test_an_error_of_one_stream_is_the_callers_and_ends_the_others() -> None:
    volume, boxes = scene()
    network = Slow(3, fail_at=5)
    with pytest.raises(ValueError, match="the network broke"):
        Segmenter(network=network).segment(volume, boxes, strategy="fixed")
    assert network.calls <= 8 and not [t for t in threading.enumerate() if t.name.startswith("qmedsam-stream")]


def test_jobs_are_taken_when_a_stream_is_free() -> None:
    made: list[int] = []
    running: list[int] = []

    def job(n: int, tick) -> bool:
        running.append(n)
        time.sleep(0.002)
        running.remove(n)
        return not tick(1)

    def jobs():
        for n in range(9):
            made.append(n)
            assert len(running) < 2  # the stream that asks has nothing to do
            yield partial(job, n)

    counted: list[int] = []
    assert side_by_side(jobs(), 2, lambda n: bool(counted.append(n)))
    assert made == list(range(9)) and len(counted) == 9
    assert not side_by_side((partial(job, n) for n in range(9)), 2, lambda n: True)
    assert side_by_side([], 2, lambda n: False) and side_by_side([], 1, lambda n: False)


class Tensor:
    def __init__(self) -> None:
        self.data = np.zeros(1)


class Compiled:
    """Stands for OpenVINO's: its one request adds 1, and notices when it is asked twice at the same time."""

    def __init__(self) -> None:
        self.inside = 0

    def create_infer_request(self) -> Compiled:
        self.input_tensors, self.output_tensors = [Tensor()], [Tensor()]
        return self

    def infer(self, share_outputs: bool) -> None:
        self.inside += 1
        assert self.inside == 1
        time.sleep(0.001)
        self.output_tensors[0].data[:] = self.input_tensors[0].data + 1
        self.inside -= 1


def _asked(requests: Requests, callers: int, times: int) -> None:
    def ask(caller: int) -> None:
        for n in range(times):
            assert requests([np.array([100.0 * caller + n])])[0] == 100 * caller + n + 1
            time.sleep(0.0005)  # what a caller does with the answer

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, range(callers)))


def test_a_network_is_copied_when_callers_keep_waiting_for_it_and_no_sooner() -> None:
    made: list[Compiled] = []

    def one_more() -> Compiled:
        made.append(Compiled())
        return made[-1]

    requests = Requests(Compiled(), one_more, 2)
    _asked(requests, 1, 50)
    _asked(requests, 2, PATIENCE // 2)
    assert (requests.copies, made) == (1, []), "one queue, or few that wait"
    _asked(requests, 4, 40)
    assert requests.copies == 2 and len(made) == 1, "and no more than there are streams"
    alone = Requests(Compiled(), one_more, 1)
    _asked(alone, 3, 20)
    assert alone.copies == 1 and len(made) == 1


def test_no_memory_for_a_copy_costs_time_alone() -> None:
    tried: list[int] = []

    def one_more() -> Compiled:
        tried.append(1)
        raise QMedSAMError("There is not enough memory.")

    requests = Requests(Compiled(), one_more, 3)
    _asked(requests, 3, 40)
    assert requests.copies == 1 and len(tried) == 1, "it is not tried again"
