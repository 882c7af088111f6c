"""How good a model is: labelled cases, scores, tables."""

from __future__ import annotations
