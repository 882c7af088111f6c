"""Milliseconds of the shipped network, and what encoding a slice once for all its boxes is worth.

    python Testing/benchmarks/speed.py [--repeats 15]

The baseline is the published LiteMedSAM loop, which encodes every slice anew for every box. Both run in turn on the
shipped phantom (six boxes, frame: whole slice, strategy: fixed); medians, with the engine's f32 hint unless said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, List

import numpy as np
from qmedsam import ModelStore, Segmenter
from qmedsam.files import read_boxes, read_volume
from qmedsam.models import shipped_folder
from qmedsam.network.openvino_network import OpenVINONetwork


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Of one call, after one to warm up."""
    work()
    times: List[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    out = sys.stdout.write
    model = ModelStore([shipped_folder()]).models()[0]
    size = model.manifest.input_size
    image = np.random.default_rng(0).standard_normal((3, size, size), dtype=np.float32)
    box = np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * size
    out(f"{model.name} ({model.manifest.precision}, {size} x {size})\n")
    for hint in ("f32", "bf16"):
        network = OpenVINONetwork(model, precision=hint)
        embedding = network.encode(image)
        encode = median_ms(lambda n=network: n.encode(image), repeats)
        single = median_ms(lambda n=network, e=embedding: n.decode(e, box), repeats)
        block = median_ms(lambda n=network, e=embedding: n.decode(e, box.repeat(n.block, 0)), repeats) / network.block
        out(f"hint {hint}: encode {encode:.1f} ms, decode {single:.1f} ms, in blocks {block:.1f} ms a box\n")

    sample = Path(shipped_folder()).parent / "SampleData"
    volume = read_volume(sample / "QMedSAMPhantom.nrrd")
    boxes = read_boxes(sample / "QMedSAMPhantom-boxes.mrk.json", volume)
    segmenter = Segmenter(model.name)
    settings = {"modality": "CT", "strategy": "fixed", "frame": "slice"}
    ours, baseline = [], []
    for _ in range(max(repeats // 3, 3)):
        ours.append(segmenter.segment(volume, boxes, **settings).seconds["total"])
        baseline.append(sum(segmenter.segment(volume, [b], **settings).seconds["total"] for b in boxes))
    a, b = statistics.median(ours), statistics.median(baseline)
    out(f"six boxes: {a:.2f} s encoding once a slice, {b:.2f} s encoding for every box: {b / a:.2f} times as fast\n")


if __name__ == "__main__":
    main()
