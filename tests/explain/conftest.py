"""The tiny run of the evaluation's tests, which explanations are made of."""

from ..evaluation.conftest import build_run, tiny_data, tiny_run  # noqa: F401  (fixtures)
