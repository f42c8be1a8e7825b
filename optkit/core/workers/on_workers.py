"""Maps one worker's step over all workers: simulated on one device, or with one device each, on one host or many.

`worker_axes` finds which parts of an optimizer's state are equal on all workers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr

from optkit.core.extra_args import EXTRA_ARGS, split_functions
from optkit.core.types import AxisName

Backend = Literal["auto", "vmap", "pmap", "shard_map"]


def on_workers(
    step: Callable[..., Any],
    *,
    axis_name: AxisName,
    in_axes: Any = 0,
    out_axes: Any = 0,
    backend: Backend = "auto",
) -> Callable[..., Any]:
    """Runs a step that is written for one worker on all workers, over a named axis.

    The step receives the values of its own worker, without the axis over workers, and communicates with the others by
    collectives over `axis_name` (`jax.lax.pmean`, `ppermute`, `all_gather` and so on). Every backend computes the same
    numbers, also for gradients of collectives: a gradient taken inside the step is that of this worker alone, to be
    averaged with `pmean`.

    Use it to write a data-parallel or decentralized step once, to simulate it on one device, and to run it on many.
    Avoid it inside a mesh: the backends with devices make their own and refuse to run inside `jax.set_mesh`.

    The mapped step is compiled once for all calls with the same shapes. To donate buffers, or to scan over many steps,
    call it inside your own `jax.jit`. As in `jax.vmap`, arguments are arrays or trees of arrays; static values belong
    in the closure of the step.

    A counter that decides whether workers communicate must be equal on all of them (None in `in_axes`). A
    `jax.lax.cond` on it then stays a branch. With one counter per worker, the simulation runs both branches in every
    step. `worker_axes` returns the `in_axes` and `out_axes` for an optimizer's state.

    **Several hosts.** Every host runs the same program, calls `jax.distributed.initialize` first, and passes global
    arrays, with one row for each device of all hosts, which it makes from its own rows. If a host fails, JAX ends the
    others after `heartbeat_timeout_seconds` (100) and waits for `shutdown_timeout_seconds` (300) at the end. Lower both
    to learn of the failure within a minute::

        jax.distributed.initialize()
        mesh = jax.make_mesh((jax.device_count(),), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
        per_worker = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("workers"))
        batch = jax.make_array_from_process_local_data(per_worker, rows_of_this_host)

    A value that is equal on all workers (None) may be an ordinary array with the same content on every host. With
    `backend="pmap"`, each host passes its own rows instead, as many as it has devices, and receives its own rows.

    Args:
        step: A function from one worker's arguments, positional only, to one worker's results: any trees of arrays.
        axis_name: Name of the axis over workers. The collectives inside `step` use it.
        in_axes: A prefix tree of the arguments, as for `jax.vmap`: 0 for a value with a leading axis of one entry per
            worker, None for a value that is equal on all workers. Default: 0.
        out_axes: The same for the results. A result that is declared None must be equal on all workers by construction:
            the result of `pmean` or `all_gather`, for example, or computed from equal values alone. Default: 0.
        backend: "vmap" simulates all workers on one device. "pmap" and "shard_map" give each worker a device, the first
            ones of `jax.devices()`. "auto" is "shard_map" on several hosts, or if there are at least as many devices as
            workers, and "vmap" otherwise. Default: "auto".

    Returns:
        The step over all workers, from stacked arguments to stacked results. It raises a `ValueError` if the leading
        axes of the arguments disagree, if there are more workers than devices, if a result that differs between workers
        is declared equal, if it is called inside a mesh, or if "vmap" is used on several hosts.

    Raises:
        ValueError: If `axis_name` is not a single name, `backend` is unknown, or an axis is neither 0 nor None.
        TypeError: If `in_axes` is not 0, None, or a tuple with one entry per argument.

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
    check_axis_name(axis_name)
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


def worker_axes(
    tx: optax.GradientTransformation, params: optax.Params, *, axis_name: AxisName, **extra_args: Any
) -> Any:
    """Finds which leaves of an optimizer's state differ between workers and which are equal on all, without running it.

    It traces `update` on parameters and gradients that differ between workers until nothing changes: a leaf that is
    equal after `init` may differ after one update, and what is computed from it may differ after the next.

    Use it for `in_axes` and `out_axes` of `on_workers`, so that values which are equal on all workers, such as
    counters, are stored once and conditionals on them stay branches.

    Args:
        tx: An optimizer, whether it communicates over the axis `axis_name` or not.
        params: The parameters of all workers, with a leading axis over workers, or `jax.ShapeDtypeStruct` in their
            place.
        axis_name: Name of the axis over workers.
        **extra_args: What `tx.update` needs in addition to gradients, state and parameters. Functions, such as
            `grad_fn`, are those of one worker and may depend on its own data. Arrays have a leading axis over workers,
            and numbers belong to each worker. Only `links` and `active` are equal on all workers.

    Returns:
        A tree structured like one worker's state: 0 for each leaf that differs between workers, and None for each leaf
        that is equal on all. `jax.vmap` and `on_workers` accept it as axes of the state.

    Raises:
        ValueError: If `axis_name` is not a single name, or the leading axes are missing or disagree.

    Example:
        The counter of `gossip` stays one number, so that the exchange in every eighth step stays a branch.

        >>> import jax, jax.numpy as jnp, optax, optkit
        >>> tx = optkit.gossip(optax.sgd(0.1, 0.9), optkit.topology.ring(4), axis_name="workers", every=8)
        >>> params = {"w": jnp.ones((4, 3))}
        >>> axes = optkit.worker_axes(tx, params, axis_name="workers")
        >>> axes.count, axes.inner[0].trace
        (None, {'w': 0})
        >>> init = optkit.on_workers(tx.init, axis_name="workers", out_axes=axes)
        >>> step = optkit.on_workers(tx.update, axis_name="workers", in_axes=(0, axes, 0), out_axes=(0, axes))
        >>> updates, state = step(params, init(params), params)
        >>> state.count.shape, state.inner[0].trace["w"].shape
        ((), (4, 3))
    """
    check_axis_name(axis_name)
    update = optax.with_extra_args_support(tx).update
    functions, arrays = split_functions(extra_args)
    equal = {name: value for name, value in arrays.items() if name in EXTRA_ARGS and EXTRA_ARGS[name].equal}
    own = {name: value for name, value in arrays.items() if name not in equal}
    axes_of_own = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, own)
    rows = _count_rows((0, axes_of_own), (params, own), names=("params", "extra_args"))

    def after_update(differs):
        """Returns a state's structure and which leaves differ, after `init` or after an update from `differs`."""
        found = []

        def one_worker(params, own, equal, mark):
            def differing(tree):
                return jax.tree.map(lambda x: jnp.where(mark, x, x), tree)

            def called_on_differing(function):
                # Where it takes a mean over workers, its results are equal all the same.
                return lambda *args: function(*differing(args))

            leaves, structure = jax.tree.flatten(tx.init(params))
            if differs is not None:
                leaves = [differing(x) if known else x for x, known in zip(leaves, differs, strict=True)]
                called = {name: called_on_differing(function) for name, function in functions.items()}
                state = structure.unflatten(leaves)
                _, state = update(params, state, params, **differing(own), **equal, **called)
                leaves = structure.flatten_up_to(state)
            found.extend([structure, [_is_per_worker(x) for x in leaves]])

        mapped = jax.vmap(one_worker, (0, axes_of_own, None, 0), axis_name=axis_name)
        jax.eval_shape(mapped, params, own, equal, jax.ShapeDtypeStruct((rows,), bool))
        return found

    structure, differs = after_update(None)
    while True:
        _, now = after_update(differs)
        grown = [before or after for before, after in zip(differs, now, strict=True)]
        if grown == differs:
            return structure.unflatten([0 if known else None for known in differs])
        differs = grown


def check_axis_name(axis_name: Any) -> None:
    """Raises unless an argument is the name of a single axis.

    Args:
        axis_name: The argument.

    Raises:
        ValueError: If it is not a name, for example None or a tuple of several axes.

    Example:
        >>> check_axis_name("workers")
    """
    if not isinstance(axis_name, str) or not axis_name:
        raise ValueError(f"axis_name must be the name of one axis over workers, such as 'workers', got {axis_name!r}")


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
    """Makes a function that checks, from arguments and the number of workers, that results declared equal are equal.

    Otherwise `pmap` and `shard_map` would silently return the value of worker 0. Where none is declared so, the step is
    not traced for that.
    """

    def step(*args):
        results = mapping.step(*args)
        axes = _broadcast("out_axes", mapping.out_axes, results)
        return jax.tree.map_with_path(_refuse_if_per_worker, axes, results, is_leaf=_is_none)

    marked = jax.jit(mapping._replace(step=step, out_axes=0).vmap())  # which raises for `in_axes` that cannot be
    if mapping.out_axes == 0:
        return lambda *_: None

    def check(args, workers):
        # Shapes without shardings: arguments may be on any mesh, and with pmap they have the rows of one host only.
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
    """Resolves "auto", and raises if the backend cannot run as many workers."""
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
                f"on several hosts, backend={backend!r} takes {expected} rows (one for each of {whose}), got {rows};"
                " jax.make_array_from_process_local_data makes global arrays from each host's rows"
            )
    elif rows > devices:
        raise ValueError(
            f"backend={backend!r} needs a device for each worker, but there are {rows} workers and {devices} devices:"
            f" simulate with backend='vmap', or set XLA_FLAGS=--xla_force_host_platform_device_count={rows} before JAX"
            " starts to have as many CPU devices"
        )
    return backend


def _count_rows(in_axes: Any, args: tuple[Any, ...], names: Sequence[str] | None = None) -> int:
    """Finds the size of the leading axes, which must agree; `names` are the names of the arguments."""
    axes = jax.tree.leaves(_broadcast("in_axes", in_axes, args), is_leaf=_is_none)
    leaves = jax.tree.leaves_with_path(args, is_leaf=_is_none)
    shapes = {path: jnp.shape(x) for (path, x), axis in zip(leaves, axes, strict=True) if axis is not None}
    sizes = {shape[:1] for shape in shapes.values()}
    if not sizes:
        where = f"the arguments is per worker, {in_axes=}" if names is None else f"{' and '.join(names)}"
        raise ValueError(f"the number of workers is unknown: no array among {where}")
    if len(sizes) > 1 or () in sizes or (0,) in sizes:

        def name(path):
            return f"args{keystr(path)}" if names is None else f"{names[path[0].idx]}{keystr(path[1:])}"

        found = ", ".join(f"{name(path)} of shape {shape}" for path, shape in shapes.items())
        raise ValueError(
            f"arguments with in_axes 0 need a leading axis of one size, at least 1, one row per worker, got {found}"
        )
    ((rows,),) = sizes
    return rows


def _is_per_worker(x: Any) -> bool:
    """Tells whether a value differs between the workers of the `vmap` that is being traced."""
    batched = []

    @jax.custom_batching.custom_vmap
    def identity(x):
        return x

    @identity.def_vmap
    def _note(axis_size, in_batched, x):
        del axis_size
        batched.append(True)
        return x, in_batched[0]  # called for values that are batched only

    identity(x)
    return bool(batched)


def _refuse_if_per_worker(path, axis, result):
    """Returns its argument, and raises for a result that is batched under `vmap` but declared equal on all workers."""
    if axis is not None or result is None:
        return result

    @jax.custom_batching.custom_vmap
    def identity(x):
        return x

    @identity.def_vmap
    def _refuse(axis_size, in_batched, x):
        del axis_size, in_batched, x  # never called for values that are not batched
        raise ValueError(
            f"the step's result{keystr(path)} is declared equal on all workers (out_axes None) but"
            " differs between them: declare it per worker (0), or make it equal by pmean, psum or all_gather"
        )

    return identity(result)


def _place(shardings: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Puts arrays on the devices of the workers.

    Otherwise arrays that are bound to other devices, such as restored ones, would be refused, and all others would
    compile the step twice: on the first call, and on the second one with the results of the first.
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


def _mesh(axis_name: AxisName, workers: int) -> Mesh:
    """Places the first devices along the axis over workers, in the order that `jax.make_mesh` has for all of them."""
    return jax.make_mesh((workers,), (axis_name,), axis_types=(AxisType.Auto,), devices=jax.devices()[:workers])


def _shardings(mesh: Mesh, axes: Any) -> Any:
    """Translates axes into shardings."""
    (axis_name,) = mesh.axis_names
    specs = _specs(axis_name, axes)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _specs(axis_name: AxisName, axes: Any) -> Any:
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
