"""The mesh of devices, and how arrays get there and back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lottery_jax.system import host

PyTree = Any


def find_devices(devices: list[jax.Device] | None = None) -> list[jax.Device]:
    """The given devices, or all there are, of all processes.

    Raises:
        EnvironmentFault: there is no device of the kind that JAX_PLATFORMS asks for.
    """
    return host.devices() if devices is None else devices


def make_mesh(devices: list[jax.Device] | None = None, replica: int = 1) -> Mesh:
    """A mesh of the given devices (default: all) with the axes `replica` and `data`.

    Args:
        devices: over all processes.
        replica: size of that axis, a divisor of their number.

    Raises:
        ConfigError: there is no device of the kind that JAX_PLATFORMS asks for.
    """
    devices = find_devices(devices)
    shape, types = (replica, len(devices) // replica), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("replica", "data"), axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: state and data."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a replicate's batch: its first axis over `data`."""
    within = jax.sharding.get_abstract_mesh()  # where `replica` has been dealt with, another one
    return NamedSharding(mesh if within.empty else within, PartitionSpec("data"))


def to_mesh(mesh: Mesh, tree: PyTree, spec: PartitionSpec | None = None) -> PyTree:
    """A copy of the tree on the devices of the mesh: whole on each, or shared out by `spec`.

    A copy always: a donated argument of a compiled step must not take the caller's arrays with it.
    Where the devices are of several processes, each must have the same arrays, and looks at its
    own part of them only.
    """
    sharding = NamedSharding(mesh, PartitionSpec() if spec is None else spec)
    tree = jax.tree.map(np.array, tree)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), tree
    )


def to_host(tree: PyTree) -> PyTree:
    """The tree as NumPy arrays; all processes must ask for it, and all get it."""

    def whole(a: Any) -> Any:
        elsewhere = isinstance(a, jax.Array) and not (
            a.is_fully_addressable or a.is_fully_replicated
        )
        return multihost_utils.process_allgather(a, tiled=True) if elsewhere else a

    return jax.device_get(jax.tree.map(whole, tree))
