"""The training loop of one stage: resumable at any step, best checkpoint kept, CSV log and plot."""

from __future__ import annotations

import csv
import itertools
import math
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .architectures import build
from .config import TrainConfig
from .data import Sample, TrainingData, collate, held_out, one_thread
from .losses import overlap, prompt_loss
from .quantization import calibrated, fold_batch_norms, quantize

LOG_COLUMNS = ("step", "seconds", "samples_per_second", "learning_rate", "loss", "dsc", "held_out_dsc", "held_out_mean_of_groups")


def make_model(config: TrainConfig) -> nn.Module:
    """The network of a stage with its starting weights.

    A ``qat`` stage builds the float network, loads it, folds its batch normalisations and quantizes it.
    """
    model = build(config.architecture, **config.options)
    if config.init is not None:
        model.load_state_dict(load_weights(config.init))
    if config.stage == "qat":
        quantize(fold_batch_norms(model))
    return model


def load_trained(config: TrainConfig, checkpoint: Path) -> nn.Module:
    """The network of a stage with the weights (and scales) that the stage ended with, in evaluation mode."""
    model = make_model(config.model_copy(update={"init": None}))
    model.load_state_dict(load_weights(checkpoint))
    return model.eval()


def load_weights(path: Path) -> Dict[str, torch.Tensor]:
    """Weights of a checkpoint written by :func:`run` (a plain state dict under ``model``); never runs code of the file."""
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


@torch.no_grad()
def evaluate(model: nn.Module, samples: List[Tuple[str, Sample]], device: torch.device) -> Dict[str, float]:
    """Mean DSC per group of held-out samples; the model is left in evaluation mode."""
    model.eval()
    scores = defaultdict(list)
    for group, sample in samples:
        embedding = model.encode(sample.image[None].to(device))
        logits = model.decode(embedding, sample.boxes.to(device))
        logits = nn.functional.interpolate(logits[:, None].float(), size=sample.masks.shape[-2:], mode="bilinear")[:, 0]
        scores[group].append(float(overlap(logits, sample.masks.to(device))[0][0]))
    return {group: sum(values) / len(values) for group, values in scores.items()}


def schedule(progress: float, warm: float) -> float:
    """Learning-rate factor: linear warm-up from 1 %, then cosine to 0.1 % (QMedSAM paper, section 3.3)."""
    if warm < 1:
        return 0.01 + 0.99 * warm
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def run(config: TrainConfig, folder: Path, progress: Callable[[float, str], None] = lambda share, text: None) -> Path:
    """Train one stage, continuing where an interrupted run of the same folder stopped.

    Args:
        config: the stage.
        folder: gets ``last.pt`` (everything needed to resume), ``best.pt`` (averaged weights of the best held-out mean
            over groups) and ``log.csv``.
        progress: called after every step with the share done and a line of what was reached.

    Returns:
        The path of ``best.pt``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)
    fabric.launch()
    torch.manual_seed(config.seed)
    raw = make_model(config).to(memory_format=torch.channels_last)
    resume = folder / "last.pt"
    state = torch.load(resume, map_location="cpu", weights_only=True) if resume.is_file() else None
    step, spent, best = (state["step"], state["seconds"], state["best"]) if state else (0, 0.0, -1.0)

    data = TrainingData(
        config.data.manifest,
        config.input_size,
        config.data.synthetic,
        config.data.whole_slice,
        config.data.margin,
        seed=config.seed + 1000 * fabric.global_rank + step,
    )
    held = held_out(config.data.manifest, config.input_size, config.data.margin)
    if config.stage == "qat" and state is None:
        batches = iter(torch.utils.data.DataLoader(data, batch_size=8, collate_fn=collate))
        calibrated(raw, ((images, boxes, owner) for images, boxes, _, owner in itertools.islice(batches, 24)))
    if state:
        raw.load_state_dict(state["model"])
    averaged = AveragedModel(raw, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    decay = [p for p in raw.parameters() if p.ndim > 1]
    rest = [p for p in raw.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}], lr=config.learning_rate
    )
    model, optimizer = fabric.setup(raw, optimizer)
    averaged.to(fabric.device)
    if state:
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    loader = fabric.setup_dataloaders(
        torch.utils.data.DataLoader(
            data,
            batch_size=config.batch_size,
            num_workers=config.data.workers,
            collate_fn=collate,
            worker_init_fn=one_thread,
            persistent_workers=config.data.workers > 0,
        )
    )
    log = _Log(folder / "log.csv")
    started, losses, dscs, since = time.monotonic(), [], [], (step, time.monotonic())
    budget = config.minutes * 60 if config.minutes else math.inf
    batches = iter(loader)
    if step == 0 and config.init is not None:
        # What the stage starts from is a candidate too: before QAT this is post-training quantization.
        groups = evaluate(averaged.module, held, fabric.device)
        flat, best = _means(groups, held)
        if fabric.global_rank == 0:
            log.write((0, 0, math.nan, 0.0, math.nan, math.nan, flat, best))
            _save(folder / "best.pt", {"model": averaged.module.state_dict(), "step": 0, "groups": groups})
    while step < config.steps and spent < budget:
        images, boxes, masks, owner = next(batches)
        done = max(step / config.steps, spent / budget)
        factor = schedule(done, step / max(config.warmup_steps, 1))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        model.train()
        logits, confidence = model(images.contiguous(memory_format=torch.channels_last), boxes, owner)
        loss, dsc = prompt_loss(logits, confidence, masks)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(raw)
        step += 1
        losses.append(loss.item())
        dscs.append(dsc.item())
        spent = (state["seconds"] if state else 0.0) + time.monotonic() - started
        last = step >= config.steps or spent >= budget
        progress(max(step / config.steps, spent / budget), f"step {step}, DSC {dsc.item():.2f}, held out {best:.3f}")
        if step % config.evaluate_every == 0 or last:
            groups = evaluate(averaged.module, held, fabric.device)
            flat, mean = _means(groups, held)
            rate = (step - since[0]) * config.batch_size / (time.monotonic() - since[1])
            lr = config.learning_rate * factor
            row = (step, round(spent), rate, lr, sum(losses) / len(losses), sum(dscs) / len(dscs), flat, mean)
            if fabric.global_rank == 0:
                log.write(row)
                if mean >= best:
                    best = mean
                    _save(folder / "best.pt", {"model": averaged.module.state_dict(), "step": step, "groups": groups})
                _save(
                    resume,
                    {
                        "model": raw.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "seconds": spent,
                        "best": best,
                    },
                )
            losses, dscs, since = [], [], (step, time.monotonic())
    return folder / "best.pt"


def _means(groups: Dict[str, float], held: List[Tuple[str, Sample]]) -> Tuple[float, float]:
    """Mean DSC over held-out samples, and over their groups; 0 when nothing was held out."""
    return sum(groups[group] for group, _ in held) / max(len(held), 1), sum(groups.values()) / max(len(groups), 1)


def _save(path: Path, content: dict) -> None:
    """Write beside, then rename: a kill in the middle leaves the previous checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


class _Log:
    """Append-only CSV that survives resuming."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            with path.open("w", newline="") as stream:
                csv.writer(stream).writerow(LOG_COLUMNS)

    def write(self, row: tuple) -> None:
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerow([f"{v:.5g}" if isinstance(v, float) else v for v in row])
