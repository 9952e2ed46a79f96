"""Replicates that train side by side: a leading axis over pure functions, on a mesh.

The mesh has two axes: each place on `replica` trains its own replicates, each batch is shared out
over `data`. How many devices share a batch and how many replicates are stacked is settled once for
a run (`choose_layout`); where some are missing, one is repeated. So what a replicate computes does
not depend on which others are trained beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lottery_jax.parallel.mesh import to_mesh

PyTree = Any

REPLICA_SPEC = PartitionSpec("replica")  # of what each replicate has for itself


class Layout(NamedTuple):
    """How replicates are laid out.

    Attributes:
        replica: size of the mesh's axis of that name.
        stack_size: how many replicates are trained together, a multiple of `replica`.
        vmapped: whether those on the same place of `replica` are computed by `jax.vmap`, and not
            one after another.
    """

    replica: int
    stack_size: int
    vmapped: bool


def choose_layout(
    replicates: int, devices: int, platform: str, *, dense: bool, max_stacked: int = 0
) -> Layout:
    """What `benchmarks/replicates.py` found to be fastest, or what is asked for.

    A network of dense layers alone is too small for a device: all replicates are trained together,
    on CPU each on a device (a core) of its own, where `vmap` gains little and sharing a batch
    costs more than it gives; on accelerators by `vmap`. A convolution under `vmap` becomes a
    grouped one, which is slow: such networks are trained together only as far as there are devices
    for them, and otherwise one after another.

    Args:
        replicates: the number of seeds.
        devices: how many there are.
        platform: `cpu`, `gpu` or `tpu`.
        dense: whether the network has no convolution.
        max_stacked: 0 for the choice above; 1 for one after another; n for n at most.

    >>> choose_layout(8, 2, "cpu", dense=True)
    Layout(replica=2, stack_size=8, vmapped=False)
    >>> choose_layout(6, 8, "gpu", dense=False)  # three times two, each on four devices
    Layout(replica=2, stack_size=2, vmapped=False)
    >>> choose_layout(6, 1, "gpu", dense=False)  # one after another
    Layout(replica=1, stack_size=1, vmapped=False)
    """
    most = min(replicates, max_stacked or replicates)
    sizes = [r for r in range(1, min(most, devices) + 1) if devices % r == 0]
    if dense and platform == "cpu":
        replica = max(sizes)
        return Layout(replica, _round_up(most, replica, max_stacked) if replica > 1 else 1, False)
    # As little as possible is computed twice to fill up the last round; then the fewest devices a
    # replicate, which spares communication.
    replica = min(sizes, key=lambda r: (-(-replicates // r) * r, -r))
    stack_size = _round_up(most, replica, max_stacked) if dense or max_stacked else replica
    return Layout(replica, stack_size, dense and stack_size > 1)


def _round_up(count: int, multiple: int, limit: int) -> int:
    """`count` as a multiple; the one below if it would be beyond a limit other than 0."""
    above = -(-count // multiple) * multiple
    return above if not limit or above <= limit else above - multiple


def cpu_devices(replicates: int, cores: int, *, dense: bool, max_stacked: int = 0) -> int:
    """How many devices a CPU should be, for `choose_layout` to put replicates on: one, or its cores.

    >>> cpu_devices(8, 2, dense=True), cpu_devices(8, 2, dense=False)
    (2, 1)
    """
    return min(replicates, cores, max_stacked or cores) if dense else 1


def map_replicates(
    function: Callable[..., PyTree], mesh: Mesh, shared: Sequence[int], *, vmapped: bool
) -> Callable[..., PyTree]:
    """A function of one replicate as one of many.

    Args:
        function: of arrays, to a tree of arrays.
        mesh: of `parallel.mesh.make_mesh`.
        shared: positions of the arguments that all replicates share. The others, and the result,
            get a leading axis, of a multiple of the mesh's `replica`.
        vmapped: as in `Layout`.
    """

    def local(*args: PyTree) -> PyTree:
        own = [arg for i, arg in enumerate(args) if i not in shared]

        def one(own: list[PyTree]) -> PyTree:
            rest = iter(own)
            return function(*(arg if i in shared else next(rest) for i, arg in enumerate(args)))

        if jax.tree.leaves(own)[0].shape[0] == 1:
            return jax.tree.map(lambda a: a[None], one(jax.tree.map(lambda a: a[0], own)))
        return jax.vmap(one)(own) if vmapped else jax.lax.map(one, own)

    if mesh.shape["replica"] == 1:
        return local

    def spread(*args: PyTree) -> PyTree:
        specs = tuple(PartitionSpec() if i in shared else REPLICA_SPEC for i in range(len(args)))
        return jax.shard_map(
            local,
            mesh=mesh,
            axis_names={"replica"},
            in_specs=specs,
            out_specs=REPLICA_SPEC,
            check_vma=False,
        )(*args)

    return spread


def stack(trees: Sequence[PyTree], size: int) -> PyTree:
    """The trees of several replicates as one of NumPy arrays with a new leading axis of `size`.

    The last replicate is repeated to fill it up. Where the size is 1, the tree stays as it is.

    Args:
        trees: of the same structure and shapes.
        size: `Layout.stack_size`.
    """
    if size == 1:
        return trees[0]
    filled = [*trees, *[trees[-1]] * (size - len(trees))]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *filled)


def stack_to_mesh(mesh: Mesh, trees: Sequence[PyTree], size: int) -> PyTree:
    """`stack`, on the devices: a copy."""
    return to_mesh(mesh, stack(trees, size), None if size == 1 else REPLICA_SPEC)


def stack_keys(keys: Sequence[jax.Array], size: int) -> jax.Array:
    """`stack` for typed PRNG keys."""
    data = stack([jax.random.key_data(key) for key in keys], size)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys[0]))


def unstack(tree: PyTree, count: int, size: int) -> list[PyTree]:
    """The trees of the first `count` replicates of a tree of NumPy arrays (`mesh.to_host`)."""
    if size == 1:
        return [tree]

    def of(replicate: int) -> PyTree:
        return jax.tree.map(lambda a: a[replicate], tree)

    return [of(replicate) for replicate in range(count)]
