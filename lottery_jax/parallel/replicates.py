"""Replicates that train side by side: a leading axis over pure functions, on a mesh.

The mesh has two axes: each place on `replica` trains replicates of its own, and each batch is
sharded over `data`. `choose_layout` decides once for a run how many devices share a batch and how
many replicates are stacked; a stack that is not full repeats its last replicate. So a replicate's
numbers do not depend on the others that train beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lottery_jax.parallel.mesh import to_mesh
from lottery_jax.types import PyTree

REPLICA_SPEC = PartitionSpec("replica")  # for arrays with a leading axis over replicates


class Layout(NamedTuple):
    """The placement of replicates on the devices.

    Attributes:
        replica_axis_size: the size of the mesh's axis `replica`.
        stack_size: the number of replicates that train together, a multiple of that size.
        vmapped: whether replicates on the same place of `replica` are computed by `jax.vmap`; if
            not, one after another.
    """

    replica_axis_size: int
    stack_size: int
    vmapped: bool


def choose_layout(
    replicates: int, devices: int, platform: str, *, fully_connected: bool, max_stacked: int = 0
) -> Layout:
    """Return the layout that `benchmarks/replicates.py` found to be fastest, within the limit.

    A fully connected network is too small for a device, so all its replicates train together. On
    accelerators they train by `vmap`. On CPU each trains on a device (a core) of its own, since
    `vmap` gains little there and sharing a batch costs more than it gains. A convolution under
    `vmap` becomes a grouped one, which is slow, so networks with convolutions train together only
    if each has a device. With a limit, as many of them as it allows are stacked; those that share a
    device are computed one after another.

    Args:
        replicates: the number of seeds.
        devices: the number of devices.
        platform: `cpu`, `gpu` or `tpu`.
        fully_connected: whether the network has no convolution.
        max_stacked: the largest number of replicates that train together; 0 for no limit.

    >>> choose_layout(8, 2, "cpu", fully_connected=True)
    Layout(replica_axis_size=2, stack_size=8, vmapped=False)
    >>> choose_layout(6, 8, "gpu", fully_connected=False)  # three times two, each on four devices
    Layout(replica_axis_size=2, stack_size=2, vmapped=False)
    >>> choose_layout(6, 1, "gpu", fully_connected=False)  # one after another
    Layout(replica_axis_size=1, stack_size=1, vmapped=False)
    """
    most = min(replicates, max_stacked or replicates)
    sizes = [r for r in range(1, min(most, devices) + 1) if devices % r == 0]
    if fully_connected and platform == "cpu":
        replica = max(sizes)
        return Layout(replica, _round_up(most, replica, max_stacked) if replica > 1 else 1, False)
    # First, fill the last round with as few repetitions as possible; then use as few devices for
    # each replicate as possible, which saves communication.
    replica = min(sizes, key=lambda r: (-(-replicates // r) * r, -r))
    stack_size = (
        _round_up(most, replica, max_stacked) if fully_connected or max_stacked else replica
    )
    return Layout(replica, stack_size, fully_connected and stack_size > 1)


def _round_up(count: int, multiple: int, limit: int) -> int:
    """Return `count` rounded up to a multiple; the multiple below if that exceeds a limit not 0."""
    above = -(-count // multiple) * multiple
    return above if not limit or above <= limit else above - multiple


def cpu_devices(replicates: int, cores: int, *, fully_connected: bool, max_stacked: int = 0) -> int:
    """Return the number of devices that a CPU should be split into for `choose_layout`.

    >>> cpu_devices(8, 2, fully_connected=True), cpu_devices(8, 2, fully_connected=False)
    (2, 1)
    """
    return min(replicates, cores, max_stacked or cores) if fully_connected else 1


def map_replicates(
    function: Callable[..., PyTree], mesh: Mesh, shared: Sequence[int], *, vmapped: bool
) -> Callable[..., PyTree]:
    """Return a function of one replicate as a function of many.

    Args:
        function: from arrays to a tree of arrays.
        mesh: from `parallel.mesh.make_mesh`.
        shared: the positions of arguments that all replicates share. The other arguments, and the
            result, get a leading axis whose size is a multiple of the mesh's `replica`.
        vmapped: as in `Layout`.
    """

    def local(*args: PyTree) -> PyTree:
        stacked = [arg for i, arg in enumerate(args) if i not in shared]

        def one(unstacked: list[PyTree]) -> PyTree:
            rest = iter(unstacked)
            return function(*(arg if i in shared else next(rest) for i, arg in enumerate(args)))

        if jax.tree.leaves(stacked)[0].shape[0] == 1:
            return jax.tree.map(lambda a: a[None], one(jax.tree.map(lambda a: a[0], stacked)))
        return jax.vmap(one)(stacked) if vmapped else jax.lax.map(one, stacked)

    if mesh.shape["replica"] == 1:
        return local

    def sharded(*args: PyTree) -> PyTree:
        specs = tuple(PartitionSpec() if i in shared else REPLICA_SPEC for i in range(len(args)))
        return jax.shard_map(
            local,
            mesh=mesh,
            axis_names={"replica"},
            in_specs=specs,
            out_specs=REPLICA_SPEC,
            check_vma=False,
        )(*args)

    return sharded


def stack(trees: Sequence[PyTree], size: int) -> PyTree:
    """Return the trees of several replicates as one of NumPy arrays with a new leading axis.

    The last replicate is repeated until the axis has `size` entries. With size 1 there is no new
    axis, and the tree stays as it is.

    Args:
        trees: of the same structure and shapes.
        size: `Layout.stack_size`.
    """
    if size == 1:
        return trees[0]
    filled = [*trees, *[trees[-1]] * (size - len(trees))]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *filled)


def stack_to_mesh(mesh: Mesh, trees: Sequence[PyTree], size: int) -> PyTree:
    """Return `stack` on the devices, a copy."""
    return to_mesh(mesh, stack(trees, size), None if size == 1 else REPLICA_SPEC)


def stack_keys(keys: Sequence[jax.Array], size: int) -> jax.Array:
    """Return typed PRNG keys stacked as `stack` does."""
    data = stack([jax.random.key_data(key) for key in keys], size)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys[0]))


def unstack(tree: PyTree, count: int, size: int) -> list[PyTree]:
    """Return the trees of the first `count` replicates of a stacked tree of NumPy arrays."""
    if size == 1:
        return [tree]
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(count)]
