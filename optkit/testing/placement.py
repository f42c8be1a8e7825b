"""Points 7 and 8 of the contract: sharded parameters, and methods that communicate between workers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from optkit.core.workers.on_workers import on_workers, worker_axes
from optkit.core.workers.sharding import state_shardings
from optkit.testing import trees
from optkit.testing.case import SHARDED_STEPS, Case, compiled, require, rounding

SPECS = {"kernel": PartitionSpec("data", "model"), "bias": PartitionSpec("model"), "embedding": PartitionSpec("data")}


def initialises_abstractly(case: Case) -> None:
    """`jax.eval_shape(tx.init, abstract_params)` works and returns the types of what `init` returns."""
    params, state = (jax.eval_shape(lambda x: x, tree) for tree in case.reference.points[0])
    require(trees.type_differences(state, jax.eval_shape(case.init(case.build()), params), "state"))


def initialises_from_types(case: Case) -> None:
    """`tx.init`, called directly on `jax.ShapeDtypeStruct`, returns a state of the right types."""
    params = trees.abstract(trees.ORDINARY)
    tx = case.build()
    if case.axis_name is None:
        state = tx.init(params)
    else:
        state = case.per_worker(lambda _: tx.init(params))(jnp.arange(case.devices))
    expected = jax.eval_shape(case.init(tx), case.stack(params))
    require(trees.type_differences(expected, jax.eval_shape(lambda x: x, state), "state"))


def works_sharded_automatically(case: Case) -> None:
    """On parameters sharded over automatic mesh axes: the same numbers, and states sharded like their parameters."""
    if case.axis_name is not None or case.devices == 1:
        return
    mesh = _mesh(case, AxisType.Auto)
    params = _place(mesh, case.shardable(0))
    end, lines = _after_init_and_updates(case, params, "automatic axes")
    lines += _differences(case, end, "automatic axes")
    tx = case.build()
    state = compiled(tx.init, out_shardings=state_shardings(tx, params))(params)
    require(lines + _misplaced(params, state, "automatic axes, after jitted init with optkit.state_shardings"))


def works_sharded_explicitly(case: Case) -> None:
    """On parameters sharded over explicit mesh axes: the same numbers, and states sharded like their parameters."""
    if case.axis_name is not None or case.devices == 1:
        return
    mesh = _mesh(case, AxisType.Explicit)
    with jax.set_mesh(mesh):
        params = _place(mesh, case.shardable(0))
        jax.eval_shape(case.build().init, jax.eval_shape(lambda x: x, params))
        end, lines = _after_init_and_updates(case, params, "explicit axes")
        state = compiled(case.build().init)(params)
    lines += _differences(case, end, "explicit axes")
    require(lines + _misplaced(params, state, "explicit axes, after jitted init"))


def agrees_between_backends(case: Case) -> None:
    """A multi-worker method gives the same numbers under `vmap`, `pmap` and `shard_map`.

    Its state is mapped as `worker_axes` says: what is equal on all workers is stored once.
    """
    if case.axis_name is None or case.devices == 1:
        return
    tx = case.build()
    like = trees.abstract({name: (case.devices, *shape) for name, shape in trees.ORDINARY.items()})
    start = trees.normal(like, 0)
    step_of_one = case.step_of_one_worker(tx)

    def update(updates, state, params=None):
        return step_of_one(params, state, updates)

    axes = worker_axes(optax.GradientTransformation(tx.init, update), like, axis_name=case.axis_name)
    ends = {}
    for backend in ("vmap", "pmap", "shard_map"):
        init = on_workers(tx.init, axis_name=case.axis_name, out_axes=axes, backend=backend)
        step = on_workers(
            step_of_one, axis_name=case.axis_name, in_axes=(0, axes, 0), out_axes=(0, axes), backend=backend
        )
        params, state = start, init(start)
        for seed in range(1, 1 + SHARDED_STEPS):
            params, state = step(params, state, trees.normal(like, seed))
        ends[backend] = params, state
    expected = ends.pop("vmap")
    allowed = rounding((start, optax.tree.zeros_like(expected[1])), expected)
    lines = []
    for backend, end in ends.items():
        lines += trees.value_differences(expected, end, f"{backend} against vmap: parameters and state", allowed)
    require(lines)


def _mesh(case: Case, axis_type: AxisType) -> Mesh:
    model = 2 if case.devices % 2 == 0 else 1
    shape = case.devices // model, model
    return jax.make_mesh(
        shape, ("data", "model"), axis_types=(axis_type, axis_type), devices=jax.devices()[: case.devices]
    )


def _place(mesh: Mesh, params: Any) -> Any:
    return {name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name])) for name, leaf in params.items()}


def _after_init_and_updates(case: Case, params: Any, where: str) -> tuple[Any, list[str]]:
    """Takes steps on sharded parameters; returns the last ones, and lists state leaves that are placed elsewhere."""
    tx = case.build()
    state = tx.init(params)
    lines = _misplaced(params, state, f"{where}, after init")
    step = compiled(case.step(tx))
    end = params
    for seed in range(1, 1 + SHARDED_STEPS):
        gradients = jax.tree.map(lambda g, p: jax.device_put(g, p.sharding), case.shardable(seed), params)
        end, state = step(end, state, gradients)
    return end, lines + _misplaced(params, state, f"{where}, after update")


def _differences(case: Case, end: Any, where: str) -> list[str]:
    """Lists where sharded parameters differ from those after the same steps on one device."""
    start, expected = case.shardable(0), case.on_one_device
    return trees.value_differences(expected, end, f"{where}, against one device: parameters", rounding(start, expected))


def _misplaced(params: Any, state: Any, when: str) -> list[str]:
    """Lists state leaves that have the shape of a parameter but are sharded differently."""
    shardings = {leaf.shape: (name, leaf.sharding) for name, leaf in params.items()}
    lines = []
    for place, leaf in trees.flatten(state):
        name, sharding = shardings.get(np.shape(leaf), (None, None))
        if sharding is not None and not leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            lines.append(f"{when}: the state leaf {place} has {leaf.sharding}, its parameter {name} has {sharding}")
    return lines
