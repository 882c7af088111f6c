"""Float, PTQ, QAT and NNCF side by side: the papers' kinds of tables (QMedSAM paper, tables 5 to 7)."""

from __future__ import annotations

import csv
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from qmedsam.models import Model
from qmedsam.network import Network
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.network.runtime import import_openvino
from torch import Tensor

from .architectures.promptable import Promptable
from .config import NetworkConfig, QuantizationConfig
from .data import HeldOut
from .evaluation import TorchNetwork, by_group, mean_of_groups, score, score_ellipse
from .export import check_replaceable, model_fields, to_onnx, write_folder, write_model
from .networks import load, post_training_quantized
from .runtimes import OnnxNetwork

Batches = Callable[[], Iterator[Tuple[Tensor, Tensor, Tensor]]]


@dataclass(frozen=True)
class Row:
    """A network in one form. ``ms``: per slice with one box, by runtime. The ellipse has neither size nor time."""

    name: str
    groups: Dict[str, Tuple[int, float, float]]
    dsc: float
    nsd: float
    mib: Optional[float]
    ms: Dict[str, float]


def compare(
    checkpoint: Path,
    held: Sequence[HeldOut],
    batches: Batches,
    how: QuantizationConfig,
    folder: Path,
    trained: Optional[Path] = None,
    with_nncf: bool = True,
    repeats: int = 9,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> List[Row]:
    """Score and time every form of one network; all in OpenVINO as the engine runs them (f32 hint).

    Args:
        checkpoint: float, of ours.
        held: objects to score on.
        batches: gives calibration batches anew.
        how: to quantize for PTQ.
        folder: gets the exported models.
        trained: checkpoint of quantization-aware training, if there is one.
        with_nncf: also NNCF's own post-training quantization, as the control.
        repeats: of the timings, taken in turn.
        threads: of the timings, for all runtimes.
        progress: told what is being done.

    Raises:
        QMedSAMError: a folder of an exported model would replace something else.
    """
    for name in ("float", "ptq", "qat", "nncf"):
        check_replaceable(folder / name)
    forms: Dict[str, Tuple[Promptable, NetworkConfig]] = {}
    forms["float"] = load(checkpoint)
    progress("calibrating")
    forms["PTQ"] = post_training_quantized(checkpoint, how, batches())
    if trained is not None:
        forms["QAT"] = load(trained)
    networks: Dict[str, Dict[str, Network]] = {}
    sizes: Dict[str, float] = {}
    for name, (model, network) in forms.items():
        progress(f"exporting {name}")
        fields = model_fields(network, f"compared-{name.lower()}")
        exported = Model.read(write_model(folder / name.lower(), model, fields, f"# {name}\n"))
        sizes[name] = _mib(exported)
        graphs = to_onnx(model, network.side, network.quantization is not None)
        networks[name] = {
            "OpenVINO": OpenVINONetwork(exported, threads),
            "ONNX Runtime": OnnxNetwork(graphs, network.side, model.prompt_scale, threads),
            "PyTorch": TorchNetwork(model, network.side),
        }
        if name == "float":
            networks["float, bf16 hint"] = {"OpenVINO": OpenVINONetwork(exported, threads, "bf16")}
            sizes["float, bf16 hint"] = sizes[name]
    if with_nncf:
        progress("quantizing with NNCF")
        exported = nncf_quantized(Model.read(folder / "float"), folder / "nncf", *forms["float"], batches())
        networks["NNCF PTQ"] = {"OpenVINO": OpenVINONetwork(exported, threads)}
        sizes["NNCF PTQ"] = _mib(exported)
    ms = timed(networks, held[0], repeats, threads, progress)
    rows = []
    for name, runtimes in networks.items():
        progress(f"scoring {name}")
        results = score(runtimes["OpenVINO"], held)
        rows.append(Row(name, by_group(results), *mean_of_groups(results), sizes[name], ms[name]))
    ellipses = score_ellipse(held)
    return [*rows, Row("ellipse in the box", by_group(ellipses), *mean_of_groups(ellipses), None, {})]


def nncf_quantized(
    exported: Model, folder: Path, model: Promptable, network: NetworkConfig, batches: Iterator[Tuple[Tensor, Tensor, Tensor]]
) -> Model:
    """NNCF's post-training quantization of an exported float model: the control for our own quantizers.

    Raises:
        ImportError: NNCF is not installed (an extra: ``pip install nncf --no-deps``; it declares a telemetry package).
    """
    ov = import_openvino()  # before NNCF, which would otherwise turn telemetry on
    import nncf

    images, prompts = [], []
    teacher = TorchNetwork(model, network.side)
    for batch, boxes, owner in batches:
        for n, image in enumerate(batch.numpy()):
            images.append(image[None])
            own = boxes[owner == n].numpy()[:1]
            if len(own):
                prompts.append({"embedding": teacher.encode(image), "boxes": own * model.prompt_scale})
    core = ov.Core()

    def quantize(scratch: Path) -> None:
        for part, data in (("encoder", images), ("decoder", prompts)):
            graph = core.read_model(getattr(exported, part))
            if part == "decoder":
                graph.reshape({"boxes": [1, 4]})
            options = {"preset": nncf.QuantizationPreset.MIXED, "model_type": nncf.ModelType.TRANSFORMER}
            quantized = nncf.quantize(graph, nncf.Dataset(data), subset_size=len(data), **options)
            if part == "decoder":
                quantized.reshape({"boxes": [-1, 4]})
            ov.save_model(quantized, scratch / f"{part}.xml", compress_to_fp16=False)

    fields = model_fields(network, folder.name, precision="int8", prompt_size=exported.manifest.prompt_size)
    return Model.read(write_folder(folder, quantize, fields, f"# {folder.name}\n"))


def _mib(model: Model) -> float:
    return model.bytes / 2**20


def timed(
    networks: Dict[str, Dict[str, Network]], held: HeldOut, repeats: int, threads: int, progress: Callable[[str], None]
) -> Dict[str, Dict[str, float]]:
    """Medians of encoding an image and decoding one box, every network in turn within each round."""
    progress("timing")
    image, box = held.image.numpy(), held.box.numpy()
    times: Dict[Tuple[str, str], List[float]] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # the other runtimes were told when they loaded
    for turn in range(repeats + 1):  # the first warms up
        for name, runtimes in networks.items():
            for runtime, network in runtimes.items():
                start = time.perf_counter()
                network.decode(network.encode(image), box)
                if turn:
                    times.setdefault((name, runtime), []).append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(before)
    return {
        name: {runtime: statistics.median(times[name, runtime]) for runtime in runtimes} for name, runtimes in networks.items()
    }


def write_tables(rows: Sequence[Row], folder: Path) -> str:
    """``compare.csv``, ``compare.md`` and ``compare.png`` into a folder; returns the Markdown."""
    runtimes = ("PyTorch", "ONNX Runtime", "OpenVINO")
    lines = [
        "# One network in several forms",
        "",
        f"On {sum(g[0] for g in rows[0].groups.values())} held-out objects; means over sources.",
    ]
    if any(row.name.startswith("NNCF") for row in rows):
        lines.append(
            "OpenVINO 2026.4.1 computes the decoder of NNCF's SmoothQuant wrongly when it is compiled for one box: "
            "Training/README.md."
        )
    lines += [
        "",
        "| form | DSC | NSD | MiB | " + " | ".join(f"ms, {r}" for r in runtimes) + " |",
        "|---|---|---|---|" + "---|" * 3,
    ]
    for row in rows:
        speeds = " | ".join(f"{row.ms[r]:.1f}" if r in row.ms else "" for r in runtimes)
        size = "" if row.mib is None else f"{row.mib:.2f}"
        lines.append(f"| {row.name} | {row.dsc:.4f} | {row.nsd:.4f} | {size} | {speeds} |")
    lines += ["", "| modality or source | objects | " + " | ".join(f"{r.name}: DSC / NSD" for r in rows) + " |"]
    lines.append("|---|---|" + "---|" * len(rows))
    for group, (count, *_) in rows[0].groups.items():
        scores = " | ".join(f"{r.groups[group][1]:.3f} / {r.groups[group][2]:.3f}" for r in rows)
        lines.append(f"| {group} | {count} | {scores} |")
    text = "\n".join(lines) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.md").write_text(text, encoding="utf-8")
    with (folder / "compare.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["form", "group", "objects", "dsc", "nsd", "mib", *(f"ms {r}" for r in runtimes)])
        for row in rows:
            measured = [f"{row.ms[r]:.3f}" if r in row.ms else "" for r in runtimes]
            size = "" if row.mib is None else f"{row.mib:.3f}"
            writer.writerow([row.name, "mean of groups", "", f"{row.dsc:.5f}", f"{row.nsd:.5f}", size, *measured])
            for group, (count, overlap, surface) in row.groups.items():
                writer.writerow([row.name, group, count, f"{overlap:.5f}", f"{surface:.5f}"])
    _plot(rows, folder / "compare.png")
    return text


def _plot(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.28 * len(rows[0].groups)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows[0].groups))
    for n, row in enumerate(rows):
        axes.plot([g[1] for g in row.groups.values()], places, "o", label=f"{row.name} ({row.dsc:.3f})", alpha=0.8, ms=9 - n)
    axes.set(xlabel="DSC", yticks=places, yticklabels=list(rows[0].groups))
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
