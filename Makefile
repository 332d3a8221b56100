# `make demo` and `make test` need Python 3.11 or newer and a package index; everything else they make.
VENV ?= .venv
PYTHON ?= python3
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-all test-engines bench bench-gpu gpu-check viewer lint format docs clean

help:
	@echo "make demo      train on a few real clips on the CPU, drive avatars, write runs/demo/report.html"
	@echo "make test      the tests that take minutes together (PYTEST_ARGS=... is handed on)"
	@echo "make test-all  all tests, slow ones included"
	@echo "make test-engines  real SLURM, Ray and S3 on this machine; installs them from Debian and PyPI"
	@echo "make gpu-check eight minutes on one GPU: equality, waiting, speed, memory, then training"
	@echo "make bench     every figure of docs/performance.md beside its peers, on the CPU; make bench-gpu: on a GPU"
	@echo "make viewer    builds the page of rome avatar view anew (needs npm; its result is in the repository)"
	@echo "make docs      the documentation as a site in build/site; a broken link ends it"
	@echo "make lint      ruff and mypy;  make format: ruff, in place"
	@echo "make install   only the virtual environment (VENV=$(VENV))"
	@echo "make clean     removes build products; keeps the environment, runs and the asset cache"

install: $(STAMP)

# Made anew when the dependencies change. The stamp is written last: a broken installation is not kept as done.
$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing PyTorch and the rest into $(VENV): some gigabytes, once"
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/rome demo
	@echo "for the rome command in this shell: . $(BIN)/activate"

# Khronos' glTF validator, three-vrm and TalkingHead, if npm is there; without them the tests that need them are skipped and say so.
export GLTF_VALIDATOR := $(abspath $(VENV))/node
$(GLTF_VALIDATOR): $(STAMP)
	mkdir -p $@
	npm install --silent --no-fund --prefix $@ gltf-validator@2.0.0-dev.3.10 three@0.187.0 @pixiv/three-vrm@3 @met4citizen/talkinghead@1.7.0 || true

# A process per core, each with one thread; the tests of a file stay together, because they share what is dear to make.
# Files start in the order of tests/conftest.py, the longest first; xdist itself starts those with the most tests first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(STAMP) $(GLTF_VALIDATOR)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# One of the slow tests builds the site. Babylon.js takes 110 MB.
test-all: $(STAMP) $(GLTF_VALIDATOR)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	npm install --silent --no-fund --prefix $(GLTF_VALIDATOR) @babylonjs/core@9 @babylonjs/loaders@9 || true
	$(PYTEST) $(PYTEST_ARGS)

# SLURM with two virtual nodes, Ray, an S3 server: a quarter of an hour, not part of `make test-all`.
test-engines: $(STAMP)
	tests/engines/set_up.sh $(BIN)/python
	ROME_TEST_ENGINES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/engines $(PYTEST_ARGS)

# BENCH_ARGS=... is handed on, e.g. "--only renderer --release CHECKOUT". The other scripts in benchmarks/ have
# figures of their own; docs/performance.md says which.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

bench-gpu: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/run.py --device cuda $(BENCH_ARGS)

# Eight minutes on one GPU: equality, waiting, speed, memory, then training for the time left.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py $(GPU_CHECK_ARGS)

# The pages of `rome avatar view` and `export --format web`, each with three.js in one file; kept in the repository.
viewer:
	npm ci --prefix viewer && npm run build --prefix viewer

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html: open it in a browser; its search wants a server: $(BIN)/python -m http.server -d build/site"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
