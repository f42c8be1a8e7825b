"""Points 1 and 2 of the contract: JAX's transformations, dtypes, shapes and trees."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.testing import trees
from optkit.testing.case import Case, compiled, require


def keeps_types(case: Case) -> None:
    """Updates and states keep structure, shape, dtype and weak type in float16, bfloat16, float32 and float64."""
    lines = []
    for dtype in trees.DTYPES:
        with in_precision(dtype):
            tx = case.build()
            lines += [f"{dtype}: {line}" for line in changed_types(case, tx, trees.abstract(trees.SHAPES, dtype))]
    require(lines)


def initialises_under_jit(case: Case) -> None:
    """A jitted `init` returns the same state as one outside `jit`."""
    tx, params = case.build(), case.params()
    eager = case.per_worker(tx.init)(params)
    jitted = compiled(case.per_worker(tx.init))(params)
    eager_types, jitted_types = (jax.eval_shape(lambda x: x, state) for state in (eager, jitted))
    require(
        trees.type_differences(eager_types, jitted_types, "state")
        or trees.value_differences(eager, jitted, "state", 1e-6)
    )


def compiles_once(case: Case) -> None:
    """The second and all later steps do not compile again."""
    traces = case.reference.traces
    require([f"{len(case.gradients)} equal steps were compiled {traces} times"] if traces > 1 else [])


def allows_donation(case: Case) -> None:
    """Parameters and state can be donated, and the run stays the same."""
    tx = case.build()
    step = compiled(case.step(tx), donate_argnums=(0, 1))
    params = case.params()
    state = case.init(tx)(params)
    with warnings.catch_warnings():
        # A state whose types change cannot reuse its buffers; `keeps_types` says which.
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        for gradient in case.gradients:
            params, state = step(params, state, gradient)
    require(case.run_differences(params, "with donated buffers"))


def runs_in_scan_and_vmap(case: Case) -> None:
    """Under `lax.scan` and `vmap`, over seeds and an injected learning rate, it runs as in single steps."""
    seeds = [case.reference.points[0][0], case.params(seed=100)]
    params = stack(seeds)
    gradients = stack([stack(case.gradients), stack([case.params(seed=200 + i) for i in range(4)])])

    def train(rate, params, gradients):
        tx = case.build() if rate is None else case.build_injected(**{case.tuned: rate})
        step = case.step(tx)
        start = params, case.init(tx)(params)
        (params, _), _ = jax.lax.scan(lambda carry, gradient: (step(*carry, gradient), None), start, gradients)
        return params

    over_seeds = jax.vmap(train, (None, 0, 0))
    if case.rate_is_number and case.tuned not in case.static_args:
        rates = jnp.asarray([case.rate, 0.5 * case.rate], jnp.float32)
        results = compiled(jax.vmap(over_seeds, (0, None, None)))(rates, params, gradients)
        results = jax.tree.map(lambda x: x[0], results)
    else:
        results = compiled(over_seeds)(None, params, gradients)
    require(case.run_differences(jax.tree.map(lambda x: x[0], results), "under scan and vmap"))


def takes_all_shapes(case: Case) -> None:
    """Accepts scalars, vectors, matrices, kernels, empty leaves, `None`, `optax.MaskedNode` and empty trees."""
    special = {**trees.SHAPES, **trees.EMPTY_SHAPES, "None": None}
    if not case.calls_functions:  # which refuse to stand inside `optax.masked`
        special["optax.MaskedNode"] = optax.MaskedNode()
    params, gradients = case.params(special), case.params(special, seed=1)
    lines = [f"an empty tree: {line}" for line in failures_or_changed_types(case, {})]
    tx = case.build()
    try:
        state = case.init(tx)(params)
        updates, new_state = compiled(case.update(tx))(gradients, state, params)
    except Exception as error:  # noqa: BLE001  (any error of the transformation is the finding)
        changed = [f"raised {describe(error)}"]
    else:
        before, after = (jax.eval_shape(lambda x: x, tree) for tree in ((gradients, state), (updates, new_state)))
        changed = trees.type_differences(before[0], after[0], "updates")
        changed += trees.type_differences(before[1], after[1], "state")
        finite = {place: bool(np.all(np.isfinite(update))) for place, update in trees.flatten(updates)}
        lines += [f"all together: the update of {place} is not finite" for place, good in finite.items() if not good]
    if changed:
        of_kinds = [
            f"a tree with a leaf of kind {name}: {line}"
            for name, leaf in special.items()
            for line in failures_or_changed_types(case, trees.abstract({"vector": (5,), "special": leaf}))
        ]
        lines += of_kinds or [f"all together: {line}" for line in changed]
    require(lines)


def takes_all_containers(case: Case) -> None:
    """Accepts nested dicts, tuples, dataclasses, and Flax NNX and Linen parameters."""
    lines = []
    for name, params in trees.containers():
        lines += [f"{name}: {line}" for line in failures_or_changed_types(case, params)]
    require(lines)


def takes_huge_leaves(case: Case) -> None:
    """Accepts leaves of 2**31 entries, under `jax.eval_shape`."""
    lines = []
    for shape in ((2**16, 2**15), (2**31,)):
        lines += [f"{shape}: {line}" for line in failures_or_changed_types(case, trees.abstract({"huge": shape}))]
    require(lines)


def promotes_no_ranks(case: Case) -> None:
    """Works if `jax_numpy_rank_promotion` is "raise"."""
    with jax.numpy_rank_promotion("raise"):
        require(changed_types(case, case.build(), trees.abstract(trees.SHAPES)))


def failures_or_changed_types(case: Case, params: object) -> list[str]:
    """Returns the lines of `changed_types`, or the error that the transformation raised instead."""
    try:
        return changed_types(case, case.build(), params)
    except Exception as error:  # noqa: BLE001  (any error of the transformation is the finding)
        return [f"raised {describe(error)}"]


def changed_types(case: Case, tx: optax.GradientTransformationExtraArgs, params: object) -> list[str]:
    """Lists what changes type in one abstract update: in the state, or in the updates compared with the gradients."""
    params = case.stack(params)
    state = jax.eval_shape(case.init(tx), params)
    updates, new_state = jax.eval_shape(case.update(tx), params, state, params)
    return trees.type_differences(params, updates, "updates") + trees.type_differences(state, new_state, "state")


def in_precision(dtype: str) -> contextlib.AbstractContextManager:
    """Switches to double precision if a dtype needs it."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def stack(items: list) -> object:
    """Stacks trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *items)


def describe(error: BaseException) -> str:
    """Returns an error in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
