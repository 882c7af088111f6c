"""The training loop of one stage: the same on one device and on many, resumable at any batch, best epoch kept."""

from __future__ import annotations

import logging
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from qmedsam import QMedSAMError
from qmedsam.files import writing
from torch import Tensor, nn

from .architectures import ARCHITECTURES
from .architectures.promptable import Promptable
from .averaging import averaged, learning_norms, reestimated
from .config import LossConfig, TrainConfig
from .data import Plan, calibration_batches, fixed_batches, make_loader, make_source, told
from .data.loading import Batch
from .distillation import Teacher
from .evaluation import TorchNetwork, score, score_ellipse
from .interruption import Interruption
from .logs import Log
from .losses import prompt_loss
from .networks import child, save, start
from .optimization import cosine, make_optimizer, step, still, warm_up
from .quantization import calibrated
from .selection import ELLIPSE, Scores, chosen

_LOGGER = logging.getLogger(__name__)
#: DSC of every held-out object at every epoch, in a run's folder.
SCORES = "scores.csv"


class Lesson(nn.Module):
    """A student, what it is told, and perhaps its teacher: one module, so that every process computes the same."""

    def __init__(self, student: Promptable, teacher: Optional[Teacher], loss: LossConfig) -> None:
        super().__init__()
        self.student, self.teacher, self.loss = student, teacher, loss

    def forward(self, images: Tensor, boxes: Tensor, masks: Tensor, owner: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Loss and DSC of every mask (``N``), and the distillation loss of the batch."""
        embedding = self.student.encode(images)
        logits, confidence = self.student.predict(embedding[owner], boxes * self.student.prompt_scale)
        losses, dscs = prompt_loss(logits, confidence, masks, self.loss)
        taught = self.teacher(embedding, images, boxes, masks, owner) if self.teacher else losses.new_zeros(())
        return losses, dscs, taught


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # of the epoch, done; 0 again when the epoch is scored
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    sums: List[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # masks, loss, distillation, DSC of this epoch
    since: float = 0.0  # seconds at which the epoch began
    warm: float = 0.0  # share of the schedule that the warm-up has taken


class Trainer:
    """One stage in one folder.

    Args:
        config: the stage.
        fabric: launched.
        folder: of the run; it is there.
        state: content of its ``last.pt``, to go on from.
        until: the epoch after which to stop, whatever the schedule says (its length stays); default: the schedule's end.

    Raises:
        QMedSAMError: data, teacher or start cannot be used.
    """

    def __init__(
        self, config: TrainConfig, fabric: Fabric, folder: Path, state: Optional[dict] = None, until: Optional[int] = None
    ) -> None:
        self.config, self.fabric, self.folder, self.until = config, fabric, folder, until
        self.first = fabric.global_rank == 0
        self.at = Progress(**state["progress"]) if state else Progress()
        self.source = make_source(config)
        self.held = self.source.held_out()
        if self.source.skipped and self.first:
            _LOGGER.warning(told(self.source.skipped))
        if config.optimizer.schedule == "plateau" and not self.held:
            raise QMedSAMError("Nobody is held out whose score could reach a plateau.", "Raise data.held_out, or use 'cosine'.")
        # A resumed run takes its weights from its own state, not from where it once started.
        self.student, new = start(config, None if state else config.init)
        if state:
            self.student.load_state_dict(state["model"])
        elif new:
            calibrated(self.student, calibration_batches(self.source, config), new)
        self.teacher = None
        if config.teacher:
            normalization = ARCHITECTURES[config.architecture].normalization
            self.teacher = Teacher(config.teacher, self.student, config.side, normalization)
        self.frozen = [child(self.student, name) for name in config.freeze]
        for part in self.frozen:
            part.requires_grad_(False)
        if not any(p.requires_grad for p in self.student.parameters()):
            raise QMedSAMError("Everything is frozen: nothing is left to train.", "Take a part out of 'freeze'.")
        if fabric.device.type == "cuda" and fabric.world_size > 1:  # there is none for CPUs
            self.student = nn.SyncBatchNorm.convert_sync_batchnorm(self.student)
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # known to torch, not to its stubs
        self.averaged = averaged(self.student, config.ema)
        parts = [child(self.averaged.module, name) for name in config.freeze]
        self.norms = [] if config.freeze_norms else learning_norms(self.averaged.module, parts)
        lesson = Lesson(self.student, self.teacher, config.loss)
        self.lesson, self.optimizer = fabric.setup(lesson, make_optimizer(config.optimizer, lesson.parameters()))
        self.averaged.to(fabric.device)
        inner = self.optimizer.optimizer
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(inner, "max", 0.1, config.optimizer.patience)
        self.base = config.optimizer.learning_rate
        if state:
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.plateau.load_state_dict(state["plateau"])
            self.base = state["base"]
            if self.teacher:
                self.teacher.adapter.load_state_dict(state["adapter"])
        self.plan = Plan(self.source, config.batch_size, fabric.global_rank, fabric.world_size, config.seed)
        self.log = Log(folder, config.tensorboard, self.at.epoch if state else -1) if self.first else None
        self.scores = self._scores_until(self.at.epoch if state else -1)
        self.started = time.monotonic() - self.at.seconds
        self.saved = time.monotonic()

    @property
    def share(self) -> float:
        """Of the whole schedule, 0..1: epochs, or the wall-clock budget where that is further."""
        of_epochs = (self.at.epoch + self.at.batch / self.plan.batches) / self.config.epochs
        return min(max(of_epochs, self.at.seconds / 60 / self.config.minutes if self.config.minutes else 0.0), 1.0)

    def run(self, progress: Callable[[float, str], None], interruption: Interruption) -> None:
        if self.at.step == 0 and self.config.init is not None and self.share < 1:
            # What the stage starts from is a candidate too: before QAT this is post-training quantization.
            self._evaluate(0)
        loader = self.fabric.setup_dataloaders(make_loader(self.plan, self.config.data.workers), use_distributed_sampler=False)
        while self.at.batch or not self._over():  # what was learned is scored, also when it was interrupted in between
            self.plan.epoch, self.plan.first = self.at.epoch, self.at.batch
            for batch in loader:
                if self._over():
                    break
                dsc = self._learn(cast(Batch, batch))
                best = f", held out {self.at.best:.3f}" if self.at.best >= 0 else ""
                progress(self.share, f"epoch {self.at.epoch + 1}, DSC {dsc:.2f}{best}")
                if time.monotonic() - self.saved >= 60 * self.config.checkpoint_minutes:
                    self.checkpoint()
                self._stop_if_asked(interruption)
            self.checkpoint()
            batches, self.at.epoch, self.at.batch = self.at.batch, self.at.epoch + 1, 0
            self._evaluate(batches)
            self.checkpoint()
            self._stop_if_asked(interruption)

    def _stop_if_asked(self, interruption: Interruption) -> None:
        """Save and stop, all processes at the same batch: a signal reaches them at different ones."""
        asked = torch.tensor(float(interruption.asked), device=self.fabric.device)
        if self._sum(asked).item() > 0:
            self.checkpoint()
            raise KeyboardInterrupt

    def _sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        return cast(Tensor, self.fabric.all_reduce(values, reduce_op="sum"))

    def _over(self) -> bool:
        out_of_time = self.config.minutes is not None and self.at.seconds >= 60 * self.config.minutes
        return self.at.epoch >= (self.config.epochs if self.until is None else self.until) or out_of_time

    def _learn(self, batch: Tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
        images, boxes, masks, owner = batch
        config = self.config.optimizer
        done = self.at.epoch + self.at.batch / self.plan.batches
        warming = done < config.warmup_epochs
        if warming or config.schedule == "plateau":
            factor = warm_up(done, config.warmup_epochs)
        else:
            factor = cosine(self.share, self.at.warm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.base * factor
        self.lesson.train()
        for part in self.frozen:
            part.eval()
        if self.config.freeze_norms:
            for module in self.student.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        # Masks are not spread evenly over the processes; every mask of the whole batch counts the same.
        count = self.fabric.all_reduce(torch.tensor(float(len(boxes)), device=self.fabric.device), reduce_op="sum")
        images = images.contiguous(memory_format=torch.channels_last)
        shown: List[Tensor] = []

        def gradients() -> Tensor:
            self.optimizer.zero_grad()
            with still(self.student) if shown else nullcontext():  # at the worst point nearby
                losses, dscs, taught = self.lesson(images, boxes, masks, owner)
            weight = self.config.teacher.weight if self.config.teacher else 0.0
            loss = losses.sum() * self.fabric.world_size / count + weight * taught
            self.fabric.backward(loss)
            largest = config.clip or math.inf  # infinite: nothing is changed, what is no number still found
            self.fabric.clip_gradients(self.lesson, self.optimizer, max_norm=largest, error_if_nonfinite=True)
            if not shown:
                shown[:] = [losses.detach().sum(), taught.detach() * len(losses), dscs.sum()]
            return loss

        try:
            step(self.optimizer, config.sharpness > 0, gradients)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            raise QMedSAMError(
                f"The loss is no longer a number at step {self.at.step}.",
                f"Lower the learning rate and go on in a new folder: --init {self.folder / 'best.pt'} -o NEW.",
            ) from error
        self.averaged.update_parameters(self.student)
        sums = self._sum(torch.stack([shown[0].new_tensor(float(len(boxes))), *shown])).tolist()
        self.at.sums = [a + b for a, b in zip(self.at.sums, sums)]
        self.at.step, self.at.batch = self.at.step + 1, self.at.batch + 1
        self._look_at_the_clock()
        if warming:
            self.at.warm = self.share
        return sums[3] / sums[0]

    def _look_at_the_clock(self) -> None:
        """The first process's, for all: budget and learning rate follow it."""
        self.at.seconds = self.fabric.broadcast(time.monotonic() - self.started)

    def _evaluate(self, batches: int) -> None:
        """Score the averaged weights after so many batches of an epoch, keep what the held-out patients choose, write the log."""
        trained, config = self.at.seconds, self.config
        if self.at.step:  # a start is scored as it is
            with self.fabric.autocast():  # as they were while training
                reestimated(
                    self.averaged.module,
                    self.norms,
                    lambda: fixed_batches(self.source, config.seed, config.batch_size, config.statistics_images),
                )
        mine = torch.zeros(len(self.held), device=self.fabric.device)
        share = slice(self.fabric.global_rank, None, self.fabric.world_size)
        results = score(TorchNetwork(cast(Promptable, self.averaged.module), config.side), self.held[share], with_nsd=False)
        mine[share] = torch.tensor([result.dsc for result in results], device=self.fabric.device)
        values = self._sum(mine).cpu().double().numpy()
        flat, mean = float(values.mean()) if self.held else math.nan, self.scores.mean(values)
        if self.at.step and config.optimizer.schedule == "plateau":
            before = self.optimizer.param_groups[0]["lr"]
            self.plateau.step(mean)
            self.base *= self.optimizer.param_groups[0]["lr"] / before
        masks, loss, taught, dsc = self.at.sums
        rate = batches * config.batch_size / max(trained - self.at.since, 1e-9)
        self._look_at_the_clock()  # scoring counts towards the budget, and not towards the samples per second
        self.at.sums, self.at.since = [0.0] * 4, self.at.seconds
        # Nothing was held out: the last epoch counts as the best.
        better = math.isnan(mean) or mean >= self.at.best
        if better:
            self.at.best = -1.0 if math.isnan(mean) else mean
        if self.log is None:
            return
        shown = (x / masks if masks else math.nan for x in (loss, taught, dsc))
        lr = self.optimizer.param_groups[0]["lr"] if self.at.step else 0.0
        self.log.write((self.at.epoch, self.at.step, round(trained), rate, lr, *shown, flat, mean))
        if self.held:
            self.scores.by_epoch[self.at.epoch] = values
            self.scores.save(self.folder / SCORES)
        for name in ("final.pt", "top.pt") if better else ("final.pt",):
            save(self.folder / name, self.averaged.module, config, epoch=self.at.epoch, held_out=mean)
        last = not self.held or chosen(self.scores) == self.at.epoch
        with writing(self.folder / "best.pt") as partial:
            shutil.copyfile(self.folder / ("final.pt" if last else "top.pt"), partial)

    def _scores_until(self, epoch: int) -> Scores:
        """Those of this run up to an epoch; at its start those of the ellipse alone."""
        path = self.folder / SCORES
        if self.held and epoch >= 0 and path.is_file():
            known = Scores.read(path)
            return replace(known, by_epoch={e: values for e, values in known.by_epoch.items() if e <= epoch})
        ellipse = np.array([result.dsc for result in score_ellipse(self.held, with_nsd=False)])
        by_epoch = {ELLIPSE: ellipse} if self.held else {}
        return Scores([held.group for held in self.held], [held.patient for held in self.held], by_epoch)

    def checkpoint(self) -> None:
        """Everything that is needed to go on as if nothing had happened."""
        self.saved = time.monotonic()
        if not self.first:
            return
        save(
            self.folder / "last.pt",
            self.student,
            self.config,
            averaged=self.averaged.state_dict(),
            optimizer=self.optimizer.state_dict(),
            plateau=self.plateau.state_dict(),
            base=self.base,
            adapter=self.teacher.adapter.state_dict() if self.teacher else {},
            progress=asdict(self.at),
            config=self.config.model_dump(mode="json"),
        )
