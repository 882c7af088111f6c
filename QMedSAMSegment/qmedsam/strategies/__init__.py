"""How a box's prompts walk through the slices.

Every strategy gets items (a box, the view it is sliced in, where its masks go) and ``rounds``, which groups them by the
frame that they share. What all keep to: a slice belongs to a box when its centre plane cuts the box, the prompt on it
never exceeds the rectangle of that cut, and no voxel outside the box is ever written.
"""

from __future__ import annotations

from typing import Dict

from .items import Item, Options, Rounds, SliceMask, Strategy
from .propagation import propagate
from .side_by_side import Tick
from .slicewise import fixed
from .voting import vote

STRATEGIES: Dict[str, Strategy] = {"fixed": fixed, "propagate": propagate, "vote": vote}

__all__ = ["STRATEGIES", "Item", "Options", "Rounds", "SliceMask", "Strategy", "Tick", "fixed", "propagate", "vote"]
