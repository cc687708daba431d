"""The tiny models, catalogue and exported recommender of `tests/export`, for this room too."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "export" / "conftest.py"
_spec = importlib.util.spec_from_file_location("export_fixtures", _FILE)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

models, catalogue, bias = _fixtures.models, _fixtures.catalogue, _fixtures.bias
exported, ask, open_session = _fixtures.exported, _fixtures.ask, _fixtures.open_session
