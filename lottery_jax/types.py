"""Types that several rooms name."""

from typing import Any

PyTree = Any
