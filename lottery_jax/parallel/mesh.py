"""The mesh of devices, and how arrays get to the devices and back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lottery_jax.system import host
from lottery_jax.types import PyTree


def find_devices(devices: list[jax.Device] | None = None) -> list[jax.Device]:
    """Return the given devices; by default, all devices of all processes.

    Raises:
        EnvironmentFault: there is no device of the kind that JAX_PLATFORMS asks for.
    """
    return host.devices() if devices is None else devices


def make_mesh(devices: list[jax.Device] | None = None, replica: int = 1) -> Mesh:
    """Return a mesh with the axes `replica` and `data`.

    Args:
        devices: of all processes; by default, all.
        replica: the size of that axis, a divisor of the number of devices.

    Raises:
        EnvironmentFault: there is no device of the kind that JAX_PLATFORMS asks for.
    """
    devices = find_devices(devices)
    shape, types = (replica, len(devices) // replica), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("replica", "data"), axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole: state and data."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a replicate's batch: its first axis over `data`."""
    inner = jax.sharding.get_abstract_mesh()  # within `shard_map` over `replica`, another mesh
    return NamedSharding(mesh if inner.empty else inner, PartitionSpec("data"))


def to_mesh(mesh: Mesh, tree: PyTree, spec: PartitionSpec | None = None) -> PyTree:
    """Return a copy of the tree on the devices of the mesh: whole on each, or sharded by `spec`.

    It is always a copy: a compiled step that donates its arguments must not delete the caller's
    arrays. If the devices belong to several processes, all must pass the same arrays, and each
    reads its own part of them.
    """
    sharding = NamedSharding(mesh, PartitionSpec() if spec is None else spec)
    tree = jax.tree.map(np.array, tree)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), tree
    )


def keys_to_mesh(mesh: Mesh, keys: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
    """Return `to_mesh` of typed PRNG keys."""
    data = to_mesh(mesh, jax.random.key_data(keys), spec)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def to_host(tree: PyTree) -> PyTree:
    """Return the tree as NumPy arrays; all processes must call this together."""

    def whole(a: Any) -> Any:
        is_spread = isinstance(a, jax.Array) and not (
            a.is_fully_addressable or a.is_fully_replicated
        )
        return multihost_utils.process_allgather(a, tiled=True) if is_spread else a

    return jax.device_get(jax.tree.map(whole, tree))
