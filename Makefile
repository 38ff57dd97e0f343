# make demo | test | bench | test-sanitize | test-arm64 | build | clean: each does all the set-up that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SYSTEM_PACKAGES := g++ cmake ninja-build clang-format python3-dev python3-venv \
	doctest-dev libpthreadpool-dev libxnnpack-dev \
	g++-aarch64-linux-gnu mmdebstrap qemu-user-static \
	dpkg-dev python3-systemd systemd systemd-container  # libxnnpack-dev forgets to depend on libpthreadpool-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet
# Rockchip's toolkit wants older packages than the planner (and names an older torch than it runs with: --no-deps).
RKNN_VENV := .rknn-env
RKNN_TOOLKIT := rknn-toolkit2==2.5.0
RKNN_PACKAGES := numpy==1.26.4 onnx==1.18.0 onnxruntime==1.26.0 protobuf==4.25.4 psutil ruamel.yaml scipy tqdm \
	opencv-python==4.11.0.86 fast-histogram "setuptools<81" torch==2.13.0
RKNN_STAMP := $(RKNN_VENV)/.installed-$(RKNN_TOOLKIT)
RKNN_PIP := $(RKNN_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --quiet
export PIQI_WERROR := 1
# Small linear algebra: threads that spin for each other cost more than they give.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

# What runs on a board. PYTHON_BOARD: its interpreter, if not /usr/bin/python3 or the one of $(VENV).
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
PYTHON_BOARD ?=

.PHONY: help demo test test-sanitize test-arm64 bench build install deb rknn-env system clean
.DELETE_ON_ERROR:

help:
	@echo "make demo           classify handwritten digits under several run configurations"
	@echo "make test           all tests, the C++ ones also under address, undefined and thread sanitizers"
	@echo "make test-sanitize  only those under the sanitizers"
	@echo "make test-arm64     only those of the Arm Compute Library's backends, under qemu"
	@echo "make bench          every benchmark, each with its peer beside it"
	@echo "make build          the virtual environment and the extension (recompiles what has changed)"
	@echo "make install        the daemon, its units and its Python packages under PREFIX (/usr/local), DESTDIR in front"
	@echo "make deb            the same as a Debian package, in dist/"
	@echo "make rknn-env       the virtual environment of Rockchip's toolkit, for planner prepare (several GB)"
	@echo "make clean          removes build products; the virtual environments ($(VENV), $(RKNN_VENV)) stay"

demo: build
	@$(BIN)/planner demo

test: system
	@$(MAKE) --no-print-directory -j2 build rknn-env
	@$(BIN)/python -m pytest $(ARGS)

test-arm64: build
	@$(BIN)/python -m pytest tests/arm64 $(ARGS)

test-sanitize: build
	@$(BIN)/python -m pytest tests/native/test_native.py -k "not plain-" $(ARGS)

bench: build
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

build: $(STAMP)
	@echo "building the extension"
	@$(BIN)/python setup.py --quiet build_ext --inplace

install: build
	@$(BIN)/python scripts/install_files.py --prefix "$(PREFIX)" --sysconfdir "$(SYSCONFDIR)" --destdir "$(DESTDIR)" \
		$(if $(PYTHON_BOARD),--python "$(PYTHON_BOARD)")

deb: build
	@scripts/build_deb $(BIN)/python $(ARGS)

rknn-env: $(RKNN_STAMP)

$(RKNN_STAMP): | system
	@test -x $(RKNN_VENV)/bin/python || { echo "creating $(RKNN_VENV)"; $(PYTHON) -m venv $(RKNN_VENV); }
	@echo "installing $(RKNN_TOOLKIT) and PyTorch into $(RKNN_VENV) (takes minutes)"
	@$(RKNN_PIP) $(RKNN_PACKAGES)
	@$(RKNN_PIP) --no-deps $(RKNN_TOOLKIT)
	@touch $@

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
