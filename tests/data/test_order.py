import numpy as np
import pytest
from scipy import stats

from cxr_jax.data import order


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = order.rows(7, 3, 0, 21).reshape(3, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("of", [order.rows, order.numbers])
def test_any_piece_is_what_the_whole_order_holds_there(of):
    whole = of(10, 0, 0, 45)
    for start, stop in ((0, 1), (8, 12), (10, 20), (19, 45), (5, 5)):
        np.testing.assert_array_equal(of(10, 0, start, stop), whole[start:stop])


@pytest.mark.parametrize("of", [order.rows, order.numbers])
def test_the_seed_decides(of):
    assert (of(50, 0, 0, 50) != of(50, 1, 0, 50)).any()


def test_numbers_are_uniform_and_of_their_positions_not_of_their_rows():
    numbers = order.numbers(1000, 3, 0, 20_000)
    assert stats.kstest(numbers, "uniform").pvalue > 0.01 and len(set(numbers)) == 20_000
    assert abs(np.corrcoef(numbers, order.rows(1000, 3, 0, 20_000))[0, 1]) < 0.03
