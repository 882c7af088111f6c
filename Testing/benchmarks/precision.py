"""What int8 is worth: one architecture as an int8 and as a float32 model folder, in turn, on one thread.

    python Testing/benchmarks/precision.py MODELS/l0-int8 MODELS/l0-float32 [--repeats 9]

Both with the f32 hint and with bf16 (what OpenVINO takes by itself where the processor has it). Medians of *processor* time,
not of the clock's: a machine that is shared with other work stretches the clock by whatever it likes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from qmedsam.models import Model
from qmedsam.network.openvino_network import OpenVINONetwork


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("int8", type=Path)
    parser.add_argument("float32", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    models = {"int8": Model.read(arguments.int8), "float32": Model.read(arguments.float32)}
    for name, model in models.items():
        if model.manifest.precision != name:
            parser.error(f"{model.folder} is {model.manifest.precision}, not {name}")
    size = models["int8"].manifest.input_size
    image = np.random.default_rng(0).standard_normal((3, size, size), dtype=np.float32)
    box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * size
    sys.stdout.write(f"{models['int8'].manifest.architecture}, {size} x {size}, one thread, medians of {arguments.repeats}\n")
    for hint in ("f32", "bf16"):
        networks = {name: OpenVINONetwork(model, threads=1, precision=hint) for name, model in models.items()}
        embeddings = {name: network.encode(image) for name, network in networks.items()}
        calls = {
            "encode": lambda name, n=networks: n[name].encode(image),
            "decode one box": lambda name, n=networks, e=embeddings: n[name].decode(e[name], box),
        }
        for part, call in calls.items():
            seconds: Dict[str, List[float]] = {name: [] for name in networks}
            for turn in range(arguments.repeats + 1):
                for name in networks:
                    start = time.process_time()
                    call(name)
                    if turn:  # the first compiles and warms up
                        seconds[name].append(time.process_time() - start)
            int8, other = (1000 * statistics.median(seconds[name]) for name in ("int8", "float32"))
            sys.stdout.write(f"hint {hint}, {part}: int8 {int8:.1f} ms, float {other:.1f} ms: {other / int8:.2f} times as fast\n")


if __name__ == "__main__":
    main()
