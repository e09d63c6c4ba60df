import numpy as np

from cxr_jax.data import order


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = order.rows(7, 3, 0, 21).reshape(3, 7)
    assert (np.sort(epochs) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_any_piece_is_what_the_whole_order_holds_there():
    whole = order.rows(10, 0, 0, 45)
    for start, stop in ((0, 1), (8, 12), (10, 20), (19, 45), (5, 5)):
        np.testing.assert_array_equal(order.rows(10, 0, start, stop), whole[start:stop])


def test_the_seed_decides():
    assert (order.rows(50, 0, 0, 50) != order.rows(50, 1, 0, 50)).any()
