# make demo: colour the examples with the model in the package.
# make test: what CI checks, with the quick tests. make test-all: the slow tests too.
# make docs: the documentation site, in site/. make package: wheel and source distribution, in dist/.
# make web: the page that colours photos in the browser, in web/dist and infer/web; make docs and make package take it in.
# make benchmarks-test: all tests of the benchmarks; the others have one quick test for each.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# ONNX Runtime of make demo: cpu, or gpu for an NVIDIA GPU.
RUNTIME ?= cpu

# Modules are compiled once and not by every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick-tests test-all lint docs package web web-if-npm benchmarks-test format clean

demo: $(VENV)/base
	$(BIN)/cgan-infer folder examples out --overwrite
	@echo "Look at the coloured photos in $(CURDIR)/out"

lint: $(VENV)/develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Lint keeps one core busy, and tests as many as there are.
test: $(VENV)/develop
	@$(MAKE) --no-print-directory -j 2 quick-tests lint

quick-tests: $(VENV)/develop
	$(BIN)/pytest -n auto

test-all: lint
	$(BIN)/pytest -n auto -m 'not benchmarks'

docs: $(VENV)/docs web-if-npm
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "To read and search it: $(BIN)/python -m http.server -d site 8000, then http://127.0.0.1:8000"

package: $(BIN)/python web-if-npm
	$(BIN)/python -m pip install --quiet --no-compile --group package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

web: web/dist/index.html
	rm -rf infer/web
	cp -r web/dist infer/web

web/dist/index.html: $(wildcard web/*.* web/public/* web/src/*) infer/models/flowers-int8.onnx infer/models/flowers-int8.onnx.json
	cd web && npm ci --no-audit --no-fund && npm run build

# Without npm, a page that was built elsewhere and lies in web/dist and infer/web is taken as it is.
web-if-npm:
ifneq ($(shell command -v npm 2>/dev/null),)
	@$(MAKE) --no-print-directory web
else
	@test -e web/dist/index.html || echo "npm was not found: the page that colours photos in the browser is left out"
endif

benchmarks-test: $(VENV)/develop
	$(BIN)/pytest -n auto -m '' tests/benchmarks

format: $(VENV)/develop
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) out build dist site *.egg-info web/dist web/node_modules infer/web

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "found Python %d.%d, expected 3.11 or newer; set PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --upgrade pip

# The base package and its ONNX Runtime: no torch. Nothing is installed where `make test` already put more.
$(VENV)/base: $(BIN)/python pyproject.toml $(wildcard cgan/*.py cgan/*/*.py infer/*.py infer/*/*.py infer/models/*)
	test -e $(VENV)/develop || $(BIN)/python -m pip install --quiet --no-compile '.[$(RUNTIME)]'
	touch $@

# What builds the documentation, without torch.
$(VENV)/docs: $(BIN)/python pyproject.toml
	test -e $(VENV)/develop || $(BIN)/python -m pip install --quiet --no-compile --editable . --group docs
	touch $@

# The runtime for CPUs goes first, because that for GPUs overwrites its files. torch before the rest and without a pin, so
# that torch and torchvision come as one matching pair. Python compiles what is imported; compiling all of it beforehand
# takes minutes.
$(VENV)/develop: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip uninstall -qq --yes onnxruntime
	$(BIN)/python -m pip install --quiet --no-compile torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[all]' --group dev
	touch $@
