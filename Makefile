# Every target makes what it needs; nothing has to be installed before `make run` or `make test` but Python >= 3.11 and
# a C compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
FAST := $(wildcard agw/_fast/*.pyx agw/_fast/*.pxd)

.PHONY: run test retest lint fuzz bench locust interop conformance matrix wheel schema clean build

run: build  ## build and serve the embedded default: a demo MCP server behind http://127.0.0.1:3000/mcp
	$(BIN)/agw serve

build: $(VENV)/built

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "agw needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip "setuptools>=77" wheel "Cython==3.3.1"

$(VENV)/built: $(VENV)/bin/python pyproject.toml setup.py $(FAST)
	@echo "building the compiled modules (about a minute on two cores)"
	$(BIN)/python setup.py -q build_ext --inplace -j $(JOBS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e .
	@touch $@

$(VENV)/tested: $(VENV)/built
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[test]"
	@touch $@

$(VENV)/linted: $(VENV)/built
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[lint]"
	@touch $@

test: $(VENV)/tested  ## build and run all tests that need no other program
	$(BIN)/python -m pytest

retest: $(VENV)/tested  ## only what failed in the last run
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

lint: $(VENV)/linted  ## ruff, cython-lint, mypy, and every .pyi against its module
	$(BIN)/ruff check agw tests bench setup.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint agw/_fast
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/python -m mypy.stubtest --allowlist tests/stubtest_allowlist.txt $(patsubst agw/_fast/%.pyx,agw._fast.%,$(wildcard agw/_fast/*.pyx))

fuzz: $(VENV)/tested  ## a million mutated inputs through the framing under ASan and UBSan
	bash tests/fuzz/run.sh

bench: build  ## measure against nginx, HAProxy, Envoy and MCP proxies; results in bench/results
	bash bench/run.sh
	bash bench/mcp/run.sh

locust: build
	bash bench/locust/run.sh

interop: $(VENV)/tested  ## real MCP clients and servers from PyPI and npm through agw
	bash tests/interop/run.sh
	bash tests/interop/run.sh oauth

conformance: $(VENV)/tested  ## the official MCP suite, directly and through agw in every shape; QUICK=1: what CI runs
	bash tests/interop/run.sh conformance $(if $(QUICK),--quick)

matrix: $(VENV)/tested  ## all MCP clients times all MCP servers; writes docs/mcp-matrix.md
	bash tests/interop/run.sh matrix

schema: build
	$(BIN)/agw schema > config/agw.schema.json

wheel: $(VENV)/bin/python
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist *.egg-info agw/_fast/*.so
