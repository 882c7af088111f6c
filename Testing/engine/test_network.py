"""The shipped networks in real OpenVINO."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from qmedsam import ModelStore, QMedSAMError
from qmedsam.models import Model, shipped_folder
from qmedsam.network.compiled import keep_network
from qmedsam.network.openvino_network import PATIENCE, OpenVINONetwork
from qmedsam.network.products import as_convolutions
from qmedsam.network.runtime import import_openvino

SHIPPED = ModelStore([shipped_folder()]).models()


@pytest.fixture(scope="module", params=[m.name for m in SHIPPED])
def network(request) -> OpenVINONetwork:
    return OpenVINONetwork(ModelStore([shipped_folder()]).get(request.param), precision="f32")


def _picture(size: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    disc = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (0.3 * size) ** 2).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 0.2, (3, size, size))
    return (2 * disc - 0.6 + noise).astype(np.float32)


def test_an_embedding_does_not_change_under_the_next_request(network) -> None:
    """OpenVINO hands out the same memory again and again; published caches stored the handle."""
    first = network.encode(_picture(network.input_size, 0))
    kept = first.copy()
    network.encode(_picture(network.input_size, 1) * 3)
    assert (first == kept).all()
    box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * network.input_size
    logits, _ = network.decode(first, box)
    kept = logits.copy()
    network.decode(first, box / 2)
    assert (logits == kept).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", SHIPPED, ids=lambda m: m.name)
def test_the_number_of_threads_changes_nothing(model) -> None:
    """With OpenVINO's own hint (bf16 where there is one) logits moved by up to 0.3. Needs two cores to find it."""
    one, two = OpenVINONetwork(model, threads=1), OpenVINONetwork(model, threads=2)
    picture = _picture(one.input_size, 3)
    embedding = one.encode(picture)
    assert (embedding == two.encode(picture)).all()
    rng = np.random.default_rng(0)
    corners = rng.uniform(0.05, 0.45, (21, 2)), rng.uniform(0.55, 0.95, (21, 2))
    boxes = (np.concatenate(corners, axis=1) * one.input_size).astype(np.float32)
    assert (one.decode(embedding, boxes)[0] == two.decode(embedding, boxes)[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", SHIPPED, ids=lambda m: m.name)
def test_how_it_is_compiled_changes_nothing(model, monkeypatch, tmp_path: Path) -> None:
    """OpenVINO 2026.4.1 got another tool's int8 decoder wrong for one fixed box, but not from its cache or for any number."""
    picture, results = _picture(model.manifest.input_size, 4), []
    box = np.array([[0.2, 0.25, 0.8, 0.7]], np.float32) * model.manifest.input_size
    for cache in ("", str(tmp_path), str(tmp_path)):  # afresh, into the cache, from the cache
        monkeypatch.setenv("QMEDSAM_CACHE", cache)
        network = OpenVINONetwork(model)
        results.append(network.decode(network.encode(picture), box)[0])
    assert list(tmp_path.iterdir())
    core = import_openvino().Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    any_count = core.compile_model(core.read_model(model.decoder), "CPU", options)
    scale = model.manifest.prompt_size / model.manifest.input_size
    fixed, *cached = results
    assert all((fixed == logits).all() for logits in cached)
    # Another kernel may sum in another order, and an activation then rounds to its neighbour here and there.
    free = any_count([network.encode(picture), box * scale, *network.silence(1)])[0].reshape(fixed.shape)
    assert np.sqrt(np.mean((free - fixed) ** 2)) < 0.05 * fixed.std() and ((free > 0) == (fixed > 0)).mean() > 0.99


def _compiled_once(monkeypatch, folder: Path) -> tuple:
    """A model, a picture, its embedding, and what is kept of the compiled encoder."""
    monkeypatch.setenv("QMEDSAM_CACHE", str(folder))
    model = SHIPPED[0]
    picture = _picture(model.manifest.input_size, 5)
    expected = OpenVINONetwork(model).encode(picture)
    (blob,) = folder.rglob("*.blob")
    return model, picture, expected, blob


def test_a_damaged_cache_is_compiled_again(monkeypatch, tmp_path: Path) -> None:
    """OpenVINO loads it all the same, and answers differently."""
    model, picture, expected, blob = _compiled_once(monkeypatch, tmp_path)
    sound = blob.read_bytes()
    blob.unlink()  # it is read-only
    middle = len(sound) // 2
    blob.write_bytes(sound[:middle] + bytes(4096) + sound[middle + 4096 :])
    assert (OpenVINONetwork(model).encode(picture) == expected).all()
    (blob,) = tmp_path.rglob("*.blob")
    whole, written = blob.read_bytes(), blob.stat().st_mtime_ns
    assert bytes(4096) not in whole[middle : middle + 4096]
    OpenVINONetwork(model)
    assert blob.stat().st_mtime_ns == written, "a sound one is used again"


def test_two_threads_get_their_own_answers(network) -> None:
    """A run that was given up overlaps with the next one on the same network."""
    pictures = [_picture(network.input_size, seed) for seed in range(4)]
    box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * network.input_size
    alone = [network.decode(network.encode(picture), box)[0] for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: network.decode(network.encode(picture), box)[0], pictures * 5))
    assert all((found == alone[n % 4]).all() for n, found in enumerate(together))


def test_copies_answer_as_the_first_and_go_with_their_network() -> None:
    network = OpenVINONetwork(SHIPPED[0], threads=2)
    picture, box = _picture(network.input_size, 6), np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * network.input_size

    def answer(asked: OpenVINONetwork) -> np.ndarray:
        return asked.decode(asked.encode(picture), box)[0]

    for _ in range(2 * PATIENCE):
        alone = answer(network)
    assert network._encoder.copies == 1
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            assert all((found == alone).all() for found in pool.map(answer, [network] * 8))
            if network._encoder.copies == network._decoders[1].copies == 2:
                break
        else:
            pytest.fail("no copy was made")
    gone = weakref.ref(network)
    del network
    assert gone() is None, "without waiting for the garbage collector"


@pytest.mark.parametrize("count", [1, 2, 16, 35])
def test_a_block_of_boxes_gives_what_single_boxes_give(network, count) -> None:
    embedding = network.encode(_picture(network.input_size, 0))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0.05, 0.45, (count, 2)), rng.uniform(0.55, 0.95, (count, 2))
    boxes = (np.concatenate(corners, axis=1) * network.input_size).astype(np.float32)
    logits, confidence = network.decode(embedding, boxes)
    assert logits.shape[0] == confidence.shape[0] == count and (confidence >= 0).all() and (confidence <= 1).all()
    for n in {0, count - 1}:
        alone, sure = network.decode(embedding, boxes[n : n + 1])
        assert np.allclose(alone[0], logits[n], atol=1e-3) and sure[0] == pytest.approx(confidence[n], abs=1e-3)


def test_it_finds_a_disc(network) -> None:
    size = network.input_size
    logits, confidence = network.decode(network.encode(_picture(size, 0)), np.array([[0.2, 0.2, 0.8, 0.8]]) * size)
    m = logits.shape[-1]
    y, x = (np.mgrid[:m, :m] + 0.5) * size / m
    disc = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (0.3 * size) ** 2
    best = confidence[0].argmax()  # of the candidates
    found = logits[0, best] > 0
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.9 and confidence[0, best] > 0.6


def test_shipped_models_keep_within_their_size() -> None:
    for model in SHIPPED:
        assert model.bytes < 5 * 2**20, f"{model.name}: {model.bytes / 2**20:.2f} MiB"


def test_damaged_files_are_refused_before_openvino_sees_them(tmp_path: Path) -> None:
    for path in SHIPPED[0].folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "decoder.bin").write_bytes(b"0" * 100)
    with pytest.raises(QMedSAMError, match="checksum"):
        OpenVINONetwork(Model.read(tmp_path))


def test_openvino_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    """Also where the telemetry package is installed: here a stand-in that would give itself away."""
    package = tmp_path / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('telemetry was imported')")
    (package / "backend" / "__init__.py").write_text("")
    code = (
        "from qmedsam.network.runtime import import_openvino; import_openvino();"
        "import openvino.tools.ovc.telemetry_utils as t; print(t.tm.__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub", done.stderr


def test_a_missing_openvino_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from qmedsam import QMedSAMError\n"
        "from qmedsam.network.runtime import import_openvino\n"
        "try:\n    import_openvino()\nexcept QMedSAMError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--no-deps" in done.stdout


@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="libraries are bound so on Linux with glibc")
@pytest.mark.parametrize("preloaded", ["", "libm.so.6"])
def test_openvino_is_bound_to_its_own_symbols(preloaded: str) -> None:
    """Another library's ``std::regex`` of the old C++ strings came first in Slicer, and compiling ended the application."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openvino._pyopenvino': print(bool(sys.getdlopenflags() & os.RTLD_DEEPBIND))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "before = sys.getdlopenflags()\n"
        "from qmedsam.network.runtime import import_openvino\n"
        "import_openvino()\n"
        "print(sys.getdlopenflags() == before)"
    )
    environment = {**os.environ, "LD_PRELOAD": preloaded}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(not preloaded), "True"]


def test_an_application_is_asked_before_openvino_is_loaded_into_it() -> None:
    code = (
        "import sys\n"
        "from qmedsam import QMedSAMError\n"
        "from qmedsam.network import runtime\n"
        "def refuse(): raise QMedSAMError('Not here.')\n"
        "runtime.guard = refuse\n"
        "try:\n    runtime.import_openvino()\nexcept QMedSAMError as error:\n    print(error, 'openvino' in sys.modules)\n"
        "asked = []\n"
        "runtime.guard = lambda: asked.append(1)\n"
        "runtime.import_openvino(); runtime.import_openvino(); print(len(asked))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["Not here. False", "1"]


@pytest.mark.parametrize("model", SHIPPED, ids=lambda m: m.name)
def test_fully_connected_layers_as_convolutions_are_the_same_products(model) -> None:
    """Exactly, where nothing is rounded to int8: the float way of the graph."""
    openvino = import_openvino()
    core, size = openvino.Core(), model.manifest.input_size
    encoder = core.read_model(model.encoder)
    encoder.reshape({"image": [1, 3, size, size]})
    rng = np.random.default_rng(0)
    shapes = {"embedding": list(encoder.output(0).shape), "boxes": [4, 4]}
    if model.manifest.prompts.get("hints"):
        shapes.update(hints=[4, 4, size // 2, size // 2], kinds=[4, 3])
    inputs = [rng.random(shape, dtype=np.float32) for shape in shapes.values()]
    inputs[1] = np.sort(inputs[1] * size, axis=1)
    answers, convolutions = [], []
    for rewritten in (False, True):
        graph = core.read_model(model.decoder)
        graph.reshape(shapes)
        layers = as_convolutions(openvino, graph) if rewritten else 0
        convolutions.append(sum(node.get_type_name() == "Convolution" for node in graph.get_ordered_ops()) - layers)
        options = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
        answers.append([part.copy() for part in core.compile_model(graph, "CPU", options)(inputs).values()])
    assert layers >= 20 and convolutions[0] == convolutions[1]
    for expected, found in zip(*answers):
        assert np.ptp(expected) > 0 and np.allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_is_kept_of_another_version_is_compiled_again(monkeypatch, tmp_path: Path) -> None:
    model, picture, expected, blob = _compiled_once(monkeypatch, tmp_path)
    keep_network(blob, b"no network of this OpenVINO")
    assert (OpenVINONetwork(model).encode(picture) == expected).all()
    assert len(blob.read_bytes()) > 10**6, "and kept anew"
