# make demo | test | bench | test-sanitize | build | clean: each does all the set-up that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SYSTEM_PACKAGES := g++ cmake ninja-build clang-format python3-dev python3-venv \
	doctest-dev libpthreadpool-dev libxnnpack-dev  # libxnnpack-dev forgets to depend on libpthreadpool-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet
export PIQI_WERROR := 1
# Small linear algebra: threads that spin for each other cost more than they give.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help demo test test-sanitize bench build system clean
.DELETE_ON_ERROR:

help:
	@echo "make demo           classify handwritten digits under several run configurations"
	@echo "make test           all tests, the C++ ones also under address, undefined and thread sanitizers"
	@echo "make test-sanitize  only those under the sanitizers"
	@echo "make bench          every benchmark, each with its peer beside it"
	@echo "make build          the virtual environment and the extension (recompiles what has changed)"
	@echo "make clean          removes build products; the virtual environment ($(VENV)) stays"

demo: build
	@$(BIN)/planner demo

test: build
	@$(BIN)/python -m pytest $(ARGS)

test-sanitize: build
	@$(BIN)/python -m pytest tests/native/test_native.py -k "not plain-" $(ARGS)

bench: build
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

build: $(STAMP)
	@echo "building the extension"
	@$(BIN)/python setup.py --quiet build_ext --inplace

system:
	@scripts/install_system_packages $(SYSTEM_PACKAGES)

$(STAMP): pyproject.toml setup.py native/include/piqi/version.hpp | system
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing Python packages into $(VENV) (the first time takes minutes)"
	@$(PIP) "setuptools>=77" "pybind11>=2.13"
	@$(PIP) --no-build-isolation --editable ".[planner,dev]"
	@touch $@

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis native/piqi_native/*.so
	find runtime planner native tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f $(STAMP)
