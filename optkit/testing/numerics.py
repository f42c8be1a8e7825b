"""Points 3, 5 and 6 of the contract: finite numbers, convergence, equal runs, checkpoints."""

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.testing import problems, trees
from optkit.testing.case import STEPS, Case, compiled, require

HALFWAY = STEPS // 2
HONEST_STEPS = 3_000
START_DISTANCE = 0.1
COMPLEX_STEPS = 8


def stays_finite_in_float16(case: Case) -> None:
    """Float16 gradients of 0, 1e-4 and 1e3 give finite updates and states from the first step on."""
    require(_not_finite(case, "float16", (0.0, 1e-4, 1e3)))


def stays_finite_in_bfloat16(case: Case) -> None:
    """Bfloat16 gradients of 0, 1e-30 and 1e15 give finite updates and states from the first step on."""
    require(_not_finite(case, "bfloat16", (0.0, 1e-30, 1e15)))


def stays_finite_in_float32(case: Case) -> None:
    """Float32 gradients of 0, 1e-30 and 1e15 give finite updates and states from the first step on."""
    require(_not_finite(case, "float32", (0.0, 1e-30, 1e15)))


def recovers_from_nan(case: Case) -> None:
    """Under `optax.apply_if_finite`, a NaN gradient changes nothing, and the run continues."""
    tx = optax.with_extra_args_support(optax.apply_if_finite(case.build(), max_consecutive_errors=3))
    step = compiled(case.step(tx))
    params = case.params()
    first, second = case.gradients[:2]
    carry = step(params, case.init(tx)(params), first)
    carry = step(*carry, jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), first))
    params, _ = step(*carry, second)
    require(case.run_differences(params, "a NaN gradient between two others", step=2))


def is_honest_about_bad_gradients(case: Case) -> None:
    """After a NaN or infinite entry in one gradient it still nears the minimum, or its parameters are not finite.

    The loss is quadratic, and one entry of the third gradient is bad. After 3,000 steps the parameters are at most
    twice as far from the minimum as without the bad entry, so the method does not stop or drift without being noticed.
    """
    shapes = {"matrix": (3, 4), "vector": (3,)}
    centre, direction = case.params(shapes, seed=1), case.params(shapes, seed=2)
    start = jax.tree.map(lambda c, d: c + START_DISTANCE * d, centre, direction)
    entries = [("no entry", 0.0), *((f"{bad} in a {name}", bad) for name in shapes for bad in (np.nan, np.inf))]
    bad = jax.tree.map(lambda x: np.zeros((len(entries), *x.shape), np.float32), centre)
    for number, (words, entry) in enumerate(entries[1:], start=1):
        bad[words.rpartition(" ")[2]][number].flat[0] = entry  # of the first worker, where there are several

    over_entries = jax.vmap(lambda bad: problems.descend(case, start, centre, bad, HONEST_STEPS))
    distances = np.asarray(compiled(over_entries)(bad)[1])
    allowed = 2.0 * distances[0, -HONEST_STEPS // 10 :].max()
    require(
        [
            f"after one entry of {words} it is {last:.3g} from the minimum, where {allowed:.3g} is allowed"
            for (words, _), last in zip(entries, distances[:, -1], strict=True)
            if np.isfinite(last) and last > allowed
        ]
    )


def takes_complex_numbers(case: Case) -> None:
    """Complex parameters descend in all directions, or a `TypeError` at `init` says how to represent them.

    The error names `split_real_and_imaginary`, or says to hold the real and imaginary parts as two leaves. A method
    that reduces rows may raise it at `update`. Gradients are directions of steepest ascent, as in Optax: conjugates of
    what `jax.grad` returns. If start and minimum are multiplied by i, all parameters on the way must be multiplied by i
    too.
    """
    shapes = {"matrix": (3, 4), "vector": (3,)}
    start, centre = (
        jax.tree.map(lambda x, y: x + 1j * y, case.params(shapes, seed=seed), case.params(shapes, seed=seed + 1))
        for seed in (0, 2)
    )

    def descend(turn):
        from_start, to_centre = (jax.tree.map(lambda x: turn * x, tree) for tree in (start, centre))
        return problems.descend(case, from_start, to_centre, optax.tree.zeros_like(start), COMPLEX_STEPS)[0]

    at_init = True
    try:
        case.init(case.build())(start)
        at_init = False
        ends = compiled(jax.vmap(descend))(jnp.array([1.0, 1j, 0.0], jnp.complex64))
    except TypeError as error:
        words = " ".join(str(error).split())
        if "split_real_and_imaginary" in words or "real and imaginary parts as two leaves" in words:
            require([] if at_init or case.stacked else [f"init took complex parameters, and update raised {error}"])
            return
        raise
    lines = []
    for name, c in centre.items():
        before, after = np.asarray(start[name] - c), np.asarray(ends[name][0] - c)
        for part in ("real", "imag"):
            far, near = (float(np.abs(getattr(x, part)).sum()) for x in (before, after))
            if case.rate is not None and not near <= far:
                lines.append(f"the {name}'s {part} part was {far:.6g} from the minimum, and is {near:.6g} after steps")
        end, turned, noise = np.asarray(ends[name])
        # What moves without gradients adds noise, which has a direction of its own.
        allowed = np.inf if noise.any() else 1e-3 * np.abs(before - after).max()
        difference = np.abs(turned - 1j * end).max()
        if not difference <= allowed:
            lines.append(f"the {name} from a start times i goes another way, by {difference:.3g}")
    require(lines)


def solves_problems(case: Case) -> None:
    """Solves Optax's four problems with the example's learning rate decayed to zero by a cosine over 30,000 steps."""
    if case.rate is None:
        return
    require(problems.unsolved(case))


def is_deterministic(case: Case) -> None:
    """Built a second time, it runs the same bit for bit."""
    again = case.run()
    require(trees.value_differences(case.reference.points[-1], again.points[-1], "final parameters and state"))


def continues_from_orbax(case: Case) -> None:
    """A run restored from an Orbax checkpoint continues bit for bit."""
    import orbax.checkpoint as ocp  # noqa: PLC0415  (Orbax is an extra)

    saved, target = case.reference.points[HALFWAY], _start_anew(case)
    # Not StandardCheckpointer: it refuses to save while its threads still write, into a folder that is being removed.
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    with tempfile.TemporaryDirectory() as folder, checkpointer:
        path = pathlib.Path(folder) / "checkpoint"
        checkpointer.save(path, args=ocp.args.StandardSave(saved))
        restored = checkpointer.restore(path, args=ocp.args.StandardRestore(target))
    _require_same_end(case, restored)


def continues_from_flax(case: Case) -> None:
    """A run restored by Flax serialization continues bit for bit."""
    from flax import serialization  # noqa: PLC0415  (Flax is an extra)

    data = serialization.to_bytes(case.reference.points[HALFWAY])
    _require_same_end(case, serialization.from_bytes(_start_anew(case), data))


def _not_finite(case: Case, dtype: str, scales: tuple[float, ...]) -> list[str]:
    """Lists what is not finite, at which scale, and after how many steps."""
    tx = case.build()
    update = case.update(tx)
    params = case.params(trees.SHAPES, dtype)
    gradients = case.params(trees.SHAPES, "float32", seed=1)

    def finite_steps(scale, params):
        def step(carry, _):
            params, state = carry
            scaled = jax.tree.map(lambda g, p: (scale * g).astype(p.dtype), gradients, params)
            updates, state = update(scaled, state, params)
            finite = jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), {"updates": updates, "state": state})
            return (optax.apply_updates(params, updates), state), finite

        return jax.lax.scan(step, (params, case.init(tx)(params)), length=STEPS)[1]

    over_scales = compiled(jax.vmap(finite_steps, (0, None)))
    finite = over_scales(jnp.asarray(scales, jnp.float32), params)
    lines = []
    for place, leaf in trees.flatten(finite):
        for scale, steps in zip(scales, np.asarray(leaf), strict=True):
            if not np.all(steps):
                lines.append(
                    f"{dtype}, gradients of {scale:g}: {place} is not finite after step {np.argmin(steps) + 1}"
                )
    return lines


def _start_anew(case: Case) -> Any:
    """Returns parameters and state as another process would make them to restore a checkpoint into."""
    params = case.params()
    return params, case.init(case.build())(params)


def _require_same_end(case: Case, carry: Any) -> None:
    for gradients in case.gradients[HALFWAY:]:
        carry = case.reference.step(*carry, gradients)
    require(trees.value_differences(case.reference.points[-1], carry, "final parameters and state"))
