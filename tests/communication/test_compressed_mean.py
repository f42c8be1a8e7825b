import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from worker_runs import bytes_sent

import optkit
from optkit import compressors, feedback
from optkit.compressors import nbytes

WORKERS = 4
PARAMS = jax.tree.map(
    np.float32, {"matrix": np.zeros((6, 5)), "bias": np.zeros(7), "scalar": np.zeros([]), "none": None}
)
RULES = {
    "none": None,
    "ef14": feedback.ef14(),
    "ef14_forgetting": feedback.ef14(0.9),
    "double_ef": feedback.double_ef(),
    "ef21": feedback.ef21(),
    "ef21_dense": feedback.ef21(init="dense"),
    "ef21_bidirectional": feedback.ef21(compressors.top_k(0.5)),
    "ef21_heavy_ball": feedback.ef21(momentum=0.5),
    "ef21_sgdm": feedback.ef21_sgdm(0.3),
    "econtrol": feedback.econtrol(0.2),
    "diana": feedback.diana(0.25),
}
ESTIMATING = [name for name, rule in RULES.items() if rule is not None and rule.estimates]


def gradients(steps=5, workers=WORKERS, seed=0):
    return jax.tree.map(lambda p: np.array(normal(steps, workers, *p.shape, seed=seed)), PARAMS)


def run(mean, grads, weights=None):
    """The means and states after every step in NumPy, time first and workers second."""
    return jax.tree.map(np.asarray, program(mean, grads, weights))


@functools.partial(jax.jit, static_argnums=0)
def program(mean, grads, weights):
    def worker(grads, weights):
        def step(state, inputs):
            gradient, weight = inputs
            result, state = mean.update(gradient, state, weight=weight)
            return state, (result, state)

        return jax.lax.scan(step, mean.init(PARAMS), (grads, weights))[1]

    mapped = jax.vmap(worker, in_axes=(1, None if weights is None else 1), out_axes=1, axis_name="workers")
    return mapped(grads, weights)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


def average(grads):
    """The mean over the workers, as each of them gets it."""
    return jax.tree.map(lambda g: np.broadcast_to(np.mean(g, axis=1, keepdims=True), g.shape), grads)


@pytest.mark.parametrize("name", ["none", "ef14", "double_ef", "ef21", "ef21_dense", "econtrol", "diana"])
def test_without_compression_it_is_the_mean(name):
    mean = optkit.compressed_mean(compressors.identity(), RULES[name], axis_name="workers")
    grads = gradients()
    assert_close(run(mean, grads)[0], average(grads))


@pytest.mark.parametrize("name", ["none", "double_ef"])
def test_in_two_phases_without_compression_it_is_the_mean(name):
    # 38 entries are no multiple of 4.
    mean = optkit.compressed_mean(compressors.identity(), RULES[name], axis_name="workers", layout="two_phase")

    def worker(grads):
        return mean.update(grads, mean.init(PARAMS))[0]

    grads = jax.tree.map(lambda g: g[0], gradients())
    means = jax.jit(jax.vmap(worker, axis_name="workers"))(grads)
    assert_close(means, jax.tree.map(lambda g: np.broadcast_to(np.mean(g, axis=0), g.shape), grads))


def test_error_feedback_loses_nothing():
    mean = optkit.compressed_mean(compressors.top_k(0.2), feedback.ef14(), axis_name="workers")
    grads = gradients(8)
    means, states = run(mean, grads)
    told = jax.tree.map(lambda x: np.sum(x[:, 0], axis=0), means)
    kept = jax.tree.map(lambda e: np.mean(e[-1], axis=0), states.own.error)
    assert_close(optax.tree.add(told, kept), jax.tree.map(lambda g: np.sum(np.mean(g, axis=1), axis=0), grads))


def test_double_error_feedback_loses_nothing():
    rule = feedback.double_ef(compressors.scaled_sign())
    mean = optkit.compressed_mean(compressors.top_k(0.2), rule, axis_name="workers")
    grads = gradients(8)
    means, states = run(mean, grads)
    told = jax.tree.map(lambda x: np.sum(x[:, 0], axis=0), means)
    kept = jax.tree.map(lambda e, s: np.mean(e[-1], axis=0) + s[-1, 0], states.own.error, states.channel.error)
    assert_close(optax.tree.add(told, kept), jax.tree.map(lambda g: np.sum(np.mean(g, axis=1), axis=0), grads), 1e-4)


@pytest.mark.parametrize("name", ESTIMATING)
def test_what_all_remember_is_the_sum_of_the_workers_estimates(name):
    _, states = run(of_the_largest(name), gradients())
    sums = jax.tree.map(lambda h: np.broadcast_to(np.sum(h, axis=1, keepdims=True), h.shape), states.own.estimate)
    assert_close(states.shared.total, sums)


@pytest.mark.parametrize("name", RULES)
def test_all_workers_get_the_same_mean_bit_for_bit(name):
    mean = optkit.compressed_mean(compressors.scaled_sign(), RULES[name], axis_name="workers")
    means, _ = run(mean, gradients())
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1], x.shape)), means)


@functools.cache
def of_the_largest(name):
    """One mean for all tests of a rule, so that their runs are one program."""
    return optkit.compressed_mean(compressors.top_k(0.3), RULES[name], axis_name="workers")


def with_a_bad_worker(name, bad):
    """What a worker that is left out of the third of five steps changes."""
    grads, weights = gradients(), np.ones((5, WORKERS), bool)
    if bad == "absent":
        weights[2, 1] = False
    else:
        grads["matrix"][2, 1, 0, 0] = bad
    return run(of_the_largest(name), grads, weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf, "absent"])
@pytest.mark.parametrize("name", ["none", "ef14", "double_ef", "ef21_dense", "ef21_sgdm", "econtrol", "diana"])
def test_a_worker_that_sends_nothing_usable_is_left_out_and_counted(name, bad):
    means, states = with_a_bad_worker(name, bad)
    assert states.dropped[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((means, states)))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[2, 1], x[1, 1]), states.own)
    if RULES[name] is not None and RULES[name].estimates:
        sums = jax.tree.map(lambda h: np.sum(h[-1], axis=0), states.own.estimate)
        assert_close(jax.tree.map(lambda t: t[-1, 0], states.shared.total), sums)


@pytest.mark.parametrize("layout", ["gather", "sum", "two_phase"])
def test_the_mean_is_that_of_the_others(layout):
    compressor = compressors.identity()
    mean = optkit.compressed_mean(compressor, axis_name="workers", layout=layout)
    grads = jax.tree.map(lambda g: g[0], gradients())
    grads["bias"][2, 3] = np.nan
    means = jax.jit(jax.vmap(lambda g: mean.update(g, mean.init(PARAMS))[0], axis_name="workers"))(grads)
    others = jax.tree.map(lambda g: np.mean(g[[0, 1, 3]], axis=0), grads)
    assert_close(jax.tree.map(lambda x: x[0], means), others)


@pytest.mark.parametrize("name", ["none", "ef14", "double_ef", "ef21_dense", "econtrol", "diana"])
def test_where_all_are_left_out_the_mean_is_nan_and_nothing_is_forgotten(name):
    weights = np.broadcast_to(np.arange(5)[:, None] != 2, (5, WORKERS))
    means, states = run(of_the_largest(name), gradients(), weights)
    assert all(np.all(np.isnan(x[2])) for x in jax.tree.leaves(means))
    assert all(np.all(np.isfinite(x[3:])) for x in jax.tree.leaves(means))
    memory = states.own, states.shared, getattr(states.channel, "error", None)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[2], x[1]), memory)


@pytest.mark.parametrize("layout", ["gather", "sum"])
def test_weights_weigh(layout):
    mean = optkit.compressed_mean(compressors.identity(), axis_name="workers", layout=layout)
    grads, weights = gradients(1), np.float32([[1.0, 0.0, 2.0, 5.0]])
    means, _ = run(mean, grads, weights)
    weighted = jax.tree.map(lambda g: np.tensordot(weights[0] / 8, g[0], 1), grads)
    assert_close(jax.tree.map(lambda x: x[0, 0], means), weighted)


def test_each_entry_is_the_mean_of_those_that_sent_it():
    mean = optkit.compressed_mean(compressors.top_k(0.5), axis_name="workers", count="senders")
    rows = np.float32([[4.0, 1.0, 3.0, 0.0], [6.0, 5.0, 1.0, 0.0], [-8.0, 1.0, 0.5, 9.0]])
    means = jax.jit(jax.vmap(lambda g: mean.update(g, mean.init(g))[0], axis_name="workers"))(rows)
    # They send (4, 3), (6, 5) and (-8, 9).
    np.testing.assert_allclose(means[0], [(4 + 6 - 8) / 3, 5, 3, 9], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compressor", "rule", "layout"),
    [
        (compressors.top_k(0.3), feedback.ef14(), "gather"),
        (compressors.qsgd(4, key=0, axis_name="workers"), feedback.diana(0.1), "gather"),
        (compressors.rand_k(0.3, key=0), None, "sum"),
        (compressors.scaled_sign(), feedback.double_ef(), "two_phase"),
        (compressors.top_k(0.3), feedback.ef21(init="dense"), None),
    ],
    ids=["top_k", "qsgd", "rand_k", "two_phase", "dense"],
)
def test_the_three_backends_agree(compressor, rule, layout):
    mean = optkit.compressed_mean(compressor, rule, axis_name="workers", layout=layout)
    grads = jax.tree.map(lambda g: np.moveaxis(g, 1, 0), gradients(3, 8))

    def worker(grads):
        def step(state, gradient):
            result, state = mean.update(gradient, state)
            return state, result

        state, results = jax.lax.scan(step, mean.init(PARAMS), grads)
        return state, results

    results = [
        optkit.on_workers(worker, axis_name="workers", backend=backend)(grads)
        for backend in ("vmap", "pmap", "shard_map")
    ]
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


SIZE = 64


@pytest.mark.parametrize(
    ("compressor", "rule"),
    [
        (compressors.top_k(0.1), feedback.ef14()),
        (compressors.scaled_sign(), feedback.ef21()),
        (compressors.natural(key=0, axis_name="workers"), None),
    ],
    ids=["top_k", "scaled_sign", "natural"],
)
def test_a_gather_sends_each_message_and_a_word_to_all_others(compressor, rule):
    mean = optkit.compressed_mean(compressor, rule, axis_name="workers", layout="gather")
    sent = bytes_sent(mean, SIZE)
    message = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
    assert sent == {"all-gather": 7 * (nbytes(compressor, message, axis_name="workers") + 4)}


def test_two_phases_send_twice_a_message_however_many_workers_there_are():
    mean = optkit.compressed_mean(compressors.scaled_sign(), axis_name="workers", layout="two_phase")
    # A slice of 8 bits, which take a word in a gather, and a scale, to seven others, twice; and a word to each.
    assert bytes_sent(mean, SIZE) == {"all-to-all": 7 * (1 + 4), "all-gather": 7 * (4 + 4) + 7 * 4}


def test_what_all_place_alike_is_added_on_the_way():
    shared = compressors.rand_k(0.25, key=0)
    mean = optkit.compressed_mean(shared, axis_name="workers")
    assert bytes_sent(mean, SIZE) == {"all-reduce": 2 * 7 / 8 * 16 * 4, "all-gather": 7 * 4}


@pytest.mark.slow
def test_both_layouts_of_equal_numbers_give_the_same_mean():
    compressor = compressors.rand_k(0.25, key=0)
    layouts = [
        run(optkit.compressed_mean(compressor, feedback.ef14(), axis_name="workers", layout=layout), gradients())[0]
        for layout in ("gather", "sum")
    ]
    assert_close(*layouts)


@functools.cache
def end_by_top_1(name):
    """How far from the minimum a rule ends in Example 1 of Beznosikov et al., "On Biased Compression", 2020."""
    slopes = np.float32([[-3.0, 2, 2], [2, -3.0, 2], [2, 2, -3.0]])
    mean = optkit.compressed_mean(compressors.top_k(1 / 3), RULES[name], axis_name="workers")

    def worker(slope):
        def step(carry, _):
            x, state = carry
            direction, state = mean.update(2 * (slope @ x) * slope + x / 2, state)
            return (x - 0.02 * direction, state), None

        start = jnp.ones(3), mean.init(jnp.ones(3))
        return jax.lax.scan(step, start, length=300)[0][0]

    return np.linalg.norm(jax.jit(jax.vmap(worker, axis_name="workers"))(slopes)[0])


@pytest.mark.parametrize("name", ["ef14", "ef21", "ef21_sgdm", "econtrol"])
def test_feedback_reaches_the_minimum_where_naive_top_1_diverges(name):
    assert end_by_top_1(name) < 0.1
    assert end_by_top_1("none") > 1e3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "ring"}, "layout must be 'gather', 'sum', 'two_phase' or None, got 'ring'"),
        ({"count": "entries"}, "count must be 'workers' or 'senders', got 'entries'"),
        ({"layout": "two_phase", "feedback": feedback.ef14()}, "layout='two_phase' compresses the mean"),
        ({"count": "senders", "feedback": feedback.ef21()}, "count='senders' needs"),
        ({"count": "senders", "layout": "sum"}, "count='senders' needs"),
        ({"layout": "sum"}, "layout='sum' needs a compressor whose numbers"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        optkit.compressed_mean(compressors.top_k(0.1), axis_name="workers", **arguments)


def test_senders_are_counted_for_sparse_messages_only():
    mean = optkit.compressed_mean(compressors.scaled_sign(), axis_name=None, count="senders")
    with pytest.raises(TypeError, match="count='senders' needs a compressor that sends some entries"):
        jax.eval_shape(lambda g: mean.update(g, mean.init(g)), jnp.ones(3))


def test_a_compressor_of_the_whole_tree_has_no_slices():
    mean = optkit.compressed_mean(compressors.global_top_k(0.1), axis_name=None, layout="two_phase")
    with pytest.raises(ValueError, match="treats each leaf by itself"):
        jax.eval_shape(lambda g: mean.update(g, mean.init(g)), jnp.ones(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: feedback.ef14(1.5), "decay must be in [0, 1], got 1.5"),
        (lambda: feedback.ef21(momentum=1.0), "momentum must be in [0, 1), got 1.0"),
        (lambda: feedback.ef21(init="cold"), "init must be 'zero' or 'dense', got 'cold'"),
        (lambda: feedback.ef21_sgdm(0.0), "eta must be in (0, 1], got 0.0"),
        (lambda: feedback.econtrol(-0.1), "eta must be in [0, 1], got -0.1"),
        (lambda: feedback.diana(0.0), "alpha must be in (0, 1], got 0.0"),
    ],
)
def test_bad_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
