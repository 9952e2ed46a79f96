"""Data sets: a name becomes inputs (pixels, floats or tokens) and targets.

Sources, in order: `digits` from scikit-learn's wheel; `<data_dir>/<name>.npz`; data that
tensorflow-datasets has prepared; what it can prepare from archives or download (extra `tfds`).
What comes from tensorflow-datasets is kept as an npz, which the next run reads. Sets that are too
large for that stay as tensorflow-datasets has prepared them, and `open_stream` reads them.

    python -m lottery_jax.datasets list
    python -m lottery_jax.datasets from-idx /usr/share/datasets/fashion-mnist fashion_mnist
    python -m lottery_jax.datasets prepare cifar10
    python -m lottery_jax.datasets prepare imagenet2012
"""

from __future__ import annotations

from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.idx import from_idx
from lottery_jax.datasets.images import RESIZES
from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.datasets.npz import read_npz, write_npz
from lottery_jax.datasets.registry import BUILT_IN, Info
from lottery_jax.datasets.streams import Stream, open_stream

__all__ = [
    "BUILT_IN",
    "RESIZES",
    "Dataset",
    "Info",
    "Stream",
    "from_idx",
    "load_dataset",
    "open_stream",
    "read_npz",
    "write_npz",
]
