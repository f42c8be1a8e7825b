import jax.numpy as jnp
import numpy as np

from optkit.core.stacking import map_equal_shapes


def test_what_is_no_array_is_handed_on_and_keeps_leaves_apart():
    seen = []

    def scale(x, factor):
        seen.append((x.shape, factor))
        return {"scaled": factor * x, "sum": jnp.sum(x, axis=1)}

    tree = {"a": jnp.ones(2), "b": 2 * jnp.ones(2), "c": 3 * jnp.ones(2)}
    results = map_equal_shapes(scale, tree, {"a": 10, "b": 1, "c": 10})
    assert sorted(seen) == [((1, 2), 1), ((2, 2), 10)]
    np.testing.assert_array_equal(results["c"]["scaled"], [30.0, 30.0])
    assert {name: float(result["sum"]) for name, result in results.items()} == {"a": 2.0, "b": 4.0, "c": 6.0}


def test_leaves_share_a_call_where_all_their_arrays_are_alike():
    shapes = []

    def product(x, y):
        shapes.append(y.shape)
        return x * jnp.sum(y)

    tree = {"a": jnp.ones(2), "b": jnp.ones(2), "none": None}
    results = map_equal_shapes(product, tree, {"a": jnp.ones(3), "b": jnp.ones(4), "none": None})
    assert sorted(shapes) == [(1, 3), (1, 4)]
    np.testing.assert_array_equal(results["b"], [4.0, 4.0])


def test_no_leaves_give_no_calls():
    assert map_equal_shapes(None, {"a": None}, {"a": None}) == {"a": None}


def test_a_stack_has_at_most_eight_leaves():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x

    leaves = [jnp.full(2, float(index)) for index in range(20)]
    np.testing.assert_array_equal(map_equal_shapes(double, leaves), 2 * jnp.stack(leaves))
    assert sizes == [8, 8, 4]
