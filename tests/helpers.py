"""What several tests use: small configs, arrays and tickets, and comparisons to the bit."""

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from lottery_jax import tickets
from lottery_jax.config import default_config
from lottery_jax.curve import WINNING
from lottery_jax.models import abstract_variables, build_model, layer_names
from lottery_jax.pruning import masks
from lottery_jax.runs import directory
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.tickets import Ticket

ROOT = Path(__file__).parent.parent
# For programs that run for milliseconds and take seconds to compile.
COMPILE_QUICKLY = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
CONFIG_FILES = sorted((ROOT / "configs").glob("*.py"))


def load_config_file(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_tiny_config(model: str = "lenet_300_100", **overrides) -> ConfigDict:
    """A ladder on digits that trains each level for two short epochs."""
    c = default_config()
    c.model.name = model
    c.train.batch_size = 128
    c.train.epochs = 2
    c.train.checkpoint_every_epochs = 1
    c.ladder.levels = 2
    if model.startswith("vgg"):
        c.model.width = 0.05
        c.data.input_shape = (16, 16, 1)
    if model.startswith("resnet"):
        c.model.width = 0.25
    c.update_from_flattened_dict(overrides)
    return c


def quiet_console():
    return Console(quiet=True)


def run_quietly(config, workdir):
    """Run a ladder on one device; nothing is printed."""
    return run_ladder(config, workdir, devices=jax.devices()[:1], console=quiet_console())


def dead_pid():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def load_trained(workdir, seed, level, control=WINNING):
    return tickets.load_ticket(directory.Trial(workdir, seed, level, control).ticket_dir)


def pruned_values(mask, params):
    """All weights that the mask prunes, in one array."""
    pairs = zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True)
    return np.concatenate([np.asarray(p)[~np.asarray(m)] for m, p in pairs])


def assert_same(a, b):
    """Equal structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def synthetic_ticket(name, input_shape, density, classes=10, seed=0, data="digits", **options):
    """A ticket of random numbers, drawn with NumPy and so without compiling anything."""
    rng = np.random.default_rng(seed)
    model = {"name": name, "width": 1.0, "dtype": "float32", **options}
    built = build_model(num_classes=classes, **model)
    variables = abstract_variables(built, input_shape)

    def normal(tree):
        return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), tree)

    mask = masks.ones_like(variables["params"])
    for kernel in masks.kernels(mask).values():
        kernel[...] = False
        kernel.ravel()[rng.choice(kernel.size, round(density * kernel.size), replace=False)] = True
    start, trained = (
        jax.tree.map(lambda m, p: np.where(m, p, np.float32(0)), mask, normal(variables["params"]))
        for _ in range(2)
    )
    return Ticket(
        mask=mask,
        params=start,
        batch_stats=normal(variables["batch_stats"]),
        trained=trained,
        trained_batch_stats=normal(variables["batch_stats"]),
        metadata={
            "model": model,
            "num_classes": classes,
            "input_shape": list(input_shape),
            "layer_order": layer_names(built, input_shape),
            "data": data,
            "mean": [0.5] * input_shape[2],
            "std": [0.25] * input_shape[2],
        },
    )


def some_arrays(seed=0, n=20, shape=(6, 6, 1), classes=4):
    rng = np.random.default_rng(seed)

    def split(n):
        labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
        return rng.integers(0, 256, (n, *shape), dtype=np.uint8), labels.astype(np.int64)

    (x_train, y_train), (x_test, y_test) = split(n), split(n // 2)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, arrays, compress, *, axes=3, path="{name}", separator="-"):
    for split, stem in (("train", "train"), ("test", "t10k")):
        for letter, of, kind in (("x", "images", "idx3"), ("y", "labels", "idx1")):
            array = arrays[f"{letter}_{split}"]
            raw = idx(array[..., 0] if letter == "x" and axes == 3 else array)
            file = folder / path.format(name=f"{stem}-{of}{separator}{kind}-ubyte")
            file.parent.mkdir(exist_ok=True)
            if compress:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(raw))
            else:
                file.write_bytes(raw)
