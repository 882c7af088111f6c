"""Optimizers and learning-rate schedules of the two papers."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, Tuple, cast

import torch
from torch import nn

from .config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum 0.9, optionally sharpness-aware (Foret et al. 2021; second paper's fine-tuning).

    Only matrices and kernels decay: norms, biases and learned scales do not.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kinds: Dict[str, Tuple[Any, Dict[str, Any]]] = {
        "adamw": (torch.optim.AdamW, {}),
        "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    }
    kind, options = kinds[config.kind]
    if config.sharpness:
        from pytorch_optimizer import SAM

        return SAM(groups, kind, rho=config.sharpness, lr=config.learning_rate, **options)
    return kind(groups, lr=config.learning_rate, **options)


def step(optimizer: torch.optim.Optimizer, sharp: bool, gradients: Callable[[], torch.Tensor]) -> None:
    """One update. A sharpness-aware one takes the gradient a second time, at the worst point nearby.

    Args:
        optimizer: perhaps wrapped by Fabric.
        sharp: whether it is sharpness aware.
        gradients: clears the gradients, computes new ones and returns the loss. The first call is at the weights as they are.
    """
    gradients()
    if sharp:
        optimizer.step(cast(Callable[[], float], gradients))  # the loss stays on its device
    else:
        optimizer.step()


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Within this context training does not move the statistics of batch normalisations."""
    norms = {m: m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms.items():
            norm.momentum = momentum


def warm_up(epochs_done: float, warmup_epochs: float) -> float:
    """Learning-rate factor that rises linearly from 1 % to 1 (QMedSAM paper, section 3.3)."""
    return 0.01 + 0.99 * epochs_done / warmup_epochs if epochs_done < warmup_epochs else 1.0


def cosine(progress: float, warm: float) -> float:
    """Learning-rate factor after the warm-up: cosine from 1 to 0.1 % (QMedSAM paper, section 3.3).

    Args:
        progress: of the whole schedule, 0..1.
        warm: the same when the warm-up ended.
    """
    left = (progress - warm) / max(1 - warm, 1e-9)
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(max(left, 0.0), 1.0)))
