"""The decoder, taught on embeddings that were made before."""

from __future__ import annotations

import copy
import math
from typing import Callable, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..architectures.compact import CompactSAM
from ..atlas.fit import FitConfig, parameters_of, rate_at, rounds_loss
from ..atlas.prompts import prompts_of
from ..averaging import averaged
from .frames import Frames
from .settings import Lesson


def taught(
    start: CompactSAM,
    cases: Sequence[Frames],
    scenes: Frames,
    lesson: Lesson,
    told: Callable[[int], None] = lambda step: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tuple[CompactSAM, int]:
    """A copy of a network whose decoder has learned from some cases.

    The encoder and the statistics of batch normalisations stay: ten cases say too little about either, and what the encoder
    gives can be kept. Every case is drawn from equally often.

    Args:
        start: is not changed.
        cases: frames of each.
        scenes: other objects.
        lesson: how.
        told: gets the number of steps done.
        stopped: asked after every step.

    Returns:
        The averaged network, in evaluation mode, and the number of steps that it learned.
    """
    model = copy.deepcopy(start).eval()
    model.requires_grad_(False)
    decoder = model.mask_decoder.requires_grad_(True)
    config = FitConfig(rounds=(0, 0, 1) if model.hints else (0,), decay=lesson.decay)
    optimizer = torch.optim.AdamW(parameters_of(decoder, lesson.decay), lr=lesson.rate)
    average = averaged(decoder, lesson.average)
    done = 0
    with torch.enable_grad():
        while done < lesson.steps:
            torch.manual_seed(lesson.seed * 1_000_003 + done)
            for group in optimizer.param_groups:
                group["lr"] = lesson.rate * rate_at((done + 1) / (lesson.steps + 1), lesson.warmup)
            loss = _loss(model, cases, scenes, lesson, config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(decoder)
            done += 1
            told(done)
            if stopped():
                break
    if done:
        decoder.load_state_dict(average.module.state_dict())
    return model.requires_grad_(False).eval(), done


def _loss(model: CompactSAM, cases: Sequence[Frames], scenes: Frames, lesson: Lesson, config: FitConfig) -> Tensor:
    others = round(lesson.batch * lesson.scenes)
    chosen = torch.randint(0, len(cases), (lesson.batch - others,))
    parts: List[Tuple[Frames, int]] = [(cases[n], int((chosen == n).sum())) for n in range(len(cases))] + [(scenes, others)]
    embeddings, prompts = [], []
    for frames, count in parts:
        if count:
            rows = torch.randint(0, len(frames), (count,))
            embeddings.append(frames.embedding[rows].float())
            prompts.append(prompts_of(frames.drawn(rows)))
    together = type(prompts[0])(
        *(torch.cat([getattr(p, name) for p in prompts]) for name in ("boxes", "hints", "kinds", "truth"))
    )
    loss = rounds_loss(model, torch.cat(embeddings), together, config)
    if not math.isfinite(float(loss.detach())):
        raise ArithmeticError("The loss is no number.")
    return loss


def between(start: CompactSAM, end: CompactSAM, share: float) -> CompactSAM:
    """A network between two of the same encoder: every weight of the decoder so far on its way (Wortsman and others 2022).

    Args:
        start: share 0; is returned itself there.
        end: share 1; likewise.
        share: 0..1.
    """
    if share in (0, 1):
        return end if share else start
    near, far = start.mask_decoder.state_dict(), end.mask_decoder.state_dict()
    blended = {name: torch.lerp(one, far[name], share) if one.is_floating_point() else one for name, one in near.items()}
    return with_decoder(start, blended)


def mean_of(models: Sequence[CompactSAM]) -> CompactSAM:
    """A network whose decoder's weights are the mean of several that began as one."""
    model = models[0]
    for number, other in enumerate(models[1:], start=2):
        model = between(model, other, 1 / number)
    return model


def with_decoder(model: CompactSAM, state: Mapping[str, Tensor]) -> CompactSAM:
    """A copy of a network with other weights of its decoder."""
    other = copy.deepcopy(model)
    other.mask_decoder.load_state_dict(state)
    return other
