import jax
import jax.numpy as jnp
import numpy as np
from golden_files import assert_replays, replays

from optkit.compressors._ternary import ternary_rule


@replays("terngrad")
def test_golden_terngrad(recording):
    hyperparams = recording.hyperparams
    rate, shared = hyperparams["learning_rate"], hyperparams["shared_scaler"]
    follow = hyperparams.word("variant", {"paper": "paper", "official": "code"})
    rule = ternary_rule(hyperparams["clip_factor"], follow, "workers" if shared else None)
    start, grads = recording.tree("params0"), recording.tree("grads")
    assert all(len(x) == hyperparams["n_workers"] for x in start.values())

    def worker(gradient, uniform):
        sent = rule.encode(gradient.ravel(), uniform.ravel())
        return jax.lax.pmean(rule.decode(sent, gradient.size, float).reshape(gradient.shape), "workers")

    steps = jax.jit(jax.vmap(jax.vmap(worker, axis_name="workers")))
    mean = {leaf: steps(grads[leaf], jnp.asarray(recording.arrays[f"draws.u.{leaf}"])) for leaf in grads}
    assert_replays(recording, {leaf: start[leaf] - rate * np.cumsum(x, axis=0) for leaf, x in mean.items()})
