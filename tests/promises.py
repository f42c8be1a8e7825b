"""What several methods promise, as assertions that say which promise is broken."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from trajectories import first_update, trajectory

import optkit


def assert_same_steps(tx, other, gradients, params=None, *, rtol=1e-6, atol=0.0):
    """One transformation is another: along the same gradients their updates are equal."""
    steps, others = (trajectory(each, gradients, params).updates for each in (tx, other))
    chex.assert_trees_all_close(steps, others, rtol=rtol, atol=atol)


def assert_never_exceeds(vectors, norm, threshold, *, rtol=1e-6):
    """No vector, time first, is longer than the threshold, and one is as long."""
    lengths = np.asarray(jax.vmap(norm)(vectors))
    assert np.all(lengths <= threshold * (1 + rtol)), f"{lengths} exceeds {threshold}"
    assert np.any(lengths >= threshold * (1 - rtol)), f"{lengths} does not come near {threshold}"


def assert_rows_are_workers(build, batches, params, *, backend="vmap", rtol=1e-5, atol=0.0):
    """Steps along gradients that stand in rows are those of workers that have a row each, states and all.

    Args:
        build: gives the transformation; its argument `axis_name` is None for rows, or the name of the workers' axis.
        batches: the gradients of each step, with rows first.
        params: where all workers start.
        backend: as for `on_workers`.
        rtol: how near the numbers are.
        atol: how near those about zero are.
    """
    batches, stacked, of_worker = list(batches), build(axis_name=None), build(axis_name="workers")
    # What is declared equal on all workers: `vmap` itself refuses results that are not.
    over_workers = optkit.on_workers(
        functools.partial(_step_and_move, of_worker),
        axis_name="workers",
        in_axes=(0, None, None),
        out_axes=None,
        backend=backend,
    )

    def run(step, init):
        state, moved = init(params), params
        for rows in batches:
            moved, updates, state = step(rows, state, moved)
        return moved, updates, state

    ours = run(functools.partial(_jitted_step_and_move, stacked), stacked.init)
    theirs = run(over_workers, of_worker.init)
    chex.assert_trees_all_close(theirs, ours, rtol=rtol, atol=atol)


def _step_and_move(tx, gradients, state, params):
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), updates, state


_jitted_step_and_move = jax.jit(_step_and_move, static_argnums=0)


def assert_needs_parameters(tx, name, params=None, gradients=None, **extra_args):
    """An update without parameters raises an error that names the method."""
    params = jnp.ones(2) if params is None else params
    gradients = params if gradients is None else gradients
    state = jax.eval_shape(tx.init, params)
    with pytest.raises(ValueError, match=rf"^{name} needs the parameters: call update\(updates, state, params\)"):
        jax.eval_shape(lambda updates, state: tx.update(updates, state, **extra_args), gradients, state)


def assert_refuses_complex_parameters(tx, name, advice="split_real_and_imaginary"):
    """Complex parameters raise an error that names the method and says what to do instead."""
    with pytest.raises(TypeError, match=f"^{name} works on real parameters.*{advice}"):
        tx.init({"w": jnp.ones((2, 3), jnp.complex64)})


def assert_initialises_from_types(tx, params):
    """The state of abstract parameters has the structure, shapes and dtypes of that of real ones."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(abstract), jax.eval_shape(tx.init, params))


def assert_same_parameters(tx, other, gradients, params=None, *, leaves=None, rtol=1e-7, atol=0.0):
    """Along the same gradients the parameters, or only some leaves of them, are moved as by another transformation."""
    ours, theirs = (trajectory(each, gradients, params).params for each in (tx, other))
    if leaves is not None:
        ours, theirs = ({leaf: run[leaf] for leaf in leaves} for run in (ours, theirs))
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=atol)


def assert_refuses_vectors(tx, name):
    """Initialising a leaf of one axis raises an error that names the method and the leaf."""
    with pytest.raises(ValueError, match=rf"^{name}: the leaf 'bias' of shape \(3,\) is not a matrix"):
        tx.init({"bias": jnp.ones(3)})


def assert_names_leaf_without_numbers(factory):
    """Initialising a matrix that is given no dimension numbers raises an error that names the method and the leaf."""
    tx = factory(weight_dimension_numbers={"head": None})
    with pytest.raises(ValueError, match=rf"^{factory.__name__}: the leaf 'head' of shape \(3, 4\) is not a matrix by"):
        tx.init({"head": jnp.ones((3, 4))})


def assert_other_rows_only_decay(tx, decay):
    """A step that takes one row of six, here the third one, multiplies all others by the decay, and moves that one."""
    params, gradient = normal(6, 9), normal(6, 9, seed=1).at[2].multiply(10.0)
    new = params + jax.jit(tx.update)(gradient, tx.init(params), params)[0]
    rest = jnp.array([0, 1, 3, 4, 5])
    np.testing.assert_allclose(new[rest], decay * params[rest], rtol=1e-12)
    assert jnp.min(jnp.abs(new[2] - decay * params[2])) > 0


def assert_cautious_decay_spares_what_moves_outward(factory):
    """Entries that the update itself brings nearer to zero decay, and no others do."""
    params, gradient = normal(6, 4), normal(6, 4, seed=1)

    def update(**arguments):
        tx = factory(1.0, **arguments)
        return jax.jit(tx.update)(gradient, tx.init(params), params)[0]

    step = update(weight_decay=0.0)
    decayed = update(weight_decay=0.1, cautious_decay=True)
    np.testing.assert_allclose(decayed, jnp.where(step * params < 0, step - 0.1 * params, step), atol=1e-12)


def assert_computes_in_float32(function, x):
    """A narrow array gives what it gives in float32, rounded to its own dtype."""
    program = jax.jit(function)
    found = program(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, program(x.astype(jnp.float32)).astype(x.dtype))


def assert_keeps_explicit_sharding(function, x, spec, *, rtol=0.0, atol=0.0):
    """On four times two devices with explicit axes the result is sharded like the input, and the same numbers."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    sharding, program = NamedSharding(mesh, PartitionSpec(*spec)), jax.jit(function)
    with jax.set_mesh(mesh):
        result = program(jax.device_put(x, sharding))
    assert result.sharding.is_equivalent_to(sharding, x.ndim)
    np.testing.assert_allclose(result, program(x), rtol=rtol, atol=atol)


def assert_window_needs_compressed_gradients(tx, name):
    """With a compressor and no compressed gradients an update raises an error that says where it must stand."""
    message = rf"{name} needs the extra argument compressed: .* inside optkit\.error_feedback"
    with pytest.raises(TypeError, match=message):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)))


def assert_state_is_window_and_inner_products(tx, window_bytes, params, window=16):
    """Beside a window the state has its inner products in float32, and a counter."""
    counter, inner_products = 4, 4 * window**2
    assert optkit.cost(tx, params, state_only=True).state_bytes == window_bytes + inner_products + counter


def assert_extra_arguments_reach_the_inner_optimizer(wrap):
    """An inner optimizer gets the loss that it needs, among arguments that nobody knows."""
    updates = first_update(wrap(optax.polyak_sgd()), jnp.ones(2), jnp.ones(2), value=1.0, unknown=None)
    assert jnp.all(updates < 0)


def assert_decay_spares_masked_leaves(build, rows=()):
    """Where the gradient, of so many rows, is zero, decay moves what the mask says, by the rate, and nothing else."""
    params = {"decayed": jnp.array([4.0, 2.0]), "free": jnp.array([4.0, 2.0])}
    zeros = jax.tree.map(lambda p: jnp.zeros((*rows, *p.shape)), params)
    tx = build(0.1, weight_decay=0.5, mask={"decayed": True, "free": False})
    updates = first_update(tx, zeros, params)
    np.testing.assert_allclose(updates["decayed"], [-0.2, -0.1], rtol=1e-6)
    np.testing.assert_array_equal(updates["free"], 0.0)


def assert_shard_map_sees_that_an_aggregate_is_equal(aggregator, rows, expected, *, rtol, atol):
    """What a rule over "workers" makes of a row on each device is inferred to be equal on all, and as expected."""
    mesh = jax.make_mesh((len(jax.tree.leaves(rows)[0]),), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    row_of = functools.partial(jax.tree.map, lambda x: x[0])
    state = aggregator.init(row_of(rows))
    mapped = jax.shard_map(
        lambda row: aggregator.update(row_of(row), state)[0], mesh=mesh, in_specs=jax.P("workers"), out_specs=jax.P()
    )
    chex.assert_trees_all_close(jax.jit(mapped)(rows), expected, rtol=rtol, atol=atol)


def assert_all_workers_end_at(point, params, *, atol=1e-10):
    """In the last step, time first and then workers, all are at one point."""
    np.testing.assert_allclose(params[-1], jnp.broadcast_to(point, params.shape[1:]), atol=atol)


def smallest_excess(objective, best, directions):
    """How much larger than at `best` an objective is, at least: near it, further away, and on its ray."""
    around = [
        jax.vmap(lambda noise, size=size: objective(optax.tree.add_scale(best, size, noise)))(directions)
        for size in (1e-5, 1e-2, 1.0)
    ]
    on_the_ray = jax.vmap(lambda share: objective(optax.tree.scale(share, best)))(jnp.array([0.0, 0.99, 1.01]))
    return jnp.min(jnp.concatenate([*around, on_the_ray])) - objective(best)
