"""Types that the whole package shares."""

from __future__ import annotations

from typing import Any

PyTree = Any  # nested dicts, lists and tuples of arrays; JAX has no type of its own for it
