"""The whole way: frames, folds, the table, the mean of their networks, the int8 model. Parts are kept: a run goes on."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import torch
from qmedsam import QMedSAMError
from qmedsam.errors import Cancelled
from qmedsam.files import writing
from torch import Tensor

from .. import networks
from ..architectures.compact import CompactSAM
from ..atlas.corrections import corrected, next_stroke
from ..atlas.drawing import Habits
from ..atlas.fit import asked
from ..atlas.prompts import prompts_of
from ..config import NetworkConfig, QuantizationConfig
from ..export import check_replaceable, model_fields, write_model
from ..recipes import checked_name
from ..reporting import Tell
from ..runtimes import parity
from .card import card_of, fields_of
from .cases import Lessons
from .choice import decided
from .frames import Frames, frames_of, frames_of_scenes, habits_for
from .lesson import between, mean_of, taught, with_decoder
from .plan import SCENES, Plan
from .report import Findings
from .scoring import SHARES, Tried, dsc_of_others, tried

#: Of what is kept: another one is of another version, and done anew.
_WAY = 2
#: Cases whose images set the scales of the quantized network.
_CALIBRATED = 24
#: Shares of the whole in which its parts are told.
_DRAWN, _FOLDED, _LAST = 0.15, 0.85, 0.9


class Stopped(Exception):
    """The user stopped before there was anything to hand over; what is done is kept."""


@dataclass(frozen=True)
class Teaching:
    """A run of teaching.

    Attributes:
        lessons: the cases.
        model, network: what is started from, float and in evaluation mode.
        base: its name, for the card.
        plan: how much.
        work: folder for what is kept between runs.
        stopped: whether the user wants to stop.
    """

    lessons: Lessons
    model: CompactSAM
    network: NetworkConfig
    base: str
    plan: Plan
    work: Path
    stopped: Callable[[], bool]

    @property
    def habits(self) -> Habits:
        """Of drawing."""
        return habits_for(self.network)

    def prepare(self) -> None:
        """Make the folder; what it holds of other cases or settings is removed.

        Raises:
            QMedSAMError: it cannot be made, or is a folder of something else.
        """
        told = {
            "way": _WAY,
            "base": self.base,
            "weights": float(sum(p.double().abs().sum() for p in self.model.state_dict().values())),
            "cases": [[case.number, case.key] for case in self.lessons.cases],
            "frames": self.plan.frames,
            "lesson": asdict(self.plan.lesson),
        }
        path = self.work / "teaching.json"
        if self.work.exists() and not path.is_file() and (self.work.is_file() or any(self.work.iterdir())):
            raise QMedSAMError(f"'{self.work}' is there already and is not of a teaching.", "Give another folder with --work.")
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != told:
            shutil.rmtree(self.work)
        networks.make_folder(self.work)
        _write(path, told)

    def frames(self, tell: Tell) -> Tuple[Dict[int, Frames], Frames]:
        """Of every case by its number, and of generated scenes; from their files where they are there.

        Raises:
            Stopped: the user did.
        """
        found: Dict[int, Frames] = {}
        cases = self.lessons.cases
        for done, case in enumerate(cases):
            self._ask()
            tell(_DRAWN * done / (len(cases) + 1), f"Looking at case {done + 1} of {len(cases)}")
            path = self.work / f"case-{case.number}.frames"
            kept = Frames.read(path)
            if kept is None:
                count, seed = self.plan.frames, self.plan.lesson.seed
                kept = frames_of(case, self.model, self.habits, count, seed, self.work / "case.atlas")
                kept.save(path)
            found[case.number] = kept
        tell(_DRAWN * len(cases) / (len(cases) + 1), "Drawing scenes")
        return found, frames_of_scenes(self.model, self.habits, SCENES, self.plan.lesson.seed)

    def findings(self, frames: Dict[int, Frames], scenes: Frames, tell: Tell) -> Tuple[Findings, CompactSAM]:
        """What teaching is worth, and what is handed over.

        Every case is segmented by a network that was taught with the others. The mean of these networks, as far from the
        untaught one as the cases chose, is what is handed over: every case has a part in it.

        Raises:
            Stopped: the user did.
            QMedSAMError: not a single object could be scored.
        """
        rows: List[Tried] = []
        folds = self.lessons.folds()
        span = (_FOLDED - _DRAWN) / len(folds)
        for number, held in enumerate(folds, start=1):
            model = self._fold(number, held, frames, scenes, _within(tell, _DRAWN + (number - 1) * span, 0.7 * span))
            path = self.work / f"fold-{number}.json"
            if not path.is_file():
                about = _within(tell, _DRAWN + (number - 0.3) * span, 0.3 * span)
                _write(path, [asdict(row) for row in self._scored(number, held, model, about)])
            rows += [Tried(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        if not rows:
            raise QMedSAMError("Not one object of the cases that were held out could be scored.", "Check the segmentations.")
        share, found = decided(rows)
        result = between(self.model, self.all_the_way(), share or SHARES[-1])
        findings = Findings(found, len(folds), share, *dsc_of_others((self.model, result), self.habits))
        with writing(self.work / "report.md") as partial:
            partial.write_text(findings.markdown(), encoding="utf-8")
        return findings, result

    def all_the_way(self) -> CompactSAM:
        """The mean of the folds' networks, all of which are there."""
        files = [self.work / f"fold-{number}.pt" for number in range(1, len(self.lessons.folds()) + 1)]
        return mean_of([with_decoder(self.model, torch.load(path, weights_only=True)) for path in files])

    def _fold(self, number: int, held: set, frames: Dict[int, Frames], scenes: Frames, tell: Tell) -> CompactSAM:
        """The network that was taught with the cases of other patients; from its file where it is there."""
        path = self.work / f"fold-{number}.pt"
        with suppress(Exception):  # a damaged file brings out anything: the fold is learned again
            return with_decoder(self.model, torch.load(path, weights_only=True))
        steps = self.plan.lesson.steps
        inside = [frames[case.number] for case in self.lessons.cases if case.patient not in held]
        about = f"Fold {number} of {len(self.lessons.folds())}: learning from {len(inside)} cases"
        told = lambda step: tell(step / steps, f"{about}, step {step} of {steps}")  # noqa: E731
        model, done = taught(self.model, inside, scenes, self.plan.lesson, told, self.stopped)
        if done < steps:
            raise Stopped
        with writing(path) as partial:
            torch.save(model.mask_decoder.state_dict(), partial)
        return model

    def _scored(self, number: int, held: set, model: CompactSAM, tell: Tell) -> List[Tried]:
        """All objects of a fold's own cases, found by the candidates."""
        away = [case for case in self.lessons.cases if case.patient in held]
        candidates = [between(self.model, model, share) for share in SHARES]
        patients = {patient: n for n, patient in enumerate(dict.fromkeys(c.patient for c in self.lessons.cases), start=1)}
        rows: List[Tried] = []
        for n, case in enumerate(away):
            tell(n / len(away), f"Fold {number} of {len(self.lessons.folds())}: scoring case {n + 1} of {len(away)} others")
            self._ask()
            try:
                rows += tried(case, patients[case.patient], candidates, self.network.side, self.stopped)
            except Cancelled:
                raise Stopped from None
            except QMedSAMError:  # a case that a walk cannot do costs the others nothing
                continue
        return rows

    def hand_over(
        self, found: Findings, model: CompactSAM, frames: Dict[int, Frames], scenes: Frames, output: Path, tell: Tell
    ) -> None:
        """Quantize a network, export it, compare the runtimes, and put the model in its place.

        Raises:
            QMedSAMError: the model cannot be written, or the runtimes differ.
        """
        checkpoint = self.work / "taught.pt"
        networks.save(checkpoint, model, self.network)
        every = [frames[case.number] for case in self.lessons.cases]
        tell(_FOLDED, "Quantizing")
        how = QuantizationConfig()
        quantized, described = networks.post_training_quantized(checkpoint, how, _calibration(model, every, scenes))
        tell(_LAST, "Exporting")
        name = checked_name(output.resolve().name)
        fields = model_fields(described, name, **fields_of(self.lessons, found, self.base, self.plan))
        scratch = self.work / "model"
        write_model(scratch, quantized, fields, card_of(name, self.lessons, found, self.base, self.plan))
        tell(_LAST + 0.05, "Comparing with what was taught")
        for row in parity(quantized, scratch):
            if row.too_far:
                raise QMedSAMError(
                    f"The exported model computes something else than what was taught: {row}.", "It is not written."
                )
        check_replaceable(output)
        networks.make_folder(output.resolve().parent)
        if output.exists():
            shutil.rmtree(output)
        shutil.move(str(scratch), str(output))

    def clean(self) -> None:
        """Remove the frames: they are large, and drawn again when they are wanted."""
        for path in self.work.glob("*.frames"):
            path.unlink()

    def _ask(self) -> None:
        if self.stopped():
            raise Stopped


def work_folder(output: Path) -> Path:
    """Where a model's teaching keeps its parts, unless another folder is given."""
    return output.resolve().parent / f"{output.resolve().name}-teaching"


@torch.no_grad()
def _calibration(model: CompactSAM, cases: Sequence[Frames], scenes: Frames) -> Iterator[Tuple[Tensor, ...]]:
    """Images with what is asked of them, of cases spread evenly and of scenes; every other batch is corrected once."""
    spread = [cases[n] for n in sorted({round(i * (len(cases) - 1) / (_CALIBRATED - 1)) for i in range(_CALIBRATED)})]
    for number, frames in enumerate([*spread, scenes]):
        torch.manual_seed(number)
        rows = torch.arange(len(frames.image))
        image, prompts = frames.image.float(), prompts_of(frames.drawn(rows))
        hints = prompts.hints
        if number % 2 and model.hints:
            found = asked(model, model.encode(image), prompts.boxes, hints, prompts.kinds)[0][:, 0] > 0
            hints = corrected(hints, found, next_stroke(found, prompts.truth > 0.5))
        yield (image, prompts.boxes, rows, *((hints, prompts.kinds) if model.hints else ()))


def shipped_base(is_3d: bool) -> Path:
    """The weights that the shipped model was made of, in the source tree.

    Raises:
        QMedSAMError: they are not there.
    """
    path = Path(__file__).resolve().parents[2] / "checkpoints" / f"{'volume' if is_3d else 'compact'}-160.pt"
    if not path.is_file():
        raise QMedSAMError(f"The weights to start from, {path.name}, are not there.", "Name a checkpoint with --from.")
    return path


def _within(tell: Tell, begin: float, span: float) -> Tell:
    """What a part tells, as the share of the whole that it is."""
    return lambda share, text: tell(begin + share * span, text)


def _write(path: Path, values: Any) -> None:
    with writing(path) as partial:
        partial.write_text(json.dumps(values) + os.linesep, encoding="utf-8")
