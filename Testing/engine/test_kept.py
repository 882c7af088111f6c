"""What a run keeps for a later pass, and whose turn it is: memory and streams change no voxel."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from qmedsam import Segmenter
from qmedsam.kept import Kept
from qmedsam.measures import diameters
from qmedsam.strategies.side_by_side import side_by_side
from qmedsam.turns import out_of_turn
from shapes import phantom, tight
from test_second_look import TRUTH, Inflating


def embedding(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (1, 4, 6, 6)).astype(np.float32)


def test_whoever_asks_again_gets_a_rounded_embedding_kept_or_not() -> None:
    kept, first = Kept(), embedding(0)
    kept.put("here", first)
    again = kept.get("here", lambda: pytest.fail("it was kept"))
    assert np.abs(again - first).max() <= (first.max() - first.min()) / 255 / 2 * 1.001
    assert again.dtype == np.float32 and again.shape == first.shape
    assert np.array_equal(again, Kept().get("elsewhere", lambda: first))


def test_flat_embeddings_survive() -> None:
    for value in (0.0, -7.5):
        flat = np.full((1, 2, 3, 3), value, np.float32)
        assert np.array_equal(Kept().get(0, lambda one=flat: one), flat)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    kept, asked = Kept(most=3 * embedding(0).size), []
    for n in (0, 0, 1, 2, 3, 4):
        kept.put(n, embedding(n))

    def encoded(n: int) -> np.ndarray:
        asked.append(n)
        return embedding(n)

    for n in range(5):
        kept.get(n, lambda one=n: encoded(one))
    assert asked == [3, 4]
    kept.clear()
    kept.put(4, embedding(4))
    kept.get(4, lambda: pytest.fail("there is room again"))


def test_a_second_look_decodes_what_the_first_view_has_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    costs, masks = [], []
    for most in (2**25, 0):
        monkeypatch.setattr("qmedsam.segmenter.Kept", lambda most=most: Kept(most))
        network = Inflating()
        result = Segmenter(network=network).segment(phantom(TRUTH), [tight(TRUTH, 3.0)], strategy="vote")
        costs.append((result.cost["encodes"], result.cost["decodes"], len(network.tight)))
        masks.append(result.labels_kji)
    (encodes, decodes, looks), (without, *same) = costs
    assert without - encodes == looks > 5 and same == [decodes, looks]
    assert np.array_equal(*masks)


def test_streams_take_turns_and_meet_in_the_network_alone() -> None:
    inside, most, together = [0], [0], threading.Barrier(2)

    def job(tick) -> bool:
        for _ in range(5):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1
            with out_of_turn():
                together.wait(timeout=30)  # both are in the network now, or this breaks
        return not tick(1)

    assert side_by_side([job, job], 2, lambda n: False)
    assert most[0] == 1
    with out_of_turn():  # nobody's turn: a walk on its own
        pass


def test_a_job_that_breaks_gives_its_turn_up() -> None:
    def broken(tick) -> bool:
        with out_of_turn():
            raise ValueError("the network broke")

    with pytest.raises(ValueError, match="the network broke"):
        side_by_side([broken, broken, broken], 2, lambda n: False)
    assert side_by_side([lambda tick: True], 2, lambda n: False)


def test_few_slices_are_looked_at_closely_and_the_longest_is_found() -> None:
    """Upper bounds order the slices; the answer is that of all pairs of outline points on all of them."""
    random = np.random.default_rng(1)
    for _ in range(20):
        labels = np.zeros((6, 24, 30), np.uint8)
        y, x = np.ogrid[:24, :30]
        for plane in labels:
            (a, b), angle = random.uniform(3, 11, 2), random.uniform(0, np.pi)
            u, v = (x - 15) * np.cos(angle) + (y - 12) * np.sin(angle), (y - 12) * np.cos(angle) - (x - 15) * np.sin(angle)
            plane[(u / a) ** 2 + (v / b) ** 2 < 1] = 1
        spacing = np.diag([*random.uniform(0.5, 2, 2), 3.0, 1.0])
        found = diameters(labels, spacing)
        assert found is not None
        lengths = [diameters(plane[None], spacing) for plane in labels]
        assert found.long_mm == pytest.approx(max(one.long_mm for one in lengths if one is not None))
        assert lengths[found.index] is not None and lengths[found.index].long_mm == pytest.approx(found.long_mm)
