"""The cost of an optimizer: memory, arithmetic and communication, found without running it."""

import dataclasses
import html
import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from optkit.core.checks import check_count
from optkit.core.cost import hlo
from optkit.core.extra_args import split_functions
from optkit.core.types import AxisName
from optkit.core.workers.on_workers import check_axis_name
from optkit.core.workers.sharding import abstract_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one step of an optimizer. Values that need compiling are None if only the state was asked for.

    Attributes:
        parameters: Number of parameters (elements, not arrays). With workers, it is that of one worker, and so are all
            other numbers.
        state_bytes: Bytes of the optimizer's state, counters included, on all devices together. Replicas count once.
        state_bytes_per_device: Bytes of the state that each device holds.
        temporary_bytes: Bytes that each device needs during the step in addition to gradients, old and new state, and
            old and new parameters. It is also None if the compiler does not report it.
        flops: Floating-point operations of each device in a step: 2 for each multiply-add of a matrix product or a
            convolution, n - 1 for a sum or maximum of n numbers, and 1 for each element of other arithmetic, roots and
            exponentials included. They are counted in the compiled program: loops by their number of iterations,
            conditionals by their most expensive branch, and values that are computed twice to save memory twice.
            Moving, converting and comparing numbers, integer arithmetic (random bits), additions inside collectives,
            and what is in `library_calls` do not count.
        sent: Bytes that each device sends in a step, by kind of collective, including those that are inserted for
            sharded parameters. In a group of g devices that hold b bytes each before, all-reduce sends 2 (g - 1) / g b,
            all-gather (g - 1) b, reduce-scatter and all-to-all (g - 1) / g b, and collective-permute b, or nothing if
            every device sends to itself only.
        sent_when_taken: Bytes that each device sends in addition in a step that takes the branches of conditionals that
            send most, by kind of collective. A method that synchronizes every few steps sends them in these steps.
        every: The branches of `sent_when_taken` are taken once in this many steps.
        library_calls: How often a step calls each library routine, such as a factorization, whose arithmetic the
            program does not show.
        open_loops: Number of loops in the step that have no known number of iterations. Everything inside counts once.
    """

    parameters: int
    state_bytes: int
    state_bytes_per_device: int
    temporary_bytes: int | None = None
    flops: int | None = None
    sent: Mapping[str, int] | None = None
    sent_when_taken: Mapping[str, int] | None = None
    every: int = 1
    library_calls: Mapping[str, int] | None = None
    open_loops: int | None = None

    @property
    def state_bytes_per_parameter(self) -> float:
        """Bytes of state per parameter; 0 if there are no parameters."""
        return self.state_bytes / self.parameters if self.parameters else 0.0

    @property
    def sent_per_step(self) -> dict[str, float]:
        """Bytes that each device sends on average over steps: `sent_when_taken` counts divided by `every`."""
        sent: dict[str, float] = dict(self.sent or {})
        for kind, size in (self.sent_when_taken or {}).items():
            sent[kind] = sent.get(kind, 0) + size / self.every
        return dict(sorted(sent.items()))

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("parameters", f"{self.parameters:,}"),
            ("state", f"{_bytes(self.state_bytes)}, {self.state_bytes_per_parameter:.3g} bytes per parameter"),
            ("state per device", _bytes(self.state_bytes_per_device)),
        ]
        if self.flops is None:
            return rows
        if self.temporary_bytes is not None:
            rows.append(("temporary memory per device", _bytes(self.temporary_bytes)))
        rows.append(("floating-point operations per device", f"{self.flops:,}"))
        if not self.sent and not self.sent_when_taken:
            rows.append(("sent per device", "nothing"))
        rows += [(f"sent per device, {kind}", _bytes(size)) for kind, size in (self.sent or {}).items()]
        rows += [
            (f"sent per device when the branch is taken, {kind}", _bytes(size))
            for kind, size in (self.sent_when_taken or {}).items()
        ]
        if self.every > 1:
            rows += [
                (f"sent per device and step, the branch taken every {self.every} steps, {kind}", _bytes(size))
                for kind, size in self.sent_per_step.items()
            ]
        rows += [
            (f"calls of {name}, operations not counted", f"{times:,}")
            for name, times in (self.library_calls or {}).items()
        ]
        if self.open_loops:
            rows.append(("loops of unknown length, counted once", f"{self.open_loops:,}"))
        return rows

    def __str__(self) -> str:
        """Returns one line for each cost."""
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        """Returns a table, for notebooks."""
        rows = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._rows())
        return f"<table>{''.join(rows)}</table>"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def cost(
    tx: optax.GradientTransformation,
    params: optax.Params,
    *,
    axis_name: AxisName | None = None,
    axis_size: int | None = None,
    every: int = 1,
    state_only: bool = False,
    **extra_args: Any,
) -> Cost:
    """Computes what one step of an optimizer costs, in memory, arithmetic and communication, without running it.

    A step is `tx.update` and `optax.apply_updates`. It is compiled for the devices of this process, with parameters,
    gradients and state sharded as `params` and `state_shardings` say, but never run, and nothing is allocated. If a
    mesh needs more devices than JAX's default backend has, the step is compiled for CPUs.

    Use it to choose between optimizers, or to see whether one fits into memory, before training. Avoid it as a measure
    of time, because it counts operations and bytes, not seconds.

    Args:
        tx: The optimizer.
        params: The parameters, or `jax.ShapeDtypeStruct` in their place, with `sharding` set if they are to be sharded.
            Their mesh may be abstract (`jax.sharding.AbstractMesh`).
        axis_name: Name of the axis over workers. Each worker is then one device, or, if `params` (those of one worker)
            are sharded, as many devices as these are sharded over. Default: None, for an optimizer without workers.
        axis_size: Number of workers. It is given together with `axis_name`. Default: None.
        every: For a method whose workers communicate only in some steps, under a conditional: they do so once in this
            many steps, at least 1. `sent_per_step` divides what they then send by it. Default: 1.
        state_only: Whether to leave out everything that needs compiling. It then takes less than a second for any
            model. Default: False.
        **extra_args: What `tx.update` needs in addition to gradients, state and parameters, for example `value`:
            arrays, numbers, or `jax.ShapeDtypeStruct` (of one worker). The work of functions such as `grad_fn` is
            counted too.

    Returns:
        A `Cost`. `print` shows it as a table.

    Raises:
        ValueError: If only one of `axis_name` and `axis_size` is given, if `every` is not a positive integer, or if
            this process has fewer devices than the workers and the mesh need.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optkit
        >>> params = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
        >>> print(optkit.cost(optax.sgd(0.1, momentum=0.9), params))
        parameters                            1,048,576
        state                                 4.19 MB, 4 bytes per parameter
        state per device                      4.19 MB
        temporary memory per device           0 B
        floating-point operations per device  4,194,304
        sent per device                       nothing
        >>> optkit.cost(optax.adamw(1e-3), params, state_only=True).state_bytes
        8388612
    """
    check_count("every", every)
    if axis_name is None and axis_size is None:
        workers = {}
    elif axis_name is not None and axis_size is not None:
        check_axis_name(axis_name)
        check_count("axis_size", axis_size)
        workers = {axis_name: axis_size}
    else:
        raise ValueError(f"axis_name and axis_size go together, got axis_name={axis_name!r} and axis_size={axis_size}")

    def init(params):
        if not workers:
            return params, tx.init(params)
        state = jax.vmap(tx.init, in_axes=None, axis_name=axis_name, axis_size=axis_size)(params)
        return params, jax.tree.map(lambda leaf: leaf[0], state)

    abstract_params, state = abstract_state(init, params)
    leaves = jax.tree.leaves(state)
    state_cost = Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(abstract_params)),
        state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        state_bytes_per_device=sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
        ),
    )
    if state_only:
        return state_cost

    functions, arrays = split_functions(extra_args)

    def step(params, state, grads, arrays):
        updates, state = optax.with_extra_args_support(tx).update(grads, state, params, **arrays, **functions)
        return optax.apply_updates(params, updates), state

    lowered = _lower(step, abstract_params, state, arrays, workers)
    # XLA's pass for CPUs that widens 16-bit reductions aborts the process where only some mesh axes are manual; without
    # it they are widened like all other 16-bit operations.
    compiled = lowered.compile(compiler_options={"xla_disable_hlo_passes": "all-reduce-promotion"})
    work, memory = hlo.read(compiled, lowered), compiled.memory_analysis()
    return dataclasses.replace(
        state_cost,
        temporary_bytes=memory.temp_size_in_bytes if memory else None,
        flops=round(work.flops),
        sent={kind: round(size) for kind, size in sorted(work.sent.items())},
        sent_when_taken={kind: round(size) for kind, size in sorted(work.sent_when_taken.items())},
        every=every,
        library_calls=dict(sorted(work.library_calls.items())),
        open_loops=work.open_loops,
    )


def _lower(step: Any, params: Any, state: Any, arrays: Any, workers: Mapping[str, int]) -> jax.stages.Lowered:
    """Lowers a step for real devices, as one program for all workers if there are any."""
    shardings = [leaf.sharding for leaf in jax.tree.leaves((params, state))]
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    if mesh is None and not workers:  # on whatever device JAX would take
        params, state = jax.tree.map(lambda leaf: leaf.update(sharding=None), (params, state))
        return jax.jit(step).lower(params, state, params, arrays)

    if workers or isinstance(mesh, AbstractMesh):
        types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)) if mesh else {}
        mesh = _mesh({**(mesh.shape if mesh else {}), **workers}, {**types, **dict.fromkeys(workers, AxisType.Auto)})
        params, state, arrays = _place((params, state, abstract_state(lambda x: x, arrays)), mesh, workers)
        step = _on_each_worker(step, workers) if workers else step
    out_shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    with jax.set_mesh(mesh):
        return jax.jit(step, out_shardings=out_shardings).lower(params, state, params, arrays)


def _place(tree: Any, mesh: jax.sharding.Mesh, workers: Mapping[str, int]) -> Any:
    """Shards abstract arrays over a mesh as they were sharded over their own, with an axis over workers if any."""

    def place(leaf):
        spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else ()
        shape, sharding = (*workers.values(), *leaf.shape), NamedSharding(mesh, PartitionSpec(*workers, *spec))
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type)

    return jax.tree.map(place, tree)


def _on_each_worker(step: Any, workers: Mapping[str, int]) -> Any:
    """Maps a step over the workers of the mesh in use, along the first axis of all arrays."""

    def step_of_one(*args):
        new = step(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], new)

    spec = PartitionSpec(*workers)
    return jax.shard_map(step_of_one, in_specs=spec, out_specs=spec, axis_names=frozenset(workers), check_vma=False)


def _mesh(sizes: Mapping[str, int], types: Mapping[str, AxisType]) -> jax.sharding.Mesh:
    """Makes a mesh of this process's devices."""
    needed = math.prod(sizes.values())
    devices = jax.devices() if needed <= jax.device_count() else jax.devices("cpu")
    if needed > len(devices):
        raise ValueError(
            f"a program over {dict(sizes)} can only be compiled where there are {needed} devices, and JAX has "
            f"{len(devices)}: set jax.config.update('jax_num_cpu_devices', {needed}) and "
            "jax.config.update('jax_platforms', 'cpu') before JAX first uses its devices, or ask with state_only=True"
        )
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=tuple(types.values()), devices=devices[:needed]
    )
