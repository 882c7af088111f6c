"""The long training: frames of an atlas, prompts as walks and users give them, corrected once or more in every step.

Everything but the file's reading happens on the device of the network. A step encodes a batch once and decodes it several
times: what was asked first, then corrections of the answer. Progress is a share of the time or steps that are given, so that
the rate ends at zero wherever the run does. What is drawn in a step depends on the seed and the step's number alone: a run that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple, cast

import torch
import torch.nn.functional as F
from qmedsam import QMedSAMError
from qmedsam.network import HINTS, KINDS
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..architectures.compact import CompactSAM
from ..architectures.promptable import Promptable
from ..averaging import averaged, learning_norms, reestimated
from ..interruption import Interruption
from .corrections import corrected, next_stroke
from .drawing import Drawn, Habits, chosen, draw
from .looks import normalised, repainted
from .prompts import Prompts, deformed, looked_at_again, prompts_of
from .scenes import joined, scenes
from .store import Atlas

#: Of pictures, volumes, regions and synthetic scenes in a batch, by what a network is for.
SHARES: Dict[str, Tuple[float, float, float, float]] = {
    "volumes": (0.45, 0.25, 0.15, 0.15),
    "slices": (0.65, 0.15, 0.12, 0.08),
}


@dataclass(frozen=True)
class FitConfig:
    """A run.

    Args:
        seconds: of training; 0 for as many as ``steps`` take.
        steps: of training, where ``seconds`` is 0.
        batch: frames a step.
        shares: one of :data:`SHARES`.
        rate: highest learning rate.
        warmup: share of the run in which it rises.
        decay: AdamW's.
        average: of the weights, per step; it rises from 0.1 (``(1 + n) / (10 + n)``).
        rounds: corrections in a step, one of these.
        pixel: weight of the cross entropy beside the Dice term.
        quality: weight of the predicted IoU's error.
        candidates: weight of the best of the other candidates; a tenth of it goes to all of them.
        strength: of augmentation.
        again: share of volumes' prompts with a neighbour's mask that are looked at once more, as a vote does.
        compiled: whether the network's parts are compiled first (minutes, on a GPU worth it).
        seed: of everything that is drawn.
        save_every: seconds between checkpoints.
        statistics: batches that the averaged network's batch normalisations are measured on.
    """

    seconds: float = 0.0
    steps: int = 100
    batch: int = 16
    shares: Tuple[float, float, float, float] = SHARES["volumes"]
    rate: float = 1e-3
    warmup: float = 0.04
    decay: float = 0.02
    average: float = 0.998
    rounds: Tuple[int, ...] = (0, 1, 1, 2, 3)
    pixel: float = 0.25
    quality: float = 1.0
    candidates: float = 0.5
    strength: float = 0.5
    again: float = 0.0
    compiled: bool = False
    seed: int = 0
    save_every: float = 600.0
    statistics: int = 40


class Sampler:
    """Draws batches: which kinds of things, and of each which, with the atlas' weights."""

    def __init__(self, atlas: Atlas, config: FitConfig, habits: Habits, rows: Optional[Tensor] = None) -> None:
        self.atlas, self.config, self.habits = atlas, config, habits
        allowed = torch.zeros(len(atlas.group), dtype=torch.bool, device=atlas.group.device)
        allowed[rows if rows is not None else slice(None)] = True
        region, is_3d = atlas.columns["region"] == 1, atlas.columns["is_3d"] == 1
        kinds = (allowed & ~region & ~is_3d, allowed & ~region & is_3d, allowed & region)
        shares = [share if bool(kind.any()) else 0.0 for share, kind in zip(config.shares, kinds)] + [config.shares[3]]
        if not sum(shares):
            raise QMedSAMError("There is nothing to draw: no object is left, and no scene is asked for.", "Leave less out.")
        self.counts = _dealt(config.batch, shares)
        #: Where in a batch volumes and scenes lie, which a walk comes to.
        first, volumes, regions, _ = self.counts
        kind = [0] * first + [1] * volumes + [0] * regions + [1] * self.counts[3]
        self.walks = torch.tensor(kind, device=atlas.group.device).nonzero()[:, 0]
        self.weights = [atlas.weight * kind for kind in kinds]

    def draw(self) -> Drawn:
        """One batch."""
        rows = [torch.multinomial(w, n, True) for w, n in zip(self.weights, self.counts) if n]
        parts = [draw(self.atlas, torch.cat(rows), self.habits)] if rows else []
        if self.counts[3] > 0:
            parts.append(scenes(self.counts[3], self.habits, self.atlas.group.device))
        return joined(tuple(parts))


def _dealt(count: int, shares: List[float]) -> List[int]:
    """Whole numbers in about these shares that add up; what is left over goes to the largest remainders."""
    exact = [share / sum(shares) * count for share in shares]
    whole = [int(n) for n in exact]
    for n in sorted(range(len(shares)), key=lambda n: whole[n] - exact[n])[: count - sum(whole)]:
        whole[n] += 1
    return whole


def asked(model: Promptable, embedding: Tensor, boxes: Tensor, hints: Tensor, kinds: Tensor) -> Tuple[Tensor, Tensor]:
    """Logits ``N x C x m x m`` and IoU ``N x C`` of any network: one without hints is asked with boxes alone."""
    logits, quality = model.predict(embedding, boxes * model.prompt_scale, *((hints, kinds) if model.hints else ()))
    return logits.reshape(len(boxes), model.candidates, *logits.shape[-2:]), quality.reshape(len(boxes), model.candidates)


def mask_loss(logits: Tensor, truth: Tensor, pixel: float) -> Tensor:
    """Dice with squares and cross entropy, per mask: ``B x C x h x w`` and ``B x h x w`` to ``B x C``."""
    target = truth[:, None].expand_as(logits)
    probability = logits.sigmoid()
    both = (probability * target).flatten(2).sum(2)
    total = (probability**2).flatten(2).sum(2) + (target**2).flatten(2).sum(2)
    dice = 1 - (2 * both + 1) / (total + 1)
    return dice + pixel * F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(2).mean(2)


def step_loss(logits: Tensor, quality: Tensor, truth: Tensor, config: FitConfig) -> Tensor:
    """Of one decoding: the first candidate always, of the others the best, and how good each says it is."""
    logits, quality = logits.float(), quality.float()
    losses = mask_loss(logits, truth, config.pixel)
    loss = losses[:, 0].mean()
    if logits.shape[1] > 1:
        others = losses[:, 1:]
        loss = loss + config.candidates * (others.amin(1).mean() + 0.1 * others.mean())
    with torch.no_grad():
        found, wanted = logits > 0, (truth > 0.5)[:, None]
        both, either = (found & wanted).flatten(2).sum(2), (found | wanted).flatten(2).sum(2)
        iou = both / either.clamp(min=1)
    return loss + config.quality * F.mse_loss(quality, iou)


def fit(
    model: CompactSAM,
    sampler: Sampler,
    config: FitConfig,
    folder: Path,
    told: Callable[[str], None] = print,
) -> CompactSAM:
    """Train, going on from ``folder``'s last checkpoint if there is one; returns the averaged network.

    Args:
        model: on the device of the sampler's atlas.
        sampler: of batches.
        config: of the run.
        folder: for ``last.pt`` and ``fit.jsonl``.
        told: gets a line now and then.

    Raises:
        QMedSAMError: the folder's checkpoint is of another network.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the step, with everything saved.
    """
    device = sampler.atlas.group.device
    cuda = device.type == "cuda"
    model.train()
    parts = (model.image_encoder, model.mask_decoder) if config.compiled else ()
    for part in parts:
        part.compile(dynamic=False)
    optimizer = torch.optim.AdamW(parameters_of(model, config.decay), lr=config.rate, fused=cuda)
    average = averaged(model, config.average)
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(folder / "last.pt")
    step, before = state.resume(model, optimizer, average)
    start = saved = shown = time.monotonic()
    losses: List[Tensor] = []
    with Interruption() as interruption:
        while True:
            torch.manual_seed(config.seed * 1_000_003 + step)
            elapsed = before + time.monotonic() - start
            share = elapsed / config.seconds if config.seconds else step / config.steps
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = config.rate * rate_at(share, config.warmup)
            losses.append(_step(model, sampler, config, optimizer, cuda))
            average.update_parameters(model)
            step += 1
            now = time.monotonic()
            if now - shown > 15:
                mean = float(torch.stack(losses).mean())
                told(f"step {step}, {share:.1%}, loss {mean:.4f}, {step * config.batch / max(elapsed, 1e-6):.0f} frames/s")
                with (folder / "fit.jsonl").open("a") as log:
                    log.write(json.dumps({"step": step, "share": share, "loss": mean, "seconds": elapsed}) + "\n")
                losses, shown = [], now
            if now - saved > config.save_every or interruption.asked:
                state.save(model, optimizer, average, step, before + now - start)
                saved = now
            if interruption.asked:
                raise KeyboardInterrupt
    # Before the averages take the weights' place: a run that is given more steps goes on from the weights.
    state.save(model, optimizer, average, step, before + time.monotonic() - start)
    kept = cast(CompactSAM, average.module)  # never compiled: its statistics are taken once

    def batches() -> Iterator[Tuple[Tensor, ...]]:
        for _ in range(config.statistics):
            image, prompts = _batch(kept, sampler, config)
            said = (prompts.hints, prompts.kinds) if kept.hints else ()
            yield (image, prompts.boxes, torch.arange(len(image), device=device), *said)

    reestimated(kept, learning_norms(kept), batches)
    return kept.eval()


def _batch(model: CompactSAM, sampler: Sampler, config: FitConfig) -> Tuple[Tensor, Prompts]:
    """Normalised images and what is asked about them."""
    drawn = sampler.draw()
    image = repainted(drawn.image, drawn.is_3d, config.strength)
    guess = None
    if sampler.habits.walked:
        if model.hints and len(sampler.walks):
            guess = _found_beside(model, image[sampler.walks, :1], drawn, sampler.walks)
        # as the engine shows it: one slice, three times
        image = torch.where(drawn.walked.view(-1, 1, 1, 1), image[:, 1:2], image)
    return normalised(image, drawn.valid), prompts_of(drawn, guess=guess)


@torch.no_grad()
def _found_beside(model: CompactSAM, image: Tensor, drawn: Drawn, rows: Tensor) -> Tensor:
    """What the network finds on the slices that walks come from, as it is now: asked with the cut of the 3D box.

    Args:
        model: in training.
        image: of the slices, one channel.
        drawn: the whole batch.
        rows: of the batch that ``image`` is of.

    Returns:
        Boolean masks of the whole batch at the logits' resolution; empty elsewhere.
    """
    side = image.shape[-1]
    image = normalised(image.expand(-1, 3, -1, -1), drawn.valid[rows])
    boxes = drawn.outer[rows].clamp(-0.5, side - 0.5)
    hints = image.new_zeros(len(rows), len(HINTS), side // 2, side // 2)
    kinds = image.new_zeros(len(rows), len(KINDS))
    kinds[:, KINDS.index("volume")] = 1
    cuda = image.device.type == "cuda"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=cuda):
        logits, quality = asked(model, model.encode(_ordered(image)), boxes, hints, kinds)
    surest = quality.argmax(1).view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    found = torch.zeros(len(drawn.mask), *logits.shape[2:], dtype=torch.bool, device=image.device)
    found[rows] = logits.gather(1, surest)[:, 0] > 0
    return found


def _ordered(image: Tensor) -> Tensor:
    """In the order of memory that GPUs' convolutions like."""
    return image.contiguous(memory_format=torch.channels_last) if image.device.type == "cuda" else image


def _step(model: CompactSAM, sampler: Sampler, config: FitConfig, optimizer: torch.optim.Optimizer, cuda: bool) -> Tensor:
    image, prompts = _batch(model, sampler, config)
    with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=cuda):
        embedding = model.encode(_ordered(image))
        total = rounds_loss(model, embedding, prompts, config)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return total.detach()


def rounds_loss(model: Promptable, embedding: Tensor, prompts: Prompts, config: FitConfig) -> Tensor:
    """Of what is asked first and of corrections of the answer, as many as ``config.rounds`` says (one of them is drawn)."""
    wanted = prompts.truth > 0.5
    # Volumes' prompts with a neighbour's mask, some of which a vote looks at again before a user does
    again = (prompts.kinds[:, 0] == 0) & (prompts.hints[:, 0] != 0).flatten(1).any(1)
    again = again & chosen(config.again, len(wanted), prompts.truth)
    rounds = config.rounds[int(torch.randint(0, len(config.rounds), ()))]
    total = prompts.truth.new_zeros(())
    for number in range(rounds + 1):
        logits, quality = asked(model, embedding, prompts.boxes, prompts.hints, prompts.kinds)
        total = total + step_loss(logits, quality, prompts.truth, config) / (rounds + 1)
        if number < rounds:
            with torch.no_grad():
                hints = _next_hints(logits.detach(), wanted, prompts.hints, number)
                if number == 0 and config.again:
                    hints = torch.where(again.view(-1, 1, 1, 1), prompts.hints, hints)
                    prompts = looked_at_again(prompts, logits[:, 0] > 0, again)
                prompts = replace(prompts, hints=hints)
    return total


def _next_hints(logits: Tensor, wanted: Tensor, hints: Tensor, number: int) -> Tensor:
    """What a user would do about the answer: mostly the first candidate; at first sometimes another program's mask."""
    count = len(logits)
    which = torch.randint(0, logits.shape[1], (count,), device=logits.device) * chosen(0.2, count, logits)
    predicted = logits.gather(1, which.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:]))[:, 0] > 0
    if number == 0:
        foreign = deformed(wanted[:, None], torch.zeros(count, dtype=torch.bool, device=logits.device))[:, 0]
        predicted = torch.where(chosen(0.15, count, logits).view(-1, 1, 1), foreign, predicted)
    return corrected(hints, predicted, next_stroke(predicted, wanted))


@torch.no_grad()
def scored(
    model: Promptable, atlas: Atlas, rows: Tensor, habits: Habits, clicks: int = 3, batch: int = 256, seed: int = 1
) -> Dict[str, Dict[str, float]]:
    """DSC by group for fixed draws: a tight box, the cut of a 3D box, that with the neighbour's mask, and 1 to ``clicks`` clicks.

    Frames are drawn as the engine does it. ``best``: of the candidates for the tight box. The neighbour's mask is the truth's,
    and asked of volumes alone. A network without hints is asked with boxes alone.

    Returns:
        By prompt and group.
    """
    still = replace(habits, strength=0.0, wide=0.0, flat=1.0)
    torch.manual_seed(seed)
    sums: Dict[str, Dict[str, List[float]]] = {}
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        names = [atlas.groups[g] for g in atlas.group[some].tolist()]
        for kind, neighbours in ((0, False), (1, False), (1, True)):
            if neighbours and not model.hints:
                continue
            drawn = draw(atlas, some, still, torch.full_like(some, kind))
            prompts = prompts_of(drawn, neighbours)
            beside = F.avg_pool2d(drawn.beside[:, None], 2)[:, 0] > 0.5
            known = drawn.neighbour & beside.flatten(1).any(1)
            if neighbours:
                prompts.hints[:, 0] = torch.where(known.view(-1, 1, 1), beside.float() * 2 - 1, 0.0)
            embedding = model.encode(normalised(drawn.image, drawn.valid))
            wanted = prompts.truth > 0.5
            name = ("tight", "volume")[kind] + ("+neighbour" if neighbours else "")
            hints = prompts.hints
            for click in range(clicks + 1 if kind == 0 and model.hints else 1):
                logits, _ = asked(model, embedding, prompts.boxes, hints, prompts.kinds)
                found = logits[:, 0] > 0
                counted = known if neighbours else torch.ones_like(known)
                _note(sums, name + (f" {click}" if kind == 0 else ""), names, _dsc(found, wanted), counted)
                if kind == 0 and click == 0:
                    every = torch.stack([_dsc(mask > 0, wanted) for mask in logits.unbind(1)])
                    _note(sums, "best", names, every.amax(0), counted)
                hints = corrected(hints, found, next_stroke(found, wanted, exact=True))
    return {name: {g: sum(v) / len(v) for g, v in groups.items()} for name, groups in sums.items()}


def _dsc(found: Tensor, wanted: Tensor) -> Tensor:
    both = (found & wanted).flatten(1).sum(1).float()
    total = found.flatten(1).sum(1) + wanted.flatten(1).sum(1)
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)


def _note(sums: Dict[str, Dict[str, List[float]]], name: str, groups: List[str], values: Tensor, counted: Tensor) -> None:
    for group, value, counts in zip(groups, values.tolist(), counted.tolist()):
        if counts:
            sums.setdefault(name, {}).setdefault(group, []).append(value)


def grown_from(state: Dict[str, Tensor], model: CompactSAM, noise: float = 0.02) -> None:
    """Fill a network with the weights of a smaller, larger or earlier one, as far as both have them.

    Candidates that it lacks begin as copies of its first (with a little noise, or they would stay copies); what else is new
    stays as it is.
    """
    own = model.state_dict()
    tokens = state["mask_decoder.output_tokens"]
    had, count = len(tokens) - 1, model.mask_decoder.candidates
    source = [n if n < had else 0 for n in range(count)]
    filled = dict(state)
    apart = noise * tokens.std() * torch.randn(count, tokens.shape[1])
    apart[:had] = 0
    filled["mask_decoder.output_tokens"] = torch.cat([tokens[source] + apart, tokens[-1:]])
    for name in ("weight", "bias"):
        key = f"mask_decoder.iou.2.{name}"
        filled[key] = state[key][source]
    for name, value in filled.items():
        if name in own:
            common = tuple(slice(0, min(a, b)) for a, b in zip(own[name].shape, value.shape))
            with torch.no_grad():
                own[name][common] = value[common]


def rate_at(share: float, warmup: float) -> float:
    """Of the highest learning rate, at a share of a run: up in a line, down in half a cosine."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def parameters_of(model: nn.Module, decay: float) -> List[Dict[str, object]]:
    """Weights decay; biases, norms and tokens do not."""
    decays = {name: p.dim() > 1 and not name.endswith("tokens") for name, p in model.named_parameters()}
    return [
        {"params": [p for name, p in model.named_parameters() if decays[name]], "weight_decay": decay},
        {"params": [p for name, p in model.named_parameters() if not decays[name]], "weight_decay": 0.0},
    ]


class _State:
    """The checkpoint of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel) -> Tuple[int, float]:
        if not self.path.exists():
            return 0, 0.0
        content = torch.load(self.path, map_location=next(model.parameters()).device, weights_only=True)
        try:
            model.load_state_dict(content["model"])
            optimizer.load_state_dict(content["optimizer"])
            average.load_state_dict(content["average"])
        except (RuntimeError, ValueError) as error:
            raise QMedSAMError(f"'{self.path}' is of another network.", "Give another folder, or delete it.") from error
        return content["step"], content["seconds"]

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel, step: int, seconds: float) -> None:
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "step": step,
            "seconds": seconds,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(content, partial)
        os.replace(partial, self.path)
