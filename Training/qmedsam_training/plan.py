"""What a run is going to do, before it starts: samples, steps, memory and time."""

from __future__ import annotations

from typing import List, Tuple

from .config import TrainConfig
from .data import Plan, folds_of, make_source
from .networks import child, start
from .rehearsal import Measured, rehearse


def describe(config: TrainConfig) -> List[Tuple[str, str]]:
    """Rows of a table: what, and how much. Memory and time are those of one real step, in a process of its own.

    Raises:
        QMedSAMError: data or starting checkpoint cannot be used, or a step does not fit into memory.
    """
    model, new = start(config, config.init)
    for name in config.freeze:
        child(model, name).requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    del model
    folds = folds_of(config)
    if folds:
        config = config.model_copy(update={"data": config.data.model_copy(update={"folds": folds, "fold": 0})})
    source = make_source(config)
    held = source.held_out()
    world = config.devices * config.nodes
    plan = Plan(source, config.batch_size, 0, world, config.seed)
    per_epoch = plan.batches * config.batch_size
    patients = len({one.patient for one in held})
    who = f"{len(held)} objects of {patients} patients" if held else "nobody"
    rows = [
        (
            "network",
            f"{config.architecture}, {config.input_size} x {config.input_size}, {total:,} parameters, {trained:,} trained",
        ),
        ("quantized", ", ".join(config.quantization.parts) if config.quantization else "nothing"),
        ("newly calibrated", ", ".join(new) or "nothing"),
        ("teacher", config.teacher.architecture if config.teacher else "none"),
        *[(f"data: {name}", f"{cases} cases, {prompts:,} prompts") for name, cases, prompts in source.describe()],
        *[("skipped", f"{name}: {reason}") for name, reason in source.skipped],
        ("held out", f"all in turn, in {folds} folds; in the first {who}" if folds else who),
        ("samples per epoch", f"{per_epoch:,}"),
        ("steps", f"{plan.batches:,} an epoch, {plan.batches * config.epochs:,} in {config.epochs} epochs"),
        ("wall-clock budget", f"{config.minutes:g} min" if config.minutes else "none"),
        ("processes", f"{config.devices} x {config.nodes}, {config.batch_size // world} samples each"),
    ]
    del source, held
    measured = rehearse(config)
    return [*rows, *_measured(measured, config, plan.batches, folds)]


def _measured(measured: Measured, config: TrainConfig, batches: int, folds: int) -> List[Tuple[str, str]]:
    parts = {
        "the process": measured.process,
        f"{config.data.workers} workers": measured.workers,
        "caches, once full": measured.caches,
    }
    each = f" for each of {config.devices} processes" if config.devices > 1 else ""
    memory = " + ".join(f"{size / 2**20:,.0f} MiB {what}" for what, size in parts.items() if size)
    rows = [("memory", f"{measured.memory / 2**20:,.0f} MiB at its peak{each}: {memory}")]
    if measured.device:
        rows.append(("memory of the GPU", f"{measured.device / 2**20:,.0f} MiB at its peak"))
    seconds = config.epochs * (batches * measured.step + measured.scoring)
    if config.minutes:
        seconds = min(seconds, 60 * config.minutes / (folds + 1))
    runs = f" in {folds + 1} runs" if folds else ""
    text = f"about {_long(seconds * (folds + 1))}{runs}: {measured.step:.3g} s a step, {measured.scoring:.3g} s a scoring"
    return [*rows, ("time", text)]


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
