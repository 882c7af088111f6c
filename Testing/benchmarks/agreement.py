"""Whether this machine's masks are those of the network: int8 as it runs here beside float, on labelled cases.

    python Testing/benchmarks/agreement.py MANIFEST.csv --split validation --model qmedsam-compact -o FOLDER

*float* is the same fake-quantized graph computed in float (OpenVINO with its int8 kernels switched off). *float, disturbed* is
that once more with every quantizer's input off by at most one unit of float32's last place, as sums in another order are. Where
these two disagree, values lay on the edge of a quantization step, and no kernel is right or wrong: what int8 disagrees in is to
be read beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from qmedsam import ModelStore, Segmenter
from qmedsam.evaluation.cases import read_manifest
from qmedsam.evaluation.prompts import prompts_of
from qmedsam.evaluation.scores import dsc
from qmedsam.evaluation.summary import NOT_PROMPTABLE
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.network.processor import processor_name
from qmedsam.network.runtime import import_openvino

import_openvino()
from openvino import opset13 as opset  # noqa: E402 (after the one way in)

#: Relative: one unit of float32's last place.
NOISE = 2.0**-23


class InFloat(OpenVINONetwork):
    """The same graph, its fake quantization computed in float: nothing can saturate."""

    def _compiled(self, path: Path, count: int = 0) -> Any:
        graph = self._read(path, self._prompted(count) if count else self._shapes)
        self._disturb(graph)
        return self._core.compile_model(graph, "CPU", {**self._options, "LP_TRANSFORMS_MODE": "NO"})

    def _disturb(self, graph: Any) -> None:
        pass


class Disturbed(InFloat):
    """The same with float32's own inexactness in front of every quantizer."""

    def _disturb(self, graph: Any) -> None:
        rng = np.random.default_rng(0)
        # Known at run time alone: OpenVINO would fold a constant factor into the quantizer, which computes something else.
        first = graph.input(0).get_node().output(0)
        nothing = opset.multiply(opset.reduce_min(opset.abs(first), list(range(len(first.get_shape())))), np.float32(0))
        for node in graph.get_ordered_ops():
            source = node.input_value(0) if node.get_type_name() == "FakeQuantize" else None
            if source is None or source.get_node().get_type_name() in ("Constant", "Convert"):
                continue
            shape = [size.get_length() if size.is_static else 1 for size in source.get_partial_shape()]
            noise = opset.constant((1 + rng.uniform(-NOISE, NOISE, shape)).astype(np.float32))
            node.input(0).replace_source_output(opset.multiply(source, opset.add(noise, nothing)).output(0))


WAYS = {"int8": OpenVINONetwork, "float": InFloat, "float, disturbed": Disturbed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", default="qmedsam-compact")
    parser.add_argument("--jitter", type=float, default=0.05)
    parser.add_argument("--most", type=int, default=0, help="cases at most, 0 for all")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = ModelStore().get(arguments.model)
    networks = {way: make(model, threads=1) for way, make in WAYS.items()}
    segmenters = {way: Segmenter(model.name, network=network) for way, network in networks.items()}
    rows: List[Dict[str, Any]] = []
    cases = [case for case in read_manifest(arguments.manifest, arguments.split) if case.source not in NOT_PROMPTABLE]
    for case in cases[: arguments.most or None]:
        volume, labels = case.load()
        prompts = prompts_of(case, labels, "slice", arguments.jitter)
        if not prompts:
            continue
        run = {"modality": case.modality or "auto", "keep_masks": True}
        found = {way: one.segment(volume, [p.box for p in prompts], **run).objects for way, one in segmenters.items()}
        for n, prompt in enumerate(prompts):
            masks = {way: objects[n].mask_kji_crop for way, objects in found.items()}
            row: Dict[str, Any] = {"case": case.case_id, "source": case.source, "object": n}
            for way, mask in masks.items():
                whole, truth = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
                whole[found[way][n].crop], truth[prompt.crop] = mask, prompt.truth
                row[f"DSC, {way}"] = dsc(truth, whole)
            row["int8 and float alike"] = float((masks["int8"] == masks["float"]).mean())
            row["both floats alike"] = float((masks["float, disturbed"] == masks["float"]).mean())
            rows.append(row)
    arguments.output.mkdir(parents=True, exist_ok=True)
    processor = processor_name(networks["int8"]._core)
    summary = {"model": f"{model.name} {model.manifest.version}", "processor": processor, "prompts": len(rows), **_means(rows)}
    (arguments.output / "agreement.json").write_text(json.dumps({**summary, "rows": rows}, indent=1), encoding="utf-8")
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")


def _means(rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Mean over prompts and over sources, and the least, of every figure."""
    by_source: Dict[str, List[Dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_source[row["source"]].append(row)
    result = {}
    for name in [key for key in rows[0] if key not in ("case", "source", "object")]:
        values = [row[name] for row in rows]
        sources = float(np.mean([np.mean([row[name] for row in group]) for group in by_source.values()]))
        result[name] = {"prompts": float(np.mean(values)), "sources": sources, "least": float(np.min(values))}
    return result


if __name__ == "__main__":
    main()
