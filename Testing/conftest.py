"""Settings of every test."""

from __future__ import annotations

import os

# Tests neither read nor leave compiled networks in the user's cache.
os.environ["QMEDSAM_CACHE"] = ""
