"""The tiny models, catalogue and exported recommender of `tests/export`, for this room too."""

from ..export.conftest import ask, bias, catalogue, exported, models, open_session

__all__ = ["ask", "bias", "catalogue", "exported", "models", "open_session"]
