"""What a run is going to do, counted before it starts: samples, steps, memory."""

from __future__ import annotations

from typing import List, Tuple

import torch

from .config import TrainConfig
from .data import Plan, make_source
from .distillation import teaching
from .networks import child, start


def describe(config: TrainConfig) -> List[Tuple[str, str]]:
    """Rows of a table: what, and how much.

    Activations are counted, not guessed: one sample runs forward, and what autograd keeps is added up.

    Raises:
        QMedSAMError: data or starting checkpoint cannot be used.
    """
    model, new = start(config, config.init)
    for name in config.freeze:
        child(model, name).requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    source = make_source(config)
    held = source.held_out()
    plan = Plan(source, config.batch_size, 0, config.devices * config.nodes, config.seed)
    per_epoch = plan.batches * config.batch_size
    moments = {"adamw": 2, "sgd": 1}[config.optimizer.kind]
    fixed = 4 * (2 * total + trained * (1 + moments))  # weights and their average; gradients and moments
    teacher = 4 * sum(p.numel() for p in teaching(config.teacher).parameters()) if config.teacher else 0
    activations = _activation_bytes(model, config) * config.batch_size // (config.devices * config.nodes)
    memory = {"weights and optimizer": fixed, "teacher": teacher, "activations of a batch": activations}
    return [
        (
            "network",
            f"{config.architecture}, {config.input_size} x {config.input_size}, {total:,} parameters, {trained:,} trained",
        ),
        ("quantized", ", ".join(config.quantization.parts) if config.quantization else "nothing"),
        ("newly calibrated", ", ".join(new) or "nothing"),
        ("teacher", config.teacher.architecture if config.teacher else "none"),
        *[(f"data: {name}", f"{cases} cases, {prompts:,} prompts") for name, cases, prompts in source.describe()],
        *[("skipped", f"{name}: {reason}") for name, reason in source.skipped],
        ("held out", f"{len(held)} objects"),
        ("samples per epoch", f"{per_epoch:,}"),
        ("steps", f"{plan.batches:,} an epoch, {plan.batches * config.epochs:,} in {config.epochs} epochs"),
        ("wall-clock budget", f"{config.minutes:g} min" if config.minutes else "none"),
        ("processes", f"{config.devices} x {config.nodes}, {config.batch_size // (config.devices * config.nodes)} samples each"),
        (
            "memory",
            " + ".join(f"{size / 2**20:,.0f} MiB {what}" for what, size in memory.items() if size),
        ),
    ]


def _activation_bytes(model: torch.nn.Module, config: TrainConfig) -> int:
    """What autograd keeps of one sample with one box, without the weights themselves."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(1, 3, config.input_size, config.input_size)
    boxes = torch.tensor([[0.2, 0.2, 0.8, 0.8]]) * config.input_size
    half = torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed")
    with half, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model.eval()(images, boxes, torch.zeros(1, dtype=torch.long))
    del result
    return sum(kept.values())
