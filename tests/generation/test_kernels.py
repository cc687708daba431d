"""A kernel gives the same product for a few rows, which meet it in blocks, as for many."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.cached_decoder import FEW_ROWS, Kernel, few_rows

RANDOM = np.random.default_rng(3)


def matrix(inputs: int, outputs: int) -> np.ndarray:
    return RANDOM.standard_normal((inputs, outputs)).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 3, FEW_ROWS, FEW_ROWS + 1, 40])
@pytest.mark.parametrize("outputs", [5, 64, 1001])  # less than a block, and blocks that do not come out even
def test_product_is_that_of_the_matrix(rows: int, outputs: int) -> None:
    value, states = matrix(768, outputs), matrix(rows, 768)
    kernel = Kernel(value, "kernel", large_bytes=0)

    found = kernel(tf.constant(states), few_rows(states))

    assert found.shape == (rows, outputs)
    np.testing.assert_allclose(found, states @ value, atol=2e-4)


def test_few_rows_do_not_read_the_matrix_and_many_do_not_read_the_blocks() -> None:
    kernel = Kernel(matrix(16, 300), "kernel", large_bytes=0)
    assert kernel.blocks is not None
    kernel.matrix.assign(tf.fill(kernel.matrix.shape, 7.0))  # only to tell them apart
    few, many = tf.ones([FEW_ROWS, 16]), tf.ones([FEW_ROWS + 1, 16])

    assert np.ptp(kernel(few, few_rows(few))) > 0
    np.testing.assert_array_equal(kernel(many, few_rows(many)), np.full((FEW_ROWS + 1, 300), 112.0))


def test_new_values_reach_both_ways() -> None:
    value = matrix(32, 200)
    kernel = Kernel(tf.zeros_like(value), "kernel", large_bytes=0)
    kernel.assign(value)

    for rows in (1, FEW_ROWS + 1):
        states = matrix(rows, 32)
        np.testing.assert_allclose(kernel(states, few_rows(states)), states @ value, atol=1e-4)


def test_small_kernel_stands_once() -> None:
    assert len(Kernel(matrix(64, 64), "kernel").variables) == 1
    assert len(Kernel(matrix(768, 400), "kernel").variables) == 2
