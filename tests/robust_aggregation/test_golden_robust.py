import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays

import optkit
from optkit.robust_aggregation._bucketing import bucket_means
from optkit.testing import golden


def krum(hyperparams):
    square = r"( \(the code squares a squared distance\))?"
    found = hyperparams.match("score", rf"sum over the n-f-([12]) nearest of dist\*\*([124]){square}")
    workers, byzantine = hyperparams["n_workers"], hyperparams["f"]
    if hyperparams.is_word("m"):
        selected = int(hyperparams.match("m", r"n-f=(\d+)")[1])
        assert selected == workers - byzantine
    else:
        selected = hyperparams["m"]
    paper = found[1] == found[2] == "2"
    neighbors = None if paper else workers - byzantine - int(found[1])
    return optkit.krum(byzantine, selected, float(found[2]), neighbors)


def second_rule(hyperparams):
    """The rule behind bucketing or mixing, whose numbers may stand in its name."""
    found = hyperparams.match("second", r"median|rfa( T=(\d+) nu=([\d.]+) z0=0)?|trmean f=(\d+)")
    name, _, iterations, smoothing, trimmed = found[0], *found.groups()
    byzantine = hyperparams["f"]
    if name == "median":
        return optkit.coordinate_median()
    if name.startswith("rfa"):
        return optkit.geometric_median(int(iterations or 3), float(smoothing or 0.1), tolerance=0, start="zeros")
    assert int(trimmed) == byzantine
    return optkit.trimmed_mean(byzantine)


def centered_clip(hyperparams):
    hyperparams.word("v0", ("zeros",))
    return optkit.centered_clip(hyperparams["tau"], hyperparams["n_iter"])


def meamed(hyperparams):
    # For an odd number of workers there is one median.
    lower = "torch lower median (even n: lower of the two middle values)"
    hyperparams.word("centre", (lower, "median"))
    return optkit.meamed(hyperparams["f"])


def read_setting(recording):
    """Reads what a recording of a rule says of its workers; what they sent is recorded too."""
    hyperparams = recording.hyperparams
    assert hyperparams["n_byz"] < hyperparams["n_workers"] == next(iter(recording.tree("grads").values())).shape[1]
    number = r"\d*\.?\d+"
    hyperparams.match("attack", rf"signflip|alie {number}|alie z={number} \(unbiased std\)|ipm (eps=)?{number}")


RULES = {
    "krum": krum,
    "multi_krum": krum,
    "trimmed_mean": lambda h: optkit.trimmed_mean(h["b"]),
    "meamed": meamed,
    "phocas": lambda h: optkit.phocas(h["f"]),
    "cge": lambda h: optkit.cge(h["f"]),
    "nnm": lambda h: optkit.nearest_neighbor_mixing(second_rule(h), h["f"]),
    "centered_clipping": centered_clip,
}


def trajectory(tx, recording, rows):
    """The aggregates and the parameters, equal on all workers, of a server that is sent these rows."""
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), recording.tree("params0"))

    def step(carry, rows):
        params, state = carry
        aggregate, state = tx.update(rows, state, params)
        params = jax.tree.map(lambda p, a: p - recording.hyperparams["lr"] * a, params, aggregate)
        return (params, state), (aggregate, params)

    rows = jax.tree.map(jnp.asarray, rows)
    return jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), rows)[1])(params)


def assert_same(recording, aggregates, params):
    assert_replays(recording, aggregates, "aggregate")
    copies = jax.tree.map(lambda x, like: np.broadcast_to(x[:, None], like.shape), params, recording.tree("params"))
    assert_replays(recording, copies)


def assert_momenta_are_sent(recording, name, decay):
    kinds = {"ema_zero_init": functools.partial(optax.ema, debias=False), "heavyball_first_grad": optax.trace}
    tx = optkit.per_row(kinds[name](decay), recording.hyperparams["n_workers"])
    grads = jax.tree.map(jnp.asarray, recording.tree("grads"))
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), recording.tree("params0"))
    step = lambda state, g: tx.update(g, state)[::-1]  # noqa: E731
    momenta = jax.tree.map(np.asarray, jax.jit(lambda: jax.lax.scan(step, tx.init(params), grads)[1])())
    honest = slice(0, -recording.hyperparams["n_byz"])
    momenta, sent = ({k: x[:, honest] for k, x in tree.items()} for tree in (momenta, recording.tree("sent")))
    assert golden.deviation(momenta, sent) <= recording.meta["rtol"]


@replays("krum", "multi_krum", "trimmed_mean", "meamed", "phocas", "cge", "nnm", "centered_clipping")
def test_golden_aggregates(recording):
    read_setting(recording)
    aggregator = RULES[recording.meta["method"]](recording.hyperparams)
    momentum = recording.hyperparams["worker_momentum"]
    if momentum is not None:
        assert_momenta_are_sent(recording, *momentum)
    sent = recording.tree("grads" if momentum is None else "sent")
    assert_same(recording, *trajectory(aggregator, recording, sent))


def recorded_attack(hyperparams):
    kind, strength = hyperparams.match(
        "attack", r"(signflip|alie|ipm)(?: (?:z|eps)=([\d.]+)(?: \(unbiased std\))?)?"
    ).groups()
    return {
        "signflip": optkit.attacks.sign_flip,
        "alie": lambda honest: optkit.attacks.a_little_is_enough(honest, float(strength)),
        "ipm": lambda honest: optkit.attacks.inner_product_manipulation(honest, float(strength)),
    }[kind]


@replays("centered_clipping")
def test_golden_robust_sgd(recording):
    hyperparams = recording.hyperparams
    attacked = optkit.attacks.under_attack(recorded_attack(hyperparams), hyperparams["n_byz"])
    name, decay = hyperparams["worker_momentum"] or ("ema_zero_init", None)
    tx = optkit.robust_sgd(
        hyperparams["lr"],
        optax.chain(attacked, centered_clip(hyperparams)),
        decay,
        summed={"ema_zero_init": False, "heavyball_first_grad": True}[name],
        workers=hyperparams["n_workers"],
    )
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), recording.tree("params0"))

    def step(carry, rows):
        params, state = carry
        updates, state = tx.update(rows, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    rows = jax.tree.map(jnp.asarray, recording.tree("grads"))
    found = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), rows)[1])(params)
    copies = jax.tree.map(lambda x, like: np.broadcast_to(x[:, None], like.shape), found, recording.tree("params"))
    assert_replays(recording, copies)


@replays("bucketing")
def test_golden_bucketing(recording):
    read_setting(recording)
    hyperparams = recording.hyperparams
    assert hyperparams["worker_momentum"] is None
    rule = second_rule(hyperparams)

    def update(inputs, state, params=None, **extra_args):
        del extra_args
        rows, permutation = inputs
        return rule.update(bucket_means(rows, permutation, hyperparams["bucket_size"])[0], state, params)

    inputs = recording.tree("grads"), recording.arrays["draws.permutation"]
    assert_same(recording, *trajectory(optax.GradientTransformationExtraArgs(rule.init, update), recording, inputs))


@replays("jd_krum", "jd_trimmed_mean")
def test_golden_objectives(recording):
    hyperparams = recording.hyperparams
    objectives = hyperparams["n_objectives"]
    assert objectives == next(iter(recording.tree("jac").values())).shape[1]
    if recording.meta["method"] == "jd_krum":
        byzantine = hyperparams["n_byzantine"]
        aggregator = optkit.krum(byzantine, hyperparams["n_selected"], 1.0, objectives - byzantine - 2)
    else:
        aggregator = optkit.trimmed_mean(hyperparams["trim_number"])
    aggregates, params = golden.replay_jacobian(aggregator, recording, hyperparams["lr"])
    assert_replays(recording, aggregates, "agg")
    assert_replays(recording, params)


@pytest.mark.slow
@replays("monna")
def test_golden_monna(recording):
    hyperparams = recording.hyperparams
    byzantine = hyperparams["f"]
    hyperparams.word("attack.name", ("empire", "little", "mimic", "signflipping"))
    hyperparams.get("attack.kw.factor")  # What attackers sent is recorded.
    if hyperparams.word("rule", {"cva": False, "centeredclip": True}):
        rule = optkit.self_centered_clip(hyperparams["clip_thresh"], hyperparams["L_iter"])
    else:
        rule = optkit.nearest_neighbor_average(byzantine)
    sent = jax.tree.map(jnp.asarray, recording.tree("byzantine"))
    responders = jnp.asarray(recording.arrays["draws.responders"])

    def recorded_mixing(tree, topology, axis_name, *, step, links):
        del topology, links

        def hear(x, attacks):
            honest = jax.lax.all_gather(x, axis_name)[responders[step, jax.lax.axis_index(axis_name)]]
            return jnp.concatenate([honest, jnp.stack([attacks[step]] * byzantine)])

        return rule.update(jax.tree.map(hear, tree, sent), rule.init(tree), own=tree)[0]

    tx = optkit.monna(
        hyperparams["lr"],
        optkit.topology.complete(hyperparams["n_honest"]),
        byzantine,
        hyperparams["momentum"],
        axis_name="workers",
        mixing=recorded_mixing,
    )
    assert_replays(recording, golden.replay_workers(tx, recording))


def attack(name, hyperparams):
    strength = float((re.search(r"(?:factor|eps)([\d.]+)", name) or [0, 0])[1])
    byzantine, workers = hyperparams["n_byz"], hyperparams["n_honest"] + hyperparams["n_byz"]
    kind = re.match(r"[a-z]+(_strict|_all|_linesearch_vs_trmean)?", name)[0]
    if kind == "little_linesearch_vs_trmean":

        def little(honest, strength):
            return optkit.attacks.a_little_is_enough(honest, -strength)

        rule = optkit.trimmed_mean(byzantine)
        return lambda honest: little(honest, optkit.attacks.strongest(little, honest, byzantine, rule, 16))
    sign = 1 if name.endswith("_negative") else -1
    return {
        "alie": lambda x: optkit.attacks.a_little_is_enough(x, optkit.attacks.hidden_deviations(workers, byzantine)),
        "little": lambda x: optkit.attacks.a_little_is_enough(x, sign * strength),
        "empire": lambda x: optkit.attacks.inner_product_manipulation(x, strength - 1),
        "empire_strict": lambda x: optkit.attacks.inner_product_manipulation(x, strength),
        "ipm": lambda x: optkit.attacks.inner_product_manipulation(x, strength),
        "signflipping": optkit.attacks.sign_flip,
        "scaled": lambda x: optkit.attacks.inner_product_manipulation(x, hyperparams["n_honest"] / byzantine),
        "mimic": optkit.attacks.mimic,
        "anticge": lambda x: optkit.attacks.long_among_kept(x, byzantine),
        "bulyan_all": lambda x: optkit.attacks.shifted_mean(x, strength),
    }[kind]


@pytest.mark.slow
@replays("attacks")
def test_golden_attacks(recording):
    honest = jnp.asarray(recording.arrays["honest"])
    attacks = {name: jax.vmap(attack(name, recording.hyperparams)) for name in recording.tree("attack")}
    sent = jax.jit(lambda honest: {name: send(honest) for name, send in attacks.items()})(honest)
    for name, expected in recording.tree("attack").items():
        assert golden.deviation(sent[name], expected) <= recording.meta["rtol"], name
    workers = recording.hyperparams["n_honest"] + recording.hyperparams["n_byz"]
    assert honest.shape[1] == recording.hyperparams["n_honest"]
    deviations = optkit.attacks.hidden_deviations(workers, recording.hyperparams["n_byz"])
    assert deviations == pytest.approx(recording.hyperparams["alie_z_max"], rel=1e-9)
