"""Public checkpoints into our architectures, strictly by name, without running anything that a file may carry."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Tuple

import torch
from qmedsam import QMedSAMError
from torch import Tensor, nn

#: What to do about a file that is none.
WEIGHTS_ALONE = "Give the file of its training, or save its state_dict with torch.save."
#: What wrapping a module, or a part of one, puts into the names of its weights: DataParallel and torch.compile.
_WRAPPING = ("module", "_orig_mod")
#: How deep weights may lie within what a training script saved.
_DEEPEST = 4
_LOGGER = logging.getLogger(__name__)


class _Found(NamedTuple):
    """Weights in a file: where their dictionary lies, what leads their names, and how many of the wanted ones fit."""

    place: str
    prefix: str
    state: Mapping[str, Tensor]
    fitting: int

    @property
    def named(self) -> str:
        return ".".join(part for part in (self.place, self.prefix.rstrip(".")) if part)

    @property
    def rank(self) -> Tuple[int, bool, int]:
        """More that fits, then averaged weights (what was evaluated, as a rule), then what lies least deep."""
        return self.fitting, "ema" in self.named.lower(), -len(self.named)


def load_public(model: nn.Module, path: Path) -> str:
    """Load a checkpoint, in place.

    Weights are found wherever a training script put them: in a dictionary of any name, behind any common prefix
    (``model.``, ``net.``, ``teacher.``, ``ema_model.``), wrapped by DataParallel or ``torch.compile``. Where several would fit
    wholly, averaged ones (``ema``) are taken.

    Args:
        model: of the checkpoint's architecture, with the public names.
        path: ``.pth`` / ``.pt``.

    Returns:
        Where the weights were found, in a sentence that is also logged; empty for a bare state dict.

    Raises:
        QMedSAMError: not a checkpoint, names or shapes that do not fit, or weights that are no numbers, each said.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file brings out anything
        raise QMedSAMError(f"'{path.name}' could not be read as a checkpoint of weights alone.", WEIGHTS_ALONE) from error
    wanted = model.state_dict()
    places = list(_dictionaries(content))
    if not places:
        raise QMedSAMError(f"'{path.name}' is not a checkpoint of weights.", "It must hold a state_dict.")
    found = [one for place, tensors in places for one in _prefixed(place, tensors, wanted)]
    best = max(found, key=lambda one: one.rank)
    state = best.state
    missing, foreign = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or foreign:
        raise QMedSAMError(
            f"'{path.name}' does not fit the architecture: missing {_named(missing)}; foreign {_named(foreign)}.",
            "Choose the architecture that the checkpoint was made with.",
        )
    wrong = [
        f"{k} has the shape {tuple(state[k].shape)}, not {tuple(v.shape)}" for k, v in wanted.items() if state[k].shape != v.shape
    ]
    if wrong:
        raise QMedSAMError(f"'{path.name}' does not fit: {wrong[0]} (and {len(wrong) - 1} more).", "Choose its architecture.")
    check_finite(state, path)
    model.load_state_dict(state)
    if not best.named:
        return ""
    others = sorted({one.named for one in found if one.fitting == len(wanted) and one.named != best.named})
    text = f"'{path.name}': the weights were taken from '{best.named}'"
    text += f"; {', '.join(repr(name) for name in others)} would fit too." if others else "."
    _LOGGER.warning(text)
    return text


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are no numbers.

    Raises:
        QMedSAMError: some are not, with the first one's name.
    """
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise QMedSAMError(f"'{Path(path).name}' holds weights that are no numbers: {name}.", "Take an earlier checkpoint.")


def _dictionaries(content: Any, place: str = "", depth: int = 0) -> Iterator[Tuple[str, Dict[str, Tensor]]]:
    """Every dictionary of tensors in what was saved, and where it lies."""
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, inner in content.items():
        yield from _dictionaries(inner, f"{place}.{name}" if place else str(name), depth + 1)


def _prefixed(place: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> List[_Found]:
    """The same weights behind every prefix that leads to a wanted name; all of them, as they are, where none does."""
    bare = {".".join(part for part in name.split(".") if part not in _WRAPPING): value for name, value in tensors.items()}
    fitting: Counter = Counter()
    for name, value in bare.items():
        for start in [0, *(n + 1 for n, letter in enumerate(name) if letter == ".")]:
            goal = wanted.get(name[start:])
            if goal is not None:
                fitting[name[:start]] += goal.shape == value.shape
    found = []
    for prefix, count in (fitting or Counter({"": 0})).items():
        state = {name[len(prefix) :]: value for name, value in bare.items() if name.startswith(prefix)}
        found.append(_Found(place, prefix, state, count))
    return found


def _named(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"
