import networkx as nx
import numpy as np
import pytest

from optkit.decentralized import metropolis_walk, stationary_distribution


@pytest.mark.usefixtures("x64")
def test_metropolis_walk_is_reversible_for_its_target():
    target = np.array([1.0, 2.0, 3.0, 1.0, 0.5])
    chain = metropolis_walk(nx.star_graph(4), target)
    flows = target[:, None] * chain
    np.testing.assert_allclose(flows, flows.T, atol=1e-15)
    np.testing.assert_allclose(chain.sum(axis=1), 1)
    np.testing.assert_allclose(stationary_distribution(chain), target / target.sum())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="must be connected, got 2 parts"):
        metropolis_walk(nx.empty_graph(2))
    with pytest.raises(ValueError, match="target must be 3 positive numbers"):
        metropolis_walk(nx.path_graph(3), [1.0, 0.0, 1.0])
