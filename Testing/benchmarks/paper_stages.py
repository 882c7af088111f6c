"""The QMedSAM paper's three stages on LiteMedSAM's published weights, on a GPU in minutes: three commands.

    python Testing/benchmarks/paper_stages.py pack MANIFEST.csv -o slices.pt
    python Testing/benchmarks/paper_stages.py run slices.pt lite_medsam.pth -o runs/paper [--seconds 200 60 160] [--batch 16]
    python Testing/benchmarks/paper_stages.py score MANIFEST.csv lite_medsam.pth -o runs/paper

``pack``: every picture of ``train``, and some slices of its volumes, as the network is shown them (whole slices of 256 pixels).
``run`` draws objects, flips and boxes from them on the device. Stage 1: int8 encoder, taught by the float network itself
(MedSAM, the paper's teacher, can not be had), the decoder float and frozen. Stage 2: int8 decoder, the encoder frozen. Stage 3:
both, taught. A stage's trained parts are written when it ends (weights in half precision).
``score``: the stages that were run, as ``paper.py`` has them.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import zlib
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from PIL import Image
from qmedsam_training.architectures.promptable import Promptable
from qmedsam_training.atlas.drawing import extent
from qmedsam_training.config import LossConfig, NetworkConfig, QuantizationConfig
from qmedsam_training.losses import overlap, prompt_loss
from qmedsam_training.networks import child, start
from qmedsam_training.quantization import calibrated
from torch import Tensor, nn

SIDE = 256
#: Slices of a volume, and objects of a slice, at most.
SLICES, OBJECTS = 8, 60
PAPER = LossConfig(pixel="focal", iou_weight=0.0)
#: Boxes are up to this many pixels too large on every side (QMedSAM paper, section 3.1).
SHIFT = 10.0


class Stage(NamedTuple):
    """What is quantized, what of it learns, and whether the float network teaches."""

    parts: Tuple[str, ...]
    learns: Tuple[str, ...]
    taught: bool


STAGES = (
    Stage(("image_encoder",), ("image_encoder",), True),
    Stage(("image_encoder", "mask_decoder"), ("mask_decoder",), False),
    Stage(("image_encoder", "mask_decoder"), ("image_encoder", "mask_decoder"), True),
)


def told(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def pack(manifest: Path, output: Path) -> None:
    """Write the slices: lossy colours, exact labels."""
    from qmedsam.frames import Frame
    from qmedsam_training.architectures import ARCHITECTURES
    from qmedsam_training.config import DataConfig
    from qmedsam_training.data import Preparation
    from qmedsam_training.data.cases import Cases, Target, labelled_cases
    from qmedsam_training.data.samples import LEAST_PIXELS

    config = DataConfig(manifest=manifest)
    preparation = Preparation.of(ARCHITECTURES["litemedsam"], SIDE, frame="slice")
    cases = Cases(labelled_cases(config), slices_per_object=SLICES)
    groups = sorted(cases.targets)
    images, labels, group_of = [], [], []
    for number, group in enumerate(groups):
        for targets in cases.targets[group]:
            by_slice: Dict[int, List[Target]] = {}
            for target in targets:
                if target.view_axis == 2:
                    by_slice.setdefault(target.index, []).append(target)
            indices = sorted(by_slice)
            for n in np.unique(np.linspace(0, len(indices) - 1, SLICES).astype(int)) if indices else []:
                here = by_slice[indices[n]]
                view = cases.view(here[0])
                frame = Frame.whole_slice(view, SIDE)
                drawn, valid = cases.draw(here[0], view, frame)
                image = preparation.normalise(np.clip(drawn, 0, 1), valid).numpy()
                label = np.zeros((SIDE, SIDE), np.uint8)
                for count, target in enumerate(here[:OBJECTS], 1):
                    mask = frame.sample(cases.mask(target, view))[0] > 0.5
                    if mask.sum() >= LEAST_PIXELS:
                        label[mask] = count
                if label.any():
                    images.append(_picture(image))
                    labels.append(zlib.compress(label.tobytes(), 9))
                    group_of.append(number)
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"images": images, "labels": labels, "group": torch.tensor(group_of), "groups": groups}, output)
    told(f"{len(images)} slices of {len(groups)} sources, {output.stat().st_size / 2**20:.1f} MiB: {output}")


def _picture(image: np.ndarray) -> bytes:
    """``3 x S x S`` in 0..1 as WebP."""
    codes = (image * 255).round().clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(codes, 0, -1)).save(buffer, "webp", quality=88)
    return buffer.getvalue()


class Slices:
    """The packed slices on a device, and what is drawn of them.

    Args:
        path: of ``pack``.
        device: where all of it lies.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        content = torch.load(path, weights_only=True)
        pictures = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in content["images"])
        self.images = torch.stack([torch.from_numpy(np.moveaxis(one, -1, 0).copy()) for one in pictures]).to(device)
        maps = (np.frombuffer(zlib.decompress(one), np.uint8).reshape(SIDE, SIDE) for one in content["labels"])
        self.labels = torch.stack([torch.from_numpy(one.copy()) for one in maps]).to(device)
        rows, weights = [], []
        group = content["group"]
        count = torch.bincount(group)
        for n, label in enumerate(self.labels):
            known = torch.unique(label)
            known = known[known > 0].cpu()
            rows.append(torch.stack([torch.full_like(known, n, dtype=torch.long), known.long()], 1))
            # the square root of a source's slices, shared out among them and their objects
            weights.append(torch.full((len(known),), float(count[group[n]]) ** -0.5 / len(known)))
        self.rows, self.weights = torch.cat(rows).to(device), torch.cat(weights).to(device)

    def draw(self, count: int) -> Tuple[Tensor, Tensor, Tensor]:
        """Images ``B x 3 x S x S`` in 0..1, boxes ``B x 4`` (edges) and masks ``B x S x S``, turned over at random."""
        rows = self.rows[torch.multinomial(self.weights, count, True)]
        image = self.images[rows[:, 0]].float() / 255
        mask = self.labels[rows[:, 0]] == rows[:, 1, None, None]
        for axis in (1, 2):
            flip = (torch.rand(count, device=mask.device) < 0.5)[:, None, None]
            mask = torch.where(flip, mask.flip(axis), mask)
            image = torch.where(flip[:, None], image.flip(axis + 1), image)
        edges, _ = extent(mask)
        grown = torch.rand(count, 4, device=mask.device) * SHIFT
        box = edges + grown * grown.new_tensor([-1, -1, 1, 1])
        return image, box.clamp(-0.5, SIDE - 0.5), mask.float()


def network(parts: Sequence[str]) -> NetworkConfig:
    """LiteMedSAM with some parts quantized as the pipeline does."""
    how = QuantizationConfig(parts=list(parts)) if parts else None
    return NetworkConfig(architecture="litemedsam", input_size=SIDE, quantization=how)


def staged(stage: Stage, done: int, checkpoint: Path, folder: Path) -> Tuple[Promptable, List[str]]:
    """A stage's network with what the first ``done`` stages wrote into ``folder``, the rest of it published weights.

    Returns:
        It, and the parts whose activation scales nobody has calibrated yet.
    """
    model, new = start(network(stage.parts), checkpoint)
    unknown = []
    for part in new:
        known = [path for n in range(done, 0, -1) if (path := folder / f"stage{n}-{part}.pt").is_file()]
        if known:
            child(model, part).load_state_dict(torch.load(known[0], weights_only=True, map_location="cpu"))
        else:
            unknown.append(part)
    return model, unknown


def train(
    stage: Stage,
    model: Promptable,
    new: Sequence[str],
    teacher: Promptable,
    slices: Slices,
    seconds: float,
    batch: int,
    rate: float,
) -> None:
    """One stage in place: SGD with momentum, a line up and half a cosine down (QMedSAM paper, table 3)."""
    device = slices.images.device
    if new:

        def samples() -> Iterator[Tuple[Tensor, ...]]:
            for _ in range(12):
                image, box, _ = slices.draw(8)
                yield image, box, torch.arange(8, device=device)

        calibrated(model, samples(), list(new))
    model.requires_grad_(False).eval()
    learning = [p for part in stage.learns for p in child(model, part).train().requires_grad_(True).parameters()]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimizer = torch.optim.SGD(learning, rate, momentum=0.9)
    begin = shown = time.monotonic()
    step, sums = 0, torch.zeros(3, device=device)
    while (share := (time.monotonic() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(share / 0.1, 0.5 * (1 + np.cos(np.pi * max(share - 0.1, 0) / 0.9)))
        image, box, mask = slices.draw(batch)
        with torch.set_grad_enabled("image_encoder" in stage.learns):
            embedding = model.encode(image)
        logits, confidence = model.predict(embedding, box * model.prompt_scale)
        losses, dsc = prompt_loss(logits, confidence, mask, PAPER)
        loss, lesson = losses.mean(), losses.new_zeros(())
        if stage.taught:
            with torch.no_grad():
                goal = teacher.encode(image)
                answer = teacher.decode(goal, box)
                iou = overlap(answer, nn.functional.interpolate(mask[:, None], answer.shape[-2:], mode="area")[:, 0])[1]
            lesson = (iou * (embedding.float() - goal).square().mean((1, 2, 3))).mean()
            loss = loss + lesson
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not bool(torch.isfinite(loss)):
            told(f"step {step}: loss {float(loss)}, left out")
            continue
        optimizer.step()
        step += 1
        sums += torch.stack([losses.mean().detach(), dsc.mean(), lesson.detach()])
        if time.monotonic() - shown > 10:
            mean = (sums / max(step, 1)).tolist()
            told(
                f"step {step}, {share:.0%}, loss {mean[0]:.4f}, DSC {mean[1]:.4f}, lesson {mean[2]:.5f} (means so far), "
                f"{step * batch / (time.monotonic() - begin):.0f} images/s"
            )
            shown = time.monotonic()
    told(f"{step} steps, {step * batch} images")
    model.eval()


def run(args: argparse.Namespace) -> None:
    """All stages, those of 0 seconds left out."""
    device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    slices = Slices(args.file, device)
    told(f"{len(slices.images)} slices, {len(slices.rows)} objects, on {device}")
    teacher = start(network(()), args.checkpoint)[0].to(device).eval().requires_grad_(False)
    for number, (stage, seconds) in enumerate(zip(STAGES, args.seconds), 1):
        if not seconds:
            continue
        model, new = staged(stage, number - 1, args.checkpoint, args.output)
        train(stage, model.to(device), new, teacher, slices, seconds, args.batch, args.rate)
        for part in stage.learns:
            state = child(model, part).state_dict()
            # weights in half precision, scales as they are
            small = {k: v.half() if v.is_floating_point() and v.numel() > 4096 else v for k, v in state.items()}
            torch.save(small, args.output / f"stage{number}-{part}.pt")
        told(f"stage {number} done")


def scores(args: argparse.Namespace) -> None:
    """DSC and NSD of float and of every stage that was run, on the objects of ``paper.py``; embeddings are kept."""
    from paper import Experiment, table
    from qmedsam_training.embedded import Remembered, embeddings
    from qmedsam_training.evaluation import TorchNetwork, score
    from qmedsam_training.quantization import weights_quantized_once

    torch.set_num_threads(1)
    held = Experiment(args.manifest, args.output / "objects", 0, 2, 0).held("slice")
    forms = {"float": (Stage((), (), False), 0)}
    for number, stage in enumerate(STAGES, 1):
        if all((args.output / f"stage{number}-{part}.pt").is_file() for part in stage.learns):
            forms[f"stage {number}"] = stage, number
    rows = {}
    for name, (stage, number) in forms.items():
        model, _ = staged(stage, number, args.checkpoint, args.output)
        encoder = max([n for n in (1, 3) if n <= number], default=0)
        with weights_quantized_once(model):
            encoded = embeddings(TorchNetwork(model, SIDE), held, args.output / f"embeddings-{encoder}")
            rows[name] = score(Remembered(model, SIDE, encoded), held)
        told(f"{name} scored")
    text = table(rows)
    (args.output / "stages.md").write_text(text, encoding="utf-8")
    told(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack")
    one.add_argument("manifest", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True)
    other = commands.add_parser("run")
    other.add_argument("file", type=Path)
    other.add_argument("checkpoint", type=Path)
    other.add_argument("-o", "--output", type=Path, required=True)
    other.add_argument("--seconds", type=float, nargs=3, default=(200.0, 60.0, 160.0))
    other.add_argument("--batch", type=int, default=16)
    other.add_argument("--rate", type=float, default=0.01)
    other.add_argument("--seed", type=int, default=0)
    other.add_argument("--device", default="auto")
    last = commands.add_parser("score")
    last.add_argument("manifest", type=Path)
    last.add_argument("checkpoint", type=Path)
    last.add_argument("-o", "--output", type=Path, required=True, help="folder of run")
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.manifest, args.output)
    elif args.command == "run":
        run(args)
    else:
        scores(args)


if __name__ == "__main__":
    main()
