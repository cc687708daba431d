"""A kernel gives the same product whichever way its rows take, and the way is chosen where it runs."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.kernels import FEW_ROWS, FEW_ROWS_ONEDNN, SOME_ROWS, Kernel, Probe, Routes

RANDOM = np.random.default_rng(3)


def matrix(inputs: int, outputs: int) -> np.ndarray:
    return RANDOM.standard_normal((inputs, outputs)).astype(np.float32)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("outputs", [5, 64, 1001])  # less than a block, and blocks that do not come out even
def test_product_is_that_of_the_matrix_on_every_route(outputs: int, whole: bool) -> None:
    value = matrix(768, outputs)
    kernel = Kernel(value, "kernel", large_bytes=0, whole=whole)
    for rows in (0, 1, 7):
        states = matrix(rows, 768)
        for routes in (None, Routes(rows, rows), Routes(0, rows), Routes(0, 0), Routes(rows // 2, rows - 1)):
            found = kernel(tf.constant(states), routes)

            assert found.shape == (rows, outputs)
            np.testing.assert_allclose(found, states @ value, atol=2e-4)


def test_blocks_are_read_for_rows_before_the_last_cut_and_the_matrix_after_it() -> None:
    kernel = Kernel(matrix(16, 300), "kernel", large_bytes=0)
    assert kernel.matrix is not None
    kernel.matrix.assign(tf.fill(kernel.matrix.shape, 7.0))  # only to tell them apart
    found = kernel(tf.ones([5, 16]), Routes(1, 3)).numpy()

    assert (np.ptp(found[:3], axis=1) > 0).all()
    np.testing.assert_array_equal(found[3:], np.full((2, 300), 112.0))


def test_new_values_reach_both_ways() -> None:
    value, states = matrix(32, 200), matrix(2, 32)
    kernel = Kernel(tf.zeros_like(value), "kernel", large_bytes=0)
    kernel.assign(value)

    for routes in (None, Routes(1, 2)):
        np.testing.assert_allclose(kernel(tf.constant(states), routes), states @ value, atol=1e-4)


@pytest.mark.parametrize("large_bytes", [0, 10**9])
def test_columns_are_those_of_the_matrix(large_bytes: int) -> None:
    value = matrix(24, 150)
    kernel = Kernel(value, "kernel", large_bytes, whole=False)

    np.testing.assert_array_equal(
        kernel.columns(tf.constant([[0, 149], [64, 63]])), value.T[[[0, 149], [64, 63]]]
    )


def test_small_kernel_stands_once_and_a_large_one_only_once_if_asked() -> None:
    assert len(Kernel(matrix(64, 64), "kernel").variables) == 1
    assert len(Kernel(matrix(768, 400), "kernel").variables) == 2
    assert len(Kernel(matrix(768, 400), "kernel", whole=False).variables) == 1


@pytest.mark.parametrize("onednn", [False, True])
def test_routes_depend_on_what_computes_products(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "__call__", lambda self: tf.constant(onednn))
    few, some = (FEW_ROWS_ONEDNN, SOME_ROWS) if onednn else (FEW_ROWS, FEW_ROWS)

    found = {rows: tuple(map(int, Probe().routes(tf.constant(rows)))) for rows in range(SOME_ROWS + 2)}

    assert found == {
        rows: (rows if rows <= few else 0, rows if rows <= some else 0) for rows in range(SOME_ROWS + 2)
    }


def test_probe_sees_no_onednn_where_it_is_off() -> None:
    code = """
        import tensorflow as tf
        from genre_tf.generation.kernels import Probe
        print(bool(tf.function(Probe())()))
    """
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )

    assert run.stdout.strip() == "False", run.stderr
