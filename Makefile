# Everything a person or CI does with this repository. `make help` lists the targets.
# Needs Python 3.11+, Node 20.19+ and make; installs everything else itself, into .venv and web/node_modules.

PYTHON ?= python3
PORT ?= 8000
MODELS ?= smollm2:135m all-minilm

BIN := .venv/bin
VENV_PYTHON := $(BIN)/python
MOORING := $(BIN)/mooring
WEB_SOURCES := $(shell find web/src web/public -type f) web/index.html web/package.json web/tsconfig.json web/vite.config.ts
WEB_PAGE := src/mooring/web_dist/index.html
SLOW := weights or browser or registry or postgres or gpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run install web check test bench docs lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*  ## /\1|/' | awk -F'|' '{printf "make %-8s %s\n", $$1, $$2}'

run: .venv/.base $(WEB_PAGE)  ## install, build the page, pull the default models, serve (PORT=8000)
	@for model in $(MODELS); do \
	  $(MOORING) show $$model >/dev/null 2>&1 || $(MOORING) pull $$model || exit 1; \
	done
	@exec $(MOORING) serve --port $(PORT)

install: .venv/.all web/node_modules/.installed  ## create .venv and web/node_modules with everything, pinned

web: $(WEB_PAGE)  ## build the chat page into the package

check: .venv/.dev web/node_modules/.installed $(WEB_PAGE)  ## the fast checks: lint, types, layers, docs, tests without weights
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(VENV_PYTHON) scripts/gen_cli_docs.py --check
	$(VENV_PYTHON) scripts/gen_openapi.py --check
	cd web && npm run --silent check && npm run --silent test
	$(VENV_PYTHON) -m pytest -m "not ($(SLOW))"

test: .venv/.system install check  ## everything CI checks: also real weights, a browser, a registry, the wheel, the platforms
	$(VENV_PYTHON) scripts/check_platforms.py
	$(VENV_PYTHON) scripts/check_wheel.py
	$(VENV_PYTHON) -m pytest -m "$(SLOW)"

bench: .venv/.dev $(WEB_PAGE)  ## measure: our server against the engine alone, start-up, predicted memory
	@for program in $(filter-out bench/report.py,$(wildcard bench/*.py)); do echo "== $$program"; $(VENV_PYTHON) $$program || exit 1; done

docs: .venv/.dev  ## write the generated pages under docs/
	$(VENV_PYTHON) scripts/gen_cli_docs.py
	$(VENV_PYTHON) scripts/gen_openapi.py

lock: .venv/.dev  ## pin again: constraints.txt and web/package-lock.json
	scripts/lock.sh --upgrade
	cd web && npm update

clean:  ## remove what was installed and built (not the models)
	rm -rf .venv web/node_modules src/mooring/web_dist dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# --- what the targets above stand on; a file newer than its sources is not made again ----------------

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Mooring needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.base: .venv/bin/python constraints.txt pyproject.toml
	scripts/install.sh -e .
	@touch $@

.venv/.dev: .venv/.base
	scripts/install.sh -e '.[dev,postgres]'
	@touch $@

# By pip, which also takes a build of torch that the machine is told to find (PIP_FIND_LINKS, an index of CPU builds).
.venv/.all: .venv/.dev
	$(VENV_PYTHON) -m pip install --quiet --constraint constraints.txt torch
	@touch $@

.venv/.system: scripts/system_packages.sh .venv/bin/python
	scripts/system_packages.sh chromium docker-registry postgresql
	@touch $@

web/node_modules/.installed: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@

$(WEB_PAGE): web/node_modules/.installed $(WEB_SOURCES)
	cd web && npm run --silent build
	@touch $@
