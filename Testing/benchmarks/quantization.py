"""What int8 is worth on LiteMedSAM: our export against float networks and against a plain Brevitas export.

    python Testing/benchmarks/quantization.py [--repeats 9] [--architecture litemedsam]

Speed does not depend on the weights, so they are random. All networks run in OpenVINO on one thread and take turns within
a round; medians of *processor* time, which a machine shared with other work does not stretch.
The precision hint concerns what is not int8. "plain" is the export that the QMedSAM paper's pipeline makes:
per-layer, narrow-range weights behind a Clip, batch normalisations not folded.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import torch
from baselines import plain_brevitas
from qmedsam.models import Model
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.network.runtime import import_openvino
from qmedsam_training import export
from qmedsam_training.architectures import ARCHITECTURES, build
from qmedsam_training.config import NetworkConfig, QuantizationConfig
from qmedsam_training.data import calibration_samples
from qmedsam_training.networks import quantize_parts
from qmedsam_training.quantization import calibrated, fold_batch_norms


def interleaved(calls: Dict[str, Callable[[], object]], repeats: int) -> Dict[str, float]:
    """Median processor milliseconds of each call, all taking turns; one round to warm up."""
    times: Dict[str, List[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--architecture", default="litemedsam", choices=sorted(ARCHITECTURES))
    options = parser.parse_args()
    out = sys.stdout.write
    network = NetworkConfig(architecture=options.architecture, input_size=ARCHITECTURES[options.architecture].input_size)
    size = network.input_size
    ov = import_openvino()
    core = ov.Core()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.manual_seed(0)
        model = build(options.architecture).eval()
        export.write_model(folder / "float", model, export.model_fields(network, "float"), "# float\n")
        how = QuantizationConfig()
        fold_batch_norms(model)
        quantize_parts(model, how, how.parts)
        calibrated(model, calibration_samples(ARCHITECTURES[options.architecture], 2))
        quantized = network.model_copy(update={"quantization": how})
        export.write_model(folder / "int8", model, export.model_fields(quantized, "int8"), "# int8\n")
        plain_brevitas(build(options.architecture), options.architecture, folder / "plain")
        for name in ("float", "int8"):
            for part in ("encoder", "decoder"):
                kinds = Counter((kind, precision) for _, kind, precision in export.census(folder / name / f"{part}.xml"))
                size_mib = (folder / name / f"{part}.bin").stat().st_size / 2**20
                out(f"{name} {part}, {size_mib:.1f} MiB: {', '.join(f'{n} {k} {p}' for (k, p), n in sorted(kinds.items()))}\n")
        kinds = Counter((kind, precision) for _, kind, precision in export.census(folder / "plain" / "encoder.xml"))
        out(f"plain encoder: {', '.join(f'{n} {k} {p}' for (k, p), n in sorted(kinds.items()))}\n")

        image = np.random.default_rng(0).standard_normal((3, size, size), dtype=np.float32)
        hints = {"float, f32 hint": ("float", "f32"), "float, bf16 hint": ("float", "bf16")}
        hints.update({"int8, f32 hint": ("int8", "f32"), "int8, bf16 hint": ("int8", "bf16")})
        networks = {name: OpenVINONetwork(Model.read(folder / m), threads=1, precision=hint) for name, (m, hint) in hints.items()}
        calls: Dict[str, Callable[[], object]] = {name: lambda n=n: n.encode(image) for name, n in networks.items()}
        for hint in ("f32", "bf16"):
            graph = core.read_model(folder / "plain" / "encoder.xml")
            graph.reshape({"image": [1, 3, size, size]})
            settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
            compiled = core.compile_model(graph, "CPU", settings)
            calls[f"plain, {hint} hint"] = lambda c=compiled: c(image[None])
        _report("encode", interleaved(calls, options.repeats), out)
        embedding = networks["float, f32 hint"].encode(image)
        for count in (1, 6):
            boxes = (np.array([[0.2, 0.25, 0.7, 0.8]], np.float32) * size).repeat(count, 0)
            calls = {name: lambda n=n, b=boxes: n.decode(embedding, b) for name, n in networks.items()}
            _report(f"decode {count}", interleaved(calls, options.repeats), out)


def _report(what: str, ms: Dict[str, float], out: Callable[[str], object]) -> None:
    base = ms["float, f32 hint"]
    for name, value in ms.items():
        out(f"{what:9s} {name:18s} {value:8.1f} ms, {base / value:.2f} times float with f32 hint\n")


if __name__ == "__main__":
    main()
