"""What mixings promise: the mixing matrix's numbers, the mean, few messages, and that faults do not spread."""

import functools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from draws import normal
from golden_files import assert_replays, replays
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from worker_runs import topology_of

import optkit
from optkit.core.cost import hlo
from optkit.decentralized import (
    accelerated_mix,
    chebyshev_mix,
    links_among,
    lossy_links,
    mix,
    noisy_mix,
    repeated_mix,
)
from optkit.decentralized.topology import (
    Topology,
    complete,
    erdos_renyi,
    exponential,
    from_graph,
    hypercube,
    max_degree_weights,
    one_peer_exponential,
    path,
    random_matchings,
    ring,
    sequence,
    star,
)
from optkit.robust_aggregation import robust_mix

DENSE = complete(8).lazy()
UNEVEN = Topology(np.array([[[0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0, 0.5, 0.5], [0, 0.25, 0.25, 0.5]]]))
TOPOLOGIES = {
    "ring": ring(8),
    "star": star(8),
    "path": path(3),
    "hypercube": hypercube(8),
    "exponential": exponential(8),
    "one peer": one_peer_exponential(8),
    "Erdos-Renyi": erdos_renyi(8, 0.4, seed=3),
    "wheel": from_graph(nx.wheel_graph(8), max_degree_weights),
    "complete": complete(8),
    "dense": DENSE,
    "matchings": random_matchings(5, 6, seed=0),
    "complete and ring": sequence(complete(8), ring(8)),
    "uneven": UNEVEN,
}
MIXINGS = {
    "mix": mix,
    "repeated_mix": repeated_mix(3),
    "chebyshev_mix": chebyshev_mix(3),
    "accelerated_mix": accelerated_mix(3),
}
of_all_topologies = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
of_all_mixings = pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS.keys())


@functools.cache
def simulation(mixing, topology):
    """Mixes stacked values, on one device; the second argument is the step, and the third one has the links."""

    def one_worker(tree, step, links):
        return mixing(tree, topology, "workers", step=step, links=links)

    mapped = jax.vmap(one_worker, in_axes=(0, None, None), axis_name="workers")
    # As users have it: without optimization two programs may round one sum differently.
    return jax.jit(mapped, compiler_options={"xla_backend_optimization_level": 3})


def simulate(mixing, topology, tree, links=None):
    """The mixed values in NumPy."""
    return jax.tree.map(np.asarray, simulation(mixing, topology)(tree, 0, links))


def draw(*shape, **arguments):
    return np.array(normal(*shape, **arguments))


@functools.partial(jax.jit, static_argnums=1)
def random_links(seed, size, probability):
    return lossy_links(jax.random.key(seed), size, probability)


def matrix_with(links, matrix):
    """The mixing matrix of a step in which links fail."""
    off_diagonal = np.where(links, matrix, 0) * (1 - np.eye(len(matrix)))
    return off_diagonal + np.diag(1 - off_diagonal.sum(axis=1))


def compiled_for_devices(mixing, topology, tree, **arguments):
    """What a device of eight sends; `step` is an input of the program."""
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))

    def one_worker(tree, step):
        return mixing(tree, topology, "workers", step=step, **arguments)

    rows, equal = PartitionSpec("workers"), PartitionSpec()
    mapped = jax.shard_map(one_worker, mesh=mesh, in_specs=(rows, equal), out_specs=rows, check_vma=False)
    lowered = jax.jit(mapped).lower(tree, jnp.int32(0))
    return hlo.read(lowered.compile(), lowered), lowered.as_text()


@pytest.mark.slow
@replays("multi_gossip")
def test_repeated_and_chebyshev_mix_golden(recording):
    topology, start = topology_of(recording), recording.tree("params0")
    assert recording.hyperparams["alpha"] == pytest.approx(1 - topology.spectral_gap, rel=1e-9)
    rounds = range(1, 1 + len(next(iter(recording.tree("params").values()))))
    for make, group in ((chebyshev_mix, "params"), (repeated_mix, "mgs")):

        def after_each_round(*args, make=make, **arguments):
            mixed = [make(count)(*args, **arguments) for count in rounds]
            return jax.tree.map(lambda *x: jnp.stack(x), *mixed)

        trajectory = jax.tree.map(lambda x: np.moveaxis(x, 1, 0), simulate(after_each_round, topology, start))
        assert_replays(recording, trajectory, group)


@pytest.mark.usefixtures("x64")
@of_all_topologies
def test_mixing_is_the_product_with_the_matrix(topology):
    values, mixed = draw(topology.size, 3, 2), simulation(mix, topology)
    for step in range(topology.period + 1):
        matrix = topology.matrices[step % topology.period]
        expected = np.einsum("ij,jkl->ikl", matrix, values)
        np.testing.assert_allclose(mixed(values, step, None), expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("x64")
@of_all_topologies
def test_a_link_that_fails_leaves_its_weight_to_the_receiver(topology):
    links = np.asarray(random_links(1, topology.size, 0.4))
    values = draw(topology.size, 4)
    expected = matrix_with(links, topology.matrices[0]) @ values
    np.testing.assert_allclose(simulate(mix, topology, values, links=links), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("topology", [ring(4), complete(4).lazy()], ids=["permutations", "gathering"])
@pytest.mark.parametrize(
    "mixing", [mix, noisy_mix(0.0, key=0), robust_mix(optkit.coordinate_median())], ids=["mix", "noisy", "robust"]
)
def test_links_may_be_constants_of_numpy(mixing, topology):
    links, values = links_among(np.array([True, True, False, True])), draw(4, 3)
    constant = jax.vmap(lambda x: mixing(x, topology, "workers", links=np.asarray(links)), axis_name="workers")
    np.testing.assert_allclose(jax.jit(constant)(values), simulate(mixing, topology, values, links), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@of_all_mixings
def test_the_mean_stays_where_links_fail_in_both_directions(mixing):
    topology = erdos_renyi(8, 0.5, seed=0).lazy()
    values = draw(8, 50)
    for seed in range(5):
        links = random_links(seed, 8, 0.3)
        mixed = simulate(mixing, topology, values, links=links)
        assert np.abs(mixed - values).max() > 0.1
        np.testing.assert_allclose(mixed.mean(axis=0), values.mean(axis=0), rtol=0, atol=1e-14)


@of_all_mixings
def test_equal_values_stay_bit_for_bit(mixing):
    values = np.tile(draw(33), (8, 1))
    np.testing.assert_array_equal(simulate(mixing, ring(8).lazy(), values), values)


@of_all_mixings
def test_one_worker_keeps_what_it_has(mixing):
    values = {"w": draw(1, 3), "none": None}
    np.testing.assert_array_equal(simulate(mixing, ring(1), values)["w"], values["w"])


@pytest.mark.slow
@of_all_mixings
def test_all_kinds_of_leaves(mixing):
    tree = {
        "matrix": draw(8, 70, 70),
        "scalar": draw(8),
        "empty": draw(8, 0, 3),
        "half": draw(8, 5).astype(jnp.bfloat16),
        "other half": draw(8, 2, 2, seed=1).astype(jnp.bfloat16),
        "complex": draw(8, 2) + np.complex64(1j) * draw(8, 2, seed=1),
        "count": np.arange(8, dtype=np.int32),
        "flag": np.arange(8) % 2 == 0,
        "nested": [(draw(8, 3),), None, {}],
    }
    mixed = simulate(mixing, ring(8).lazy(), tree)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), mixed) == jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    for name in ("count", "flag"):
        np.testing.assert_array_equal(mixed[name], tree[name])
    for name in ("matrix", "other half"):
        alone = simulate(mixing, ring(8).lazy(), tree[name])
        np.testing.assert_array_equal(mixed[name], alone)
        assert np.any(alone != tree[name])


@pytest.mark.parametrize(("name", "messages"), [("ring", 2), ("hypercube", 3), ("exponential", 3), ("star", 7)])
def test_a_worker_sends_its_values_once_a_round(name, messages):
    tree = {"w": normal(8, 80, 80), "b": normal(8, 80)}
    work, _ = compiled_for_devices(mix, TOPOLOGIES[name], tree)
    assert work.sent == {"collective-permute": messages * 4 * (6400 + 80)}
    assert messages == max(TOPOLOGIES[name].messages[0])


def test_an_irregular_graph_takes_as_many_rounds_as_its_largest_degree():
    topology = from_graph(nx.barbell_graph(3, 2))
    work, _ = compiled_for_devices(mix, topology, normal(8, 5000))
    assert work.sent == {"collective-permute": 3 * 4 * 5000}


def test_one_peer_sends_one_message_in_a_step():
    work, _ = compiled_for_devices(mix, one_peer_exponential(8), normal(8, 5000))
    assert not work.sent
    assert work.sent_when_taken == {"collective-permute": 4 * 5000}


def test_only_dense_topologies_reduce_or_gather():
    values = normal(8, 5000)
    assert compiled_for_devices(mix, complete(8), values)[0].sent == {"all-reduce": 2 * 7 / 8 * 4 * 5000}
    assert compiled_for_devices(mix, DENSE, values)[0].sent == {"all-gather": 7 * 4 * 5000}
    failing = compiled_for_devices(mix, complete(8), values, links=lossy_links(jax.random.key(0), 8, 0.3))
    assert failing[0].sent == {"all-gather": 7 * 4 * 5000}


def test_small_arrays_travel_together():
    small = {str(size): normal(8, size) for size in range(5)}
    _, program = compiled_for_devices(mix, ring(8), {"large": normal(8, 5000), **small})
    assert program.count("stablehlo.collective_permute") == 2 * 2


@of_all_mixings
def test_bytes_of_several_rounds(mixing):
    rounds = 1 if mixing is mix else 3
    work, _ = compiled_for_devices(mixing, ring(8).lazy(), normal(8, 5000))
    assert work.sent == {"collective-permute": rounds * 2 * 4 * 5000}


def test_chebyshev_mix_averages_once_where_that_is_enough():
    work, _ = compiled_for_devices(chebyshev_mix(5), complete(8), normal(8, 5000))
    assert work.sent == {"all-reduce": 2 * 7 / 8 * 4 * 5000}


def test_half_precision_travels_as_it_is_and_is_summed_in_single():
    values = draw(8, 5000).astype(jnp.bfloat16)
    expected = simulate(mix, star(8), values.astype(np.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(simulate(mix, star(8), values), expected)
    assert compiled_for_devices(mix, ring(8), values)[0].sent == {"collective-permute": 2 * 2 * 5000}


@of_all_topologies
def test_a_worker_that_nobody_hears_may_send_nan(topology):
    values = draw(topology.size, 3)
    values[2] = np.nan
    active = np.arange(topology.size) != 2
    mixed = simulate(mix, topology, values, links=links_among(active))
    assert np.all(np.isfinite(mixed[active]))
    assert np.all(np.isnan(mixed[2]))


@of_all_mixings
def test_the_silent_keep_their_values_and_the_others_their_mean(mixing):
    active = np.array([True, True, False, True, True, True, False, True])
    values = draw(8, 20)
    mixed = simulate(mixing, hypercube(8).lazy(), values, links=links_among(active))
    np.testing.assert_allclose(mixed[~active], values[~active], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed[active].mean(axis=0), values[active].mean(axis=0), rtol=0, atol=1e-6)
    assert np.abs(mixed[active] - values[active]).min() > 0


LOSSY = lossy_links(jax.random.key(3), 8, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixing", "topology", "links"),
    [
        (mix, erdos_renyi(8, 0.4, seed=3), LOSSY),
        (mix, sequence(complete(8), ring(8), DENSE), None),
        (repeated_mix(2), one_peer_exponential(8), None),
        (chebyshev_mix(3), ring(8), None),
        (accelerated_mix(2), ring(8).lazy(), LOSSY),
    ],
)
@pytest.mark.usefixtures("x64")
def test_simulation_and_devices_give_the_same_numbers(mixing, topology, links):
    tree = {"w": normal(8, 3, 2), "b": normal(8, 2)}

    def step(tree, count):
        return mixing(tree, topology, "workers", step=count, links=links)

    over = functools.partial(optkit.on_workers, step, axis_name="workers", in_axes=(0, None))
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(AxisType.Auto,))
    rows, equal = PartitionSpec("workers"), PartitionSpec()
    tracked = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(rows, equal), out_specs=rows))
    maps = [over(backend="vmap"), over(backend="pmap"), over(backend="shard_map"), tracked]
    first, *others = [mapped(tree, jnp.int32(1)) for mapped in maps]
    for other in others:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-14), other, first)


@pytest.mark.slow
def test_a_counter_of_each_worker_gives_the_same_as_one_for_all():
    topology, values = one_peer_exponential(4), normal(4, 3)

    def step(x, count):
        return mix(x, topology, "workers", step=count)

    own = jax.jit(jax.vmap(step, axis_name="workers"))(values, np.full(4, 3))
    common = jax.jit(jax.vmap(step, in_axes=(0, None), axis_name="workers"))(values, 3)
    np.testing.assert_array_equal(own, common)


@pytest.mark.slow
def test_arrays_sharded_over_explicit_axes_are_not_joined():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Explicit,))
    tree = {"a": normal(4, 6), "b": normal(4, 5, 2, seed=1), "c": normal(4, 3, seed=2)}
    expected = simulate(mix, ring(4), tree)
    with jax.set_mesh(mesh):
        specs = {"a": PartitionSpec(None, "model"), "b": PartitionSpec(None, None, "model"), "c": PartitionSpec()}
        placed = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in tree.items()}
        mixed = simulation(mix, ring(4))(placed, 0, None)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), mixed, expected)
    assert all(x.sharding.is_equivalent_to(placed[name].sharding, x.ndim) for name, x in mixed.items())


@pytest.mark.usefixtures("x64")
def test_chebyshev_mix_is_the_best_of_all_polynomials_on_a_ring():
    topology, rounds = ring(16), 20
    values = draw(16, 100)
    plain = np.linalg.matrix_power(topology.matrices[0], rounds) @ values
    chebyshev = simulate(chebyshev_mix(rounds), topology, values)

    def deviation(mixed):
        return np.linalg.norm(mixed - values.mean(axis=0)) / np.linalg.norm(values - values.mean(axis=0))

    assert deviation(chebyshev) <= 1 / np.cosh(rounds * np.arccosh(1 / topology.contraction))
    assert deviation(plain) >= 20 * deviation(chebyshev)


@pytest.mark.usefixtures("x64")
def test_chebyshev_mix_does_not_overflow():
    values = draw(8, 3, dtype=jnp.float32)  # c_K is 1e47 here
    mixed = simulate(chebyshev_mix(80), from_graph(nx.circulant_graph(8, [1, 2])), values)
    np.testing.assert_allclose(mixed, np.tile(values.mean(axis=0), (8, 1)), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_accelerated_mix_is_nesterovs_method_on_graphs_that_lose_links():
    graph = nx.circulant_graph(12, [1, 5])
    topology = from_graph(graph, lambda graph: np.eye(12) - nx.laplacian_matrix(graph).toarray() / 8)
    skeleton, rounds = nx.cycle_graph(12), 6
    chords = [edge for edge in graph.edges if not skeleton.has_edge(*edge)]
    links = np.ones((rounds, 12, 12), bool)
    for index, (a, b) in enumerate(chords[:rounds]):
        links[index:, a, b] = links[index:, b, a] = False

    values = draw(12, 4)
    chi = 8 / (2 - 2 * np.cos(2 * np.pi / 12))
    momentum = (np.sqrt(chi) - 1) / (np.sqrt(chi) + 1)
    x = y = values
    for round_links in links:
        mixed = matrix_with(round_links, topology.matrices[0]) @ x
        x, y = (1 + momentum) * mixed - momentum * y, mixed

    mixed = simulate(accelerated_mix(rounds, skeleton), topology, values, links=links)
    np.testing.assert_allclose(mixed, y, rtol=0, atol=1e-13)


def test_accelerated_mix_keeps_to_the_links_of_every_step():
    changing = Topology(np.stack([from_graph(nx.circulant_graph(8, [1, hop])).lazy().matrices[0] for hop in (2, 3)]))
    values = normal(8, 3)
    by_default = simulate(accelerated_mix(4), changing, values)
    named = simulate(accelerated_mix(4, nx.cycle_graph(8)), changing, values)
    np.testing.assert_allclose(by_default, named, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="must be part of every step of the topology of 8"):
        simulate(accelerated_mix(4, nx.circulant_graph(8, [1, 2])), changing, values)


@pytest.mark.parametrize(
    ("mixing", "size", "message"),
    [
        (mix, 3, "the topology joins 8 workers, but the axis 'workers' has 3"),
        (repeated_mix(2), 3, "the topology joins 8 workers, but the axis 'workers' has 3"),
        (chebyshev_mix(2), 3, "the topology joins 8 workers, but the axis 'workers' has 3"),
        (accelerated_mix(2), 3, "the topology joins 8 workers, but the axis 'workers' has 3"),
    ],
)
def test_another_number_of_workers_is_refused(mixing, size, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(simulation(mixing, ring(8)), draw(size, 2), 0, None)


@pytest.mark.parametrize(
    ("mixing", "topology", "arguments", "message"),
    [
        (mix, ring(4), {"links": jnp.ones((4, 5), bool)}, r"links must have shape \(4, 4\), got \(4, 5\)"),
        (
            repeated_mix(2),
            ring(4),
            {"links": jnp.ones((3, 4, 4), bool)},
            r"\(workers, workers\) or \(2, workers, workers\), one for each round, got \(3, 4, 4\)",
        ),
        (chebyshev_mix(2), exponential(4), {}, "needs one symmetric topology, got a directed one"),
        (chebyshev_mix(2), sequence(ring(4), star(4)), {}, "got a sequence of 2: use accelerated_mix"),
        (accelerated_mix(2), exponential(4), {}, "without negative eigenvalues, .* but this one is directed"),
        (accelerated_mix(2), ring(4), {}, r"topology\.lazy\(\), but this one has the eigenvalue -0\.333"),
        (accelerated_mix(2, nx.cycle_graph(5)), ring(4).lazy(), {}, "skeleton of 5 workers must be part of every step"),
        (accelerated_mix(2, nx.complete_graph(4)), ring(4).lazy(), {}, "must be part of every step of the topology of"),
        (accelerated_mix(2, nx.empty_graph(4)), ring(4).lazy(), {}, "must join all workers, but they leave some apart"),
        (accelerated_mix(2), random_matchings(4, 6, seed=0), {}, "must join all workers, but they leave some apart"),
    ],
)
def test_what_does_not_fit_is_refused(mixing, topology, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(mixing, topology, draw(topology.size, 2), **arguments)


@pytest.mark.parametrize("make", [repeated_mix, chebyshev_mix, accelerated_mix])
@pytest.mark.parametrize("rounds", [0, 1.5])
def test_rounds_are_counted(make, rounds):
    with pytest.raises(ValueError, match=f"rounds must be a positive integer, got {rounds}"):
        make(rounds)
