"""The same answer on every kind of processor, emulated by caps on OpenVINO's and oneDNN's instructions in processes of their own.

Both caps and an empty cache are needed. That the emulation computes what the lesser processor would is shown first: a product
that overflows 16 bits saturates as the instruction (vpmaddubsw) does, to the number, and one that fits is exact.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qmedsam import Box, ModelStore, QMedSAMError, Segmenter, Volume
from qmedsam.models import Model, shipped_folder
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.network.processor import processor_kind
from qmedsam.network.reference import Reference
from qmedsam.network.runtime import import_openvino

SHIPPED = [model for model in ModelStore([shipped_folder()]).models() if model.manifest.precision == "int8"]
CPUINFO = Path("/proc/cpuinfo")
_FLAGS = set(CPUINFO.read_text(encoding="utf-8").split()) if CPUINFO.is_file() else set()
#: Kinds without VNNI, and the flags of a processor that can play them.
KINDS = {"AVX2": {"avx2"}, "AVX512_CORE": {"avx512f", "avx512bw", "avx512vl", "avx512dq"}}


def _on(kind: str, code: str, *arguments: object) -> str:
    """What a program prints on an emulated kind; skips where this processor cannot play it."""
    if not KINDS.get(kind, {"sse4_1"}) <= _FLAGS:
        pytest.skip(f"this processor cannot emulate {kind}")
    caps = {"ONEDNN_MAX_CPU_ISA": kind, "OV_CPU_MAX_ISA": kind, "QMEDSAM_CACHE": ""}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **caps})
    assert done.returncode == 0, done.stderr
    return done.stdout


PRODUCT = """
import json, sys
import numpy as np
from qmedsam.network.runtime import import_openvino
ov = import_openvino()
from openvino import opset13 as op
results = []
for weight in (64, 127):
    x = op.parameter([8, 16], np.float32)
    ends = [op.constant(np.float32(v)) for v in (0, 255, 0, 255)]
    factor = op.multiply(op.convert(op.constant(np.full((8, 16), weight, np.int8)), "f32"), op.constant(np.float32(0.5)))
    product = op.matmul(op.fake_quantize(x, *ends, 256), factor, False, True)
    compiled = ov.Core().compile_model(ov.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results.append(float(compiled([np.full((8, 16), 255, np.float32)])[0].max()))
print(json.dumps(results))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_emulation_saturates_as_the_instruction_does(kind: str) -> None:
    fitting, overflowing = json.loads(_on(kind, PRODUCT))
    assert fitting == 16 * 255 * 64 * 0.5, "two products of 255 and 64 fit"
    assert overflowing == 16 / 2 * (2**15 - 1) * 0.5, "two of 255 and 127 stop at the largest number of 16 bits"


ANSWER = """
import json, sys
from qmedsam.models import Model
from qmedsam.network.openvino_network import OpenVINONetwork
import numpy as np
network = OpenVINONetwork(Model.read(sys.argv[1]))
deviation = network.check()
inputs = np.load(sys.argv[2])
embedding = network.encode(inputs["image"])
logits, confidence = network.decode(embedding, inputs["boxes"])
np.savez(sys.argv[3], embedding=embedding, logits=logits, confidence=confidence)
print(json.dumps([deviation.embedding, deviation.logits, deviation.too_far]))
"""


def _picture(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    disc = ((x - size * 0.5) ** 2 + (y - size * 0.45) ** 2 < (0.28 * size) ** 2).astype(np.float32)
    return (2 * disc - 0.6 + np.random.default_rng(7).normal(0, 0.3, (3, size, size))).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "SSE41"])
@pytest.mark.parametrize("model", SHIPPED, ids=lambda m: m.name)
def test_a_lesser_processor_answers_as_this_one(model: Model, kind: str, tmp_path: Path) -> None:
    """With 8 bit weights the embedding was 0.1 to 0.2 deviations off on either kind."""
    size = model.manifest.input_size
    picture, boxes = _picture(size), np.array([[0.2, 0.15, 0.8, 0.75], [0.3, 0.2, 0.9, 0.9]], np.float32) * size
    np.savez(tmp_path / "input.npz", image=picture, boxes=boxes)
    *_, too_far = json.loads(_on(kind, ANSWER, model.folder, tmp_path / "input.npz", tmp_path / "answer.npz"))
    assert not too_far
    here = OpenVINONetwork(model)
    embedding = here.encode(picture)
    logits, confidence = here.decode(embedding, boxes)
    with np.load(tmp_path / "answer.npz") as there:
        assert np.sqrt(np.mean((there["embedding"] - embedding) ** 2)) < 0.03 * embedding.std()
        assert ((there["logits"] > 0) == (logits > 0)).mean() > 0.997
        assert np.abs(there["confidence"] - confidence).max() < 0.02


@pytest.mark.parametrize("model", SHIPPED, ids=lambda m: m.name)
def test_a_shipped_model_knows_what_it_should_answer(model: Model) -> None:
    said = model.manifest.reference
    assert (model.folder / said["file"]).stat().st_size <= 50 * 1024 and said["embedding"] < 0.05 and said["logits"] < 0.2
    deviation = OpenVINONetwork(model).check()
    assert deviation is not None and not deviation.too_far, str(deviation)
    reference = Reference.of(model)
    assert (reference.logits > 0).any() and (reference.logits < 0).any(), "it makes masks of its picture"


@pytest.fixture
def misled(tmp_path: Path) -> Model:
    """A shipped model whose reference answer is that of another network: as if this machine computed something else."""
    import hashlib

    folder = tmp_path / "misled"
    shutil.copytree(SHIPPED[0].folder, folder)
    file = folder / SHIPPED[0].manifest.reference["file"]
    with np.load(file) as content:
        values = dict(content)
    values["embedding"] = values["embedding"] + 0.1 * values["embedding"].std()
    np.savez_compressed(file, **values)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["name"] = "misled"
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Model.read(folder)


@pytest.mark.slow
def test_a_machine_that_differs_is_named_with_the_runtimes_version(misled: Model, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QMEDSAM_CACHE", str(tmp_path / "cache"))
    openvino = import_openvino()
    array = np.random.default_rng(0).integers(0, 200, (3, 40, 40)).astype(np.int16)
    box = Box.from_voxels((10, 10, 0), (30, 30, 2))
    for turn in range(2):  # compared, then remembered with the compiled networks
        result = Segmenter(model=str(misled.folder)).segment(Volume(array, modality="CT"), [box], strategy="fixed")
        (said,) = (text for text in result.messages if "computes something else" in text)
        assert openvino.__version__ in said and openvino.Core().get_property("CPU", "FULL_DEVICE_NAME").strip() in said, turn
    (kept,) = (tmp_path / "cache").rglob("answer.json")
    kept.write_text('{"embedding": 0.0, "logits": 0.0}', encoding="utf-8")
    result = Segmenter(model=str(misled.folder)).segment(Volume(array, modality="CT"), [box], strategy="fixed")
    assert not any("computes something else" in text for text in result.messages), "it is not compared again"
    kept.write_text('{"embedd', encoding="utf-8")
    network = OpenVINONetwork(misled)
    assert network.doubt == "", "before the first mask"
    network.decode(network.encode(_picture(network.input_size)), np.full((1, 4), (20, 20, 90, 90), np.float32))
    assert "computes something else" in network.doubt


@pytest.mark.slow
def test_verify_fails_where_the_answer_differs(misled: Model, monkeypatch, capsys) -> None:
    from qmedsam.commands.app import main

    monkeypatch.setenv("COLUMNS", "300")
    for model, wanted, text in ((SHIPPED[0], 0, "answers as it should"), (misled, 1, "computes something else")):
        monkeypatch.setattr("sys.argv", ["qmedsam", "models", "verify", str(model.folder)])
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == wanted and text in " ".join(capsys.readouterr().out.split())


def test_half_a_cap_is_named_where_it_does_not_load(monkeypatch) -> None:
    if not {"avx2"} <= _FLAGS:
        pytest.skip("nothing to cap")
    code = "import sys\nfrom qmedsam.models import Model\nfrom qmedsam.network.openvino_network import OpenVINONetwork\n"
    code += "OpenVINONetwork(Model.read(sys.argv[1]))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41", "QMEDSAM_CACHE": ""}
    command = [sys.executable, "-c", code, str(SHIPPED[0].folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 or "Unset ONEDNN_MAX_CPU_ISA" in done.stderr, done.stderr


def test_what_is_compiled_for_one_kind_is_not_used_on_another(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QMEDSAM_CACHE", str(tmp_path))
    core = import_openvino().Core()
    here = processor_kind(core, "1")
    monkeypatch.setattr("qmedsam.network.processor._flags", lambda: "flags : fpu sse2")
    lesser = processor_kind(core, "1")
    monkeypatch.setenv("OV_CPU_MAX_ISA", "AVX2")
    assert len({here, lesser, processor_kind(core, "1"), processor_kind(core, "2")}) == 4
    monkeypatch.undo()
    monkeypatch.setenv("QMEDSAM_CACHE", str(tmp_path))
    OpenVINONetwork(SHIPPED[0])
    (first,) = tmp_path.iterdir()
    monkeypatch.setattr("qmedsam.network.processor._flags", lambda: "flags : fpu sse2")
    OpenVINONetwork(SHIPPED[0])
    assert len(list(tmp_path.iterdir())) == 2 and first.is_dir()


def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    there = import_openvino().Core().available_devices
    missing = next((name for name in ("NPU", "GPU") if not any(one.startswith(name) for one in there)), None)
    if missing is None:
        pytest.skip("every device is there")
    with pytest.raises(QMedSAMError, match=f"finds no {missing}") as refused:
        OpenVINONetwork(SHIPPED[0], device=missing)
    assert "CPU" in refused.value.hint
    with pytest.raises(QMedSAMError, match="no device 'TPU'"):
        OpenVINONetwork(SHIPPED[0], device="TPU")


def test_what_openvino_chooses_answers_as_it_should_or_is_refused(misled: Model) -> None:
    if import_openvino().Core().available_devices != ["CPU"]:
        pytest.skip("another device may answer differently")
    picture, size = _picture(SHIPPED[0].manifest.input_size), SHIPPED[0].manifest.input_size
    box = np.full((1, 4), (0.2 * size, 0.2 * size, 0.8 * size, 0.8 * size), np.float32)
    chosen, plain = OpenVINONetwork(SHIPPED[0], device="AUTO"), OpenVINONetwork(SHIPPED[0], threads=1)
    masks = [network.decode(network.encode(picture), box)[0] > 0 for network in (chosen, plain)]
    assert masks[1].any() and (masks[0] == masks[1]).mean() > 0.999
    with pytest.raises(QMedSAMError, match="AUTO is not used for 'misled', as its answer differs"):
        OpenVINONetwork(misled, device="AUTO")


def test_the_command_says_that_a_device_is_not_there(tmp_path: Path, monkeypatch, capsys) -> None:
    from qmedsam.commands.app import main

    sample = SHIPPED[0].folder.parents[1] / "SampleData" / "QMedSAMPhantom.nrrd"
    words = ["segment", str(sample), "--box", "40,40,20,80,80,20", "--device", "tpu", "-o", str(tmp_path / "x.nrrd")]
    monkeypatch.setattr("sys.argv", ["qmedsam", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "no device 'TPU'" in capsys.readouterr().err and not list(tmp_path.iterdir())
