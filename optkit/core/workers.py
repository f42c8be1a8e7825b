"""Maps one worker's step over all workers: simulated on one device, or with a device each, on one host or many."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Backend = Literal["auto", "vmap", "pmap", "shard_map"]


def on_workers(
    step: Callable[..., Any],
    *,
    axis_name: str,
    in_axes: Any = 0,
    out_axes: Any = 0,
    backend: Backend = "auto",
) -> Callable[..., Any]:
    """Runs a step that is written for one worker on all of them, joined by a named axis.

    The step sees its own worker's values, without the axis of workers, and talks to the others by collectives over
    `axis_name` (`jax.lax.pmean`, `ppermute`, `all_gather` ...). Every backend gives the same numbers, gradients of
    collectives included: a gradient taken inside the step is this worker's alone, to be averaged with `pmean`.

    The mapped step is compiled, once for all calls with the same shapes. To donate buffers, or to scan over many
    steps, call it inside a `jax.jit` of your own. As in `jax.vmap`, arguments are arrays or trees of them; what is
    static belongs into the step's closure. The backends with devices make their own mesh and refuse to run inside
    `jax.set_mesh`.

    A counter that decides whether the workers talk must be equal on all (None in `in_axes`): then a `jax.lax.cond` on
    it stays a branch. One counter per worker makes the simulation run both branches every time.

    **Several hosts.** Every host runs the same program, calls `jax.distributed.initialize` first, and passes global
    arrays, one row for each device of all hosts, which it makes from its own rows. When a host fails, JAX ends the
    others after `heartbeat_timeout_seconds` (100) and waits `shutdown_timeout_seconds` (300) at the end: lower both to
    hear of it within a minute::

        jax.distributed.initialize()
        mesh = jax.make_mesh((jax.device_count(),), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
        per_worker = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("workers"))
        batch = jax.make_array_from_process_local_data(per_worker, rows_of_this_host)

    What is equal on all workers (None) may be an ordinary array, with the same value on every host. With
    `backend="pmap"` each host passes its own rows instead, as many as it has devices, and gets its own rows back.

    Args:
        step: takes one worker's arguments, positional only, and returns one worker's results: any trees of arrays.
        axis_name: the name of the axis over workers, for the collectives inside `step`.
        in_axes: a prefix tree of the arguments, as for `jax.vmap`: 0 where a value has a leading axis with one entry
            for each worker, None where it is equal on all workers.
        out_axes: the same for the results. A result declared None must be equal on all workers by construction (the
            result of `pmean` or `all_gather`, say, or computed from equal values alone).
        backend: "vmap" simulates all workers on one device; "pmap" and "shard_map" give each worker a device, the first
            ones of `jax.devices()`; "auto" is "shard_map" over several hosts and where there are at least as many
            devices as workers, and "vmap" otherwise.

    Returns:
        The step over all workers, of stacked arguments to stacked results. It raises a `ValueError` where the
        arguments' leading axes disagree, where workers outnumber the devices, where a result that differs between
        workers is declared equal, inside a mesh, and for "vmap" over several hosts.

    Raises:
        ValueError: if `backend` is unknown or an axis is neither 0 nor None.
        TypeError: if `in_axes` is neither 0 nor None nor a tuple with an entry for each argument.

    Example:
        Four workers descend on their own data and average their gradients; parameters stay equal on all.

        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> def step(params, targets):
        ...     grads = jax.grad(lambda p: jnp.mean((p - targets) ** 2))(params)
        ...     return params - 0.5 * jax.lax.pmean(grads, "workers")
        >>> targets = jnp.array([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0], [4.0, 4.0]])
        >>> step = optkit.on_workers(step, axis_name="workers", in_axes=(None, 0), out_axes=None)
        >>> float(step(jnp.float32(0.0), targets))
        2.0
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    for name, axes in (("in_axes", in_axes), ("out_axes", out_axes)):
        if any(type(axis) is not int or axis != 0 for axis in jax.tree.leaves(axes)):
            raise ValueError(
                f"{name} must be a prefix tree of 0 (per worker) and None (equal on all workers), got {axes!r}"
            )
    mapping = _Mapping(step, axis_name, in_axes, out_axes)
    check = _check_of_results(mapping)

    @functools.cache
    def build(backend, workers):
        return {"vmap": _by_vmap, "pmap": _by_pmap, "shard_map": _by_shard_map}[backend](mapping, check, workers)

    @functools.wraps(step)
    def over_workers(*args):
        rows = _count_rows(in_axes, args)
        chosen = _choose(backend, rows)
        return build(chosen, jax.device_count() if jax.process_count() > 1 else rows)(*args)

    return over_workers


class _Mapping(NamedTuple):
    """A step and how it is mapped: the arguments of `on_workers`."""

    step: Callable[..., Any]
    axis_name: str
    in_axes: Any
    out_axes: Any

    def vmap(self) -> Callable[..., Any]:
        return jax.vmap(self.step, self.in_axes, self.out_axes, axis_name=self.axis_name)


Check = Callable[[tuple[Any, ...], int], None]


def _check_of_results(mapping: _Mapping) -> Check:
    """Makes the check that results declared equal are equal, of arguments and the number of workers.

    `pmap` and `shard_map` would silently return worker 0's value for one that is not.
    """

    def step(*args):
        results = mapping.step(*args)
        axes = _broadcast("out_axes", mapping.out_axes, results)
        return jax.tree.map_with_path(_refuse_if_per_worker, axes, results, is_leaf=_is_none)

    marked = jax.jit(mapping._replace(step=step, out_axes=0).vmap())

    def check(args, workers):
        # Shapes without shardings: the arguments may lie on any mesh, and pmap's have the rows of one host only.
        def of_all_workers(axis, x):
            aval = jax.typeof(x)
            shape = aval.shape if axis is None else (workers, *aval.shape[1:])
            return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=aval.weak_type)

        jax.eval_shape(marked, *_map_with_axes(of_all_workers, "in_axes", mapping.in_axes, args))

    return check


def _by_vmap(mapping: _Mapping, check: Check, workers: int) -> Callable[..., Any]:
    """Simulates all workers on one device."""
    simulated = mapping.vmap()

    @jax.jit
    def program(*args):
        check(args, workers)
        return simulated(*args)

    return program


def _by_pmap(mapping: _Mapping, check: Check, workers: int) -> Callable[..., Any]:
    """Gives each worker a device."""
    step, axis_name, in_axes, out_axes = mapping
    mesh = _mesh(axis_name, workers)
    shardings = _shardings(mesh, in_axes)
    mapped = jax.pmap(step, axis_name, in_axes=in_axes, out_axes=out_axes, devices=list(mesh.devices.flat))

    def program(*args):
        check(args, workers)
        return mapped(*(args if jax.process_count() > 1 else _place(shardings, args)))

    return program


def _by_shard_map(mapping: _Mapping, check: Check, workers: int) -> Callable[..., Any]:
    """Gives each worker a device, whichever host it belongs to."""
    step, axis_name, in_axes, out_axes = mapping
    mesh = _mesh(axis_name, workers)
    shardings = _shardings(mesh, in_axes)

    def one_worker(*args):
        def own(axis, x):
            return x if axis is None else jax.lax.squeeze(x, (0,))

        def row(axis, x):
            return x if axis is None else jax.lax.expand_dims(x, (0,))

        results = step(*_map_with_axes(own, "in_axes", in_axes, args))
        return _map_with_axes(row, "out_axes", out_axes, results)

    # Without JAX's own check of what varies: it cannot see that the result of all_gather is equal on all workers, and
    # it gives collectives other gradients than vmap and pmap do.
    in_specs, out_specs = _specs(axis_name, in_axes), _specs(axis_name, out_axes)
    mapped = jax.shard_map(one_worker, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    @jax.jit
    def program(*args):
        check(args, workers)
        return mapped(*args)

    return lambda *args: program(*_place(shardings, args))


def _choose(backend: Backend, rows: int) -> Backend:
    """Resolves "auto", and raises where the backend cannot run as many workers."""
    processes, devices = jax.process_count(), jax.device_count()
    if backend == "auto":
        backend = "shard_map" if processes > 1 or rows <= devices else "vmap"
    if backend == "vmap":
        if processes > 1:
            raise ValueError(
                f"backend='vmap' simulates all workers in one process, but {processes} processes are joined by"
                " jax.distributed: use 'shard_map' or 'pmap'"
            )
        return backend
    if not jax.sharding.get_abstract_mesh().empty:
        raise ValueError(
            f"backend={backend!r} makes its own mesh: call the step outside jax.set_mesh and jax.shard_map, or simulate"
            " with backend='vmap'"
        )
    if processes > 1:
        expected = devices if backend == "shard_map" else jax.local_device_count()
        if rows != expected:
            whose = "all hosts' devices, global arrays" if backend == "shard_map" else "this host's devices"
            raise ValueError(
                f"over several hosts, backend={backend!r} takes {expected} rows (one for each of {whose}), got {rows};"
                " jax.make_array_from_process_local_data makes global arrays of each host's rows"
            )
    elif rows > devices:
        raise ValueError(
            f"backend={backend!r} needs a device for each worker, but there are {rows} workers and {devices} devices:"
            f" simulate with backend='vmap', or set XLA_FLAGS=--xla_force_host_platform_device_count={rows} before JAX"
            " starts to have as many CPU devices"
        )
    return backend


def _count_rows(in_axes: Any, args: tuple[Any, ...]) -> int:
    """Finds the size of the leading axes, which must agree."""
    axes = jax.tree.leaves(_broadcast("in_axes", in_axes, args), is_leaf=_is_none)
    leaves = jax.tree.leaves_with_path(args, is_leaf=_is_none)
    shapes = {path: jax.numpy.shape(x) for (path, x), axis in zip(leaves, axes, strict=True) if axis is not None}
    sizes = {shape[:1] for shape in shapes.values()}
    if not sizes:
        raise ValueError(f"the number of workers is unknown: no array among the arguments is per worker, {in_axes=}")
    if len(sizes) > 1 or () in sizes:
        found = ", ".join(f"args{jax.tree_util.keystr(path)} of shape {shape}" for path, shape in shapes.items())
        raise ValueError(
            f"arguments with in_axes 0 need a leading axis of the same size, one row a worker, got {found}"
        )
    ((rows,),) = sizes
    return rows


def _refuse_if_per_worker(path, axis, result):
    """Is the identity under `vmap`, and raises for a result that is batched but declared equal on all workers."""
    if axis is not None or result is None:
        return result

    @jax.custom_batching.custom_vmap
    def identity(x):
        return x

    @identity.def_vmap
    def _refuse(axis_size, in_batched, x):
        del axis_size, in_batched, x  # never called for values that are not batched
        raise ValueError(
            f"the step's result{jax.tree_util.keystr(path)} is declared equal on all workers (out_axes None) but"
            " differs between them: declare it per worker (0), or make it equal by pmean, psum or all_gather"
        )

    return identity(result)


def _place(shardings: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Puts arrays where the workers are.

    Otherwise those that are bound to other devices, such as restored ones, would be refused, and all others would
    compile the step twice: on the first call, and on the second with results of the first.
    """

    def place(sharding, x):
        if isinstance(x, Tracer) or not hasattr(x, "dtype"):
            return x
        if isinstance(x, jax.Array):
            found = x.sharding
            same_mesh = isinstance(found, NamedSharding) and found.mesh == sharding.mesh
            if same_mesh and found.is_equivalent_to(sharding, x.ndim):
                return x
        if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, sharding)
        # Equal on all hosts: device_put would compare it across them on every call. What is made here has no weak
        # type; arrays that have one are left to jit.
        return x if jax.typeof(x).weak_type else jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

    return jax.tree.map(place, jax.tree.broadcast(shardings, args), args)


def _mesh(axis_name: str, workers: int) -> Mesh:
    """Lays the first devices out along the axis of workers, in the order of the user's own mesh over all of them."""
    return jax.make_mesh((workers,), (axis_name,), axis_types=(AxisType.Auto,), devices=jax.devices()[:workers])


def _shardings(mesh: Mesh, axes: Any) -> Any:
    """Translates axes into shardings."""
    (axis_name,) = mesh.axis_names
    specs = _specs(axis_name, axes)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _specs(axis_name: str, axes: Any) -> Any:
    """Translates axes into partition specs."""
    return jax.tree.map(lambda a: PartitionSpec() if a is None else PartitionSpec(axis_name), axes, is_leaf=_is_none)


def _map_with_axes(f: Callable[[Any, Any], Any], name: str, axes: Any, tree: Any) -> Any:
    """Applies `f(axis, leaf)` to all leaves."""
    full = _broadcast(name, axes, tree)
    return jax.tree.map(lambda axis, x: None if x is None else f(axis, x), full, tree, is_leaf=_is_none)


def _broadcast(name: str, axes: Any, tree: Any) -> Any:
    """Gives every leaf of a tree its axis."""
    try:
        return jax.tree.broadcast(axes, tree, is_leaf=_is_none)
    except ValueError as error:
        raise ValueError(f"{name} must be a prefix tree of what it describes: {error}") from None


def _is_none(x: Any) -> bool:
    return x is None
