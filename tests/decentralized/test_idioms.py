"""What every method that talks to its neighbours promises on wrong arguments, and under JAX's strict settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit import catalog, prox
from optkit.compressors import top_k
from optkit.decentralized import (
    choco,
    compressed_proximal_tracking,
    dadam,
    delayed_dual_averaging,
    dfedsam,
    drcgd,
    exact_diffusion,
    extra,
    gossip,
    gradient_tracking,
    links_among,
    mix,
    nids,
    noise_robust_gradient_tracking,
    proximal_gradient_tracking,
    qg_dadam,
    qg_dsgdm,
    relay_sum,
    ties_merge,
    track_gradients,
    variance_corrected_mix,
)
from optkit.decentralized.topology import ring

SGD = optax.sgd(0.1)
METHODS = {
    "choco": functools.partial(choco, SGD, compressor=top_k(0.5), gamma=0.5),
    "compressed_proximal_tracking": functools.partial(
        compressed_proximal_tracking, 0.1, prox=prox.l1(1.0), compressor=top_k(0.5)
    ),
    "dadam": functools.partial(dadam, 0.1),
    "dfedsam": functools.partial(dfedsam, 0.1, every=2),
    "drcgd": functools.partial(drcgd, 0.1),
    "exact_diffusion": functools.partial(exact_diffusion, SGD),
    "extra": functools.partial(extra, SGD),
    "gossip": functools.partial(gossip, SGD),
    "gradient_tracking": functools.partial(gradient_tracking, SGD),
    "nids": functools.partial(nids, 0.1),
    "noise_robust_gradient_tracking": functools.partial(noise_robust_gradient_tracking, 0.1, gamma=0.5),
    "proximal_gradient_tracking": functools.partial(proximal_gradient_tracking, 0.1, prox=prox.l1(1.0)),
    "qg_dadam": functools.partial(qg_dadam, 0.1),
    "qg_dsgdm": functools.partial(qg_dsgdm, 0.1),
    "relay_sum": functools.partial(relay_sum, SGD),
    "track_gradients": track_gradients,
}
MIXED = [name for name in METHODS if name not in ("choco", "compressed_proximal_tracking", "relay_sum")]
OF_FAMILY = {
    name: method
    for name, method in catalog.METHODS.items()
    if method.family == "decentralized" and method.kind != "function"
}
SHAPES = {"kernel": (4, 3), "bias": (3,)}


@pytest.mark.parametrize("name", METHODS)
def test_wrong_arguments_are_named(name):
    make = METHODS[name]
    for axis_name in (None, ("data", "workers")):
        with pytest.raises(ValueError, match="axis_name must be the name of one axis"):
            make(topology=ring(3), axis_name=axis_name)
    with pytest.raises(TypeError, match=r"topology must be a Topology, .* got ndarray"):
        make(topology=np.eye(3), axis_name="workers")


@pytest.mark.parametrize("name", MIXED)
def test_a_mixing_is_a_function(name):
    make = functools.partial(METHODS[name], topology=ring(3), axis_name="workers")
    with pytest.raises(TypeError, match=r"mixing cannot be an array, .* static_args"):
        make(mixing=jnp.ones(()))
    with pytest.raises(TypeError, match="mixing must be a function, such as mix or chebyshev_mix"):
        make(mixing="mix")


def test_other_mixings_and_static_arguments_name_what_arrays_they_got():
    with pytest.raises(TypeError, match="mixing cannot be an array"):
        variance_corrected_mix(jnp.ones(()))
    for name in ("dadam", "dfedsam", "qg_dadam", "qg_dsgdm"):
        with pytest.raises(TypeError, match=r"mask cannot be an array, .* static_args"):
            METHODS[name](topology=ring(3), axis_name="workers", mask=jnp.array(True))
    for changes, name in (({"max_delay": jnp.array(2)}, "max_delay"), ({"projection": jnp.ones(2)}, "projection")):
        with pytest.raises(TypeError, match=f"{name} cannot be an array"):
            delayed_dual_averaging(1.0, **changes)
    arguments = {"topology": ring(3), "axis_name": "workers"}
    for make, name in (
        (lambda array: dfedsam(0.1, every=1, trainable=array, **arguments), "trainable"),
        (lambda array: drcgd(0.1, stiefel=array, **arguments), "stiefel"),
        (lambda array: nids(0.1, prox=array, **arguments), "prox"),
        (lambda array: proximal_gradient_tracking(0.1, prox=array, **arguments), "prox"),
        (lambda array: qg_dsgdm(0.1, qg_local_step=array, **arguments), "qg_local_step"),
    ):
        with pytest.raises(TypeError, match=f"{name} cannot be an array"):
            make(jnp.array(1))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "track_gradients"])
def test_missing_parameters_are_named_with_the_public_method(name):
    tx = optax.with_extra_args_support(METHODS[name](topology=ring(2).lazy(), axis_name="workers"))
    gradients = jnp.ones((2, 3, 2))

    def step(gradient):
        return tx.update(gradient, tx.init(gradient), grad_fn=lambda x: x)[0]

    with pytest.raises(ValueError, match=f"^{name} needs the parameters"):
        jax.eval_shape(jax.vmap(step, axis_name="workers"), gradients)


def two_steps(method, dtype):
    """Traces two updates of all workers, on abstract parameters."""
    tx = optax.with_extra_args_support(method.optimizer_factory(**method.arguments))

    def train(params, gradients):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(gradients, state, params, grad_fn=lambda x: x)
            params = optax.apply_updates(params, updates)
        return params

    params = {name: jax.ShapeDtypeStruct((8, *shape), dtype) for name, shape in SHAPES.items()}
    return jax.eval_shape(jax.vmap(train, axis_name="workers"), params, params)


@pytest.mark.parametrize("name", [name for name in OF_FAMILY if name != "dadam"])  # optax.adam promotes
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_promotes_neither_ranks_nor_dtypes(name, dtype):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        two_steps(OF_FAMILY[name], dtype)


@pytest.mark.parametrize("name", OF_FAMILY)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_initialises_from_types(name, dtype):
    method = OF_FAMILY[name]
    types = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}
    state = method.optimizer_factory(**method.arguments).init(types)
    assert not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["nids", "proximal_gradient_tracking", "compressed_proximal_tracking"])
def test_complex_parameters_are_refused_at_once_where_the_proximal_map_is_of_real_ones(name):
    tx = METHODS[name](topology=ring(3), axis_name="workers", prox=prox.l1(1.0))
    with pytest.raises(TypeError, match=r"prox.l1 works on real parameters, .* \['w'\] is complex64"):
        tx.init({"w": jnp.ones(2, jnp.complex64)})


@pytest.mark.slow
def test_functions_promote_neither_ranks_nor_dtypes():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        links = links_among(jnp.array([True, False, True]))
        assert links.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
        ties_merge(jnp.zeros(4), jnp.ones((2, 4)))
        jax.vmap(lambda x: mix(x, ring(3), "workers", links=links), axis_name="workers")(jnp.ones((3, 2)))
