"""The QMedSAM paper's experiment with LiteMedSAM's published weights, as far as one core goes: one command.

    python Testing/benchmarks/paper.py MANIFEST.csv -o Docs/Evidence/Paper [--keep runs/comparison] [--images 120] [--step STEP]

Stage 2 (the decoder quantized and trained on the frozen int8 encoder) and decoders fitted to our data, once with the papers'
frame and once with the frame around the box, learn from ``train``; all are scored on the same objects of ``validation`` (the
first cases of every source). Embeddings are computed once, with OpenVINO. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
import torch
from comparison import JITTER, first_cases, imported
from qmedsam.evaluation.scores import bootstrap_interval
from qmedsam.evaluation.summary import NOT_PROMPTABLE
from qmedsam.models import Model
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam_training import fetching
from qmedsam_training.architectures import ARCHITECTURES
from qmedsam_training.architectures.promptable import Promptable
from qmedsam_training.compare import timed
from qmedsam_training.config import DataConfig, LossConfig, NetworkConfig, OptimizerConfig, QuantizationConfig
from qmedsam_training.data import HeldOut, LabelledData, Preparation
from qmedsam_training.data.cases import labelled_cases
from qmedsam_training.data.labelled import objects_of
from qmedsam_training.embedded import Answers, Remembered, calibrated_decoder, embeddings, fit_decoder, lessons
from qmedsam_training.evaluation import Result, TorchNetwork, score
from qmedsam_training.export import to_onnx
from qmedsam_training.networks import start
from qmedsam_training.quantization import calibrated
from qmedsam_training.runtimes import OnnxNetwork

SIDE = 256
#: Encoder and frame that a decoder's lessons and its objects come from.
SLICES, AROUND = "int8-slice", "float32-roi"
#: The encoder whose answers are the target where the float network teaches: the same images and boxes as SLICES.
TAUGHT_BY = "float32-slice"
PAPER = OptimizerConfig(kind="sgd", learning_rate=0.01, weight_decay=0.0, clip=None, warmup_epochs=1)
OURS = OptimizerConfig(learning_rate=1e-4, weight_decay=0.01, warmup_epochs=0.2)


class Form(NamedTuple):
    """A row: on whose embeddings it is scored, whether its decoder is int8, how it is trained (None: not), whether by float."""

    shown: str
    int8: bool = False
    optimizer: Optional[OptimizerConfig] = None
    loss: LossConfig = LossConfig()
    taught: bool = False


FORMS = {
    "float": Form("float32-slice"),
    "int8 encoder": Form(SLICES),
    "PTQ": Form(SLICES, int8=True),
    "stage 2": Form(SLICES, True, PAPER, LossConfig(pixel="focal", iou_weight=0.0)),
    "stage 2, taught by float": Form(SLICES, True, OURS, LossConfig(), taught=True),
    "frame around the box": Form(AROUND),
    "our data": Form(SLICES, False, OURS),
    "our data and frame": Form(AROUND, False, OURS),
}


class Experiment:
    """Everything lies below one folder.

    Args:
        manifest: of the labelled cases.
        keep: the folder.
        images: that a decoder is trained on.
        cases: of every source that are scored.
        epochs: of every training.
    """

    def __init__(self, manifest: Path, keep: Path, images: int, cases: int, epochs: int) -> None:
        self.manifest, self.keep, self.images, self.epochs = manifest, keep, images, epochs
        keep.mkdir(parents=True, exist_ok=True)
        self.scored = first_cases(manifest, "validation", cases, keep)
        self._held: Dict[str, List[HeldOut]] = {}

    def encoder(self, shown: str) -> OpenVINONetwork:
        return OpenVINONetwork(Model.read(imported(self.keep, shown.split("-")[0], self.manifest)), 1)

    def held(self, frame: str) -> List[HeldOut]:
        if frame not in self._held:
            data = DataConfig(manifest=self.scored, held_out_per_group=1, held_out_jitter=float(JITTER))
            prepared = Preparation.of(ARCHITECTURES["litemedsam"], SIDE, frame=frame)
            self._held[frame] = objects_of(labelled_cases(data, "validation"), data, prepared)[0]
        return self._held[frame]

    def lessons(self, shown: str) -> List[Path]:
        folder = self.keep / f"lessons-{shown}"
        known = sorted(folder.glob("*.pt"))
        if len(known) >= self.images:
            return known[: self.images]
        frame = shown.split("-")[1]
        shift = {"box_shift": 10.0} if frame == "slice" else {}
        shares = {"synthetic": 0.0, "propagated": 0.0, "augmentation": 0.0, "whole_slice": float(frame == "slice")}
        data = DataConfig(manifest=self.manifest, held_out=0.0, **shares, **shift)
        source = LabelledData(data, Preparation.of(ARCHITECTURES["litemedsam"], SIDE, frame=frame))
        return lessons(self.encoder(shown), source, self.images, folder, tell=_tell(shown))

    def encoded(self, shown: str) -> Iterator[np.ndarray]:
        return embeddings(self.encoder(shown), self.held(shown.split("-")[1]), self.keep / f"objects-{shown}")

    def decoder(self, name: str) -> Promptable:
        """Of a form, trained if it is to be."""
        form, path = FORMS[name], self.keep / f"{name.replace(' ', '-')}.pt"
        how = QuantizationConfig(parts=["mask_decoder"]) if form.int8 else None
        checkpoint = fetching.fetch("litemedsam")
        model, _ = start(NetworkConfig(architecture="litemedsam", input_size=SIDE, quantization=how), checkpoint)
        model.eval()
        if path.is_file():
            model.get_submodule("mask_decoder").load_state_dict(torch.load(path, weights_only=True))
            return model
        if form.int8:
            calibrated_decoder(model, self.lessons(form.shown)[:48])
        if form.optimizer:
            shown = self.lessons(form.shown)
            teacher = None
            if form.taught:
                plain, _ = start(NetworkConfig(architecture="litemedsam", input_size=SIDE), checkpoint)
                teacher = Answers(plain.eval(), self.lessons(TAUGHT_BY))
            fit_decoder(model, shown, form.loss, form.optimizer, self.epochs, tell=_tell(name), teacher=teacher)
        if form.int8 or form.optimizer:
            torch.save(model.get_submodule("mask_decoder").state_dict(), path)
        return model

    def results(self, name: str) -> List[Result]:
        path = self.keep / f"{name.replace(' ', '-')}.json"
        if not path.is_file():
            shown = FORMS[name].shown
            network = Remembered(self.decoder(name), SIDE, self.encoded(shown))
            results = score(network, self.held(shown.split("-")[1]))
            path.write_text(json.dumps([result.__dict__ for result in results]), encoding="utf-8")
        return [Result(**row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def engines(self, repeats: int) -> Dict[str, Dict[str, float]]:
        """The paper's table 5: milliseconds of one image and one box, float and int8, by runtime; all in turn, one thread."""
        path = self.keep / "engines.json"
        if not path.is_file():
            held, networks = self.held("slice")[0], {}
            for name, how in (("float", None), ("int8", QuantizationConfig())):
                description = NetworkConfig(architecture="litemedsam", input_size=SIDE, quantization=how)
                model, _ = start(description, fetching.fetch("litemedsam"))
                if how:
                    calibrated(model, [(held.image[None], held.box, torch.tensor([0]))])
                networks[name] = {
                    "PyTorch": TorchNetwork(model, SIDE),
                    "ONNX Runtime": OnnxNetwork(to_onnx(model, SIDE, how is not None), SIDE, model.prompt_scale, 1),
                    "OpenVINO": self.encoder("int8" if how else "float32"),
                }
            path.write_text(json.dumps(timed(networks, held, repeats, 1, lambda text: None)), encoding="utf-8")
        return dict(json.loads(path.read_text(encoding="utf-8")))


def _tell(what: str) -> Callable[[int, float], None]:
    def tell(number: int, value: float) -> None:
        sys.stderr.write(f"{what}: {number}, {value:.4f}\n")

    return tell


def mean(results: List[Result], what: str = "dsc") -> float:
    """Over sources."""
    groups: Dict[str, List[float]] = defaultdict(list)
    for result in results:
        groups[result.group].append(getattr(result, what))
    return float(np.mean([np.nanmean(values) for values in groups.values()]))


def against(results: List[Result], base: List[Result]) -> str:
    """Points of DSC, with the interval over patients."""
    groups: Dict[str, Dict[str, List[float]]] = defaultdict(lambda: defaultdict(list))
    for ours, theirs in zip(results, base):
        groups[ours.group][ours.patient].append(100 * (ours.dsc - theirs.dsc))
    low, high = bootstrap_interval(*[list(patients.values()) for patients in groups.values()])
    return f"{100 * (mean(results) - mean(base)):+.1f} ({low:+.1f} to {high:+.1f})"


def table(rows: Dict[str, List[Result]]) -> str:
    """The paper's table 7: DSC / NSD of every form, per modality, and what each loses or gains against float."""
    rows = {name: [r for r in some if r.group.split("/")[-1] not in NOT_PROMPTABLE] for name, some in rows.items()}
    first = next(iter(rows.values()))
    lines = ["|  | objects | " + " | ".join(rows) + " |", "|" + "---|" * (len(rows) + 2)]
    for modality in sorted({r.group.split("/")[0] for r in first}):
        own = {name: [r for r in some if r.group.split("/")[0] == modality] for name, some in rows.items()}
        cells = [f"{mean(some):.3f} / {mean(some, 'nsd'):.3f}" for some in own.values()]
        lines.append(f"| {modality} | {len(next(iter(own.values())))} | " + " | ".join(cells) + " |")
    cells = [f"**{mean(some):.3f}** / {mean(some, 'nsd'):.3f}" for some in rows.values()]
    sources = len({r.group for r in first})
    lines.append(f"| **mean over {sources} sources** | {len(first)} | " + " | ".join(cells) + " |")
    base = rows["float"]
    cells = ["" if name == "float" else against(some, base) for name, some in rows.items()]
    lines.append("| points of DSC against float | | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--keep", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--images", type=int, default=120, help="that a decoder is trained on")
    parser.add_argument("--cases", type=int, default=2, help="of every source that are scored")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="of the engines' timings")
    parser.add_argument("--step", help="only this: engines, lessons-KIND, objects-KIND, or the name of a form")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment(arguments.manifest, arguments.keep, arguments.images, arguments.cases, arguments.epochs)
    if arguments.step:
        kind, _, shown = arguments.step.partition("-")
        if kind == "lessons":
            experiment.lessons(shown)
        elif kind == "engines":
            experiment.engines(arguments.repeats)
        elif kind == "objects":
            list(experiment.encoded(shown))
        else:
            _tell(arguments.step)(0, mean(experiment.results(arguments.step)))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = table({name: experiment.results(name) for name in FORMS})
    (arguments.output / "accuracy.md").write_text(text, encoding="utf-8")
    lines = ["| seconds | PyTorch | ONNX Runtime | OpenVINO |", "|---|---|---|---|"]
    for name, ms in experiment.engines(arguments.repeats).items():
        lines.append(f"| {name} | " + " | ".join(f"{ms[r] / 1000:.3f}" for r in ("PyTorch", "ONNX Runtime", "OpenVINO")) + " |")
    (arguments.output / "engines.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
