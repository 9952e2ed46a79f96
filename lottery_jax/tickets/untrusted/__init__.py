"""Checks of what a stranger made, before Orbax and PyTorch read it."""
