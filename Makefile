# `make run` and `make test` need nothing but Python 3.11 or newer: they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PORT ?= 8443
HEALTH_PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help demo demo-local drill run test test-compiled e2e lint format bench docs fuzz audit image sbom lock clean

help:  ## tell what each target does
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

run: $(VENV)/runtime  ## serve the webhook on https://localhost:8443, on a self-signed certificate
	$(BIN)/seamless serve --port $(PORT) --health-port $(HEALTH_PORT)

test: $(VENV)/dev  ## run every test that needs no cluster
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/e2e

# The image holds what decides compiled to machine code; here the same tests run on that.
COMPILED := build/compiled
CAN_COMPILE = $(BIN)/python -c 'import pathlib, shutil, sys, sysconfig; \
	sys.exit(not (shutil.which("cc") and pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file()))'
test-compiled: $(VENV)/dev  ## run the tests of decisions on compiled code, where there is a C compiler
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory $(COMPILED)/done && \
	SEAMLESS_COMPILED=1 $(BIN)/python -m pytest -n 2 --dist worksteal -o pythonpath='$(COMPILED) .' \
		tests/decision tests/test_examples.py tests/test_server.py; \
	else echo 'test-compiled: skipped, for there is no C compiler (cc), or no Python.h'; fi

$(COMPILED)/done: $(VENV)/dev setup.py $(wildcard webhook/*.py webhook/*/*.py)
	rm -rf $(COMPILED)
	SEAMLESS_COMPILE=1 $(BIN)/python setup.py --quiet build --build-lib $(COMPILED)
	touch $@

lint: $(VENV)/dev  ## formatter, linter, strict types, import rules, locks, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs.py --check
	$(BIN)/python scripts/chart_readme.py --check
	$(BIN)/hadolint Dockerfile

format: $(VENV)/dev  ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

e2e: $(VENV)/dev  ## run the tests that need a real API server, if its binaries are here
	$(BIN)/python -m pytest tests/e2e

bench: $(VENV)/dev  ## measure speed, as ratios within one run
	$(BIN)/python benchmarks/decide.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/precheck.py
	$(BIN)/python benchmarks/status.py
	$(BIN)/python benchmarks/backfill.py
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory $(COMPILED)/done && \
	PYTHONPATH=$(COMPILED) $(BIN)/python benchmarks/decide.py && \
	PYTHONPATH=$(COMPILED) $(BIN)/python benchmarks/serve.py && \
	PYTHONPATH=$(COMPILED) $(BIN)/python benchmarks/soak.py && \
	PYTHONPATH=$(COMPILED) $(BIN)/python benchmarks/apiserver.py; \
	else $(BIN)/python benchmarks/soak.py && $(BIN)/python benchmarks/apiserver.py; fi

# Without atheris (it has wheels for Linux on x86-64 only) the same harnesses are searched blindly.
FUZZ_SECONDS ?= 60
FUZZ ?=
fuzz: $(VENV)/dev  ## search for input that breaks a promise: FUZZ=TARGET, FUZZ_SECONDS=60 for each
	$(PIP) --require-hashes --only-binary :all: -r requirements/fuzz.txt || true
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ)

audit: $(VENV)/audit/installed  ## ask PyPI whether a locked package has a known vulnerability
	$(BIN)/python scripts/audit.py $(VENV)/audit/bin/pip-audit $(AUDIT)

drill: $(VENV)/dev  ## roll and kill replicas under load, and count what is lost (about ten minutes)
	$(BIN)/python benchmarks/drain.py

demo: $(VENV)/runtime  ## roll the four edge cases on your cluster (kubectl's context), and clean up
	$(BIN)/python scripts/demo.py $(DEMO)

demo-local: $(VENV)/runtime  ## the same on loopback, without a cluster (about two minutes)
	$(BIN)/python -m webhook.demo.local $(DEMO)

docs: $(VENV)/dev  ## write the docs that are generated
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/chart_readme.py

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= ghcr.io/seamless-rollouts/seamless-rollouts:$(VERSION)
image:  ## build the image
	docker build --tag $(IMAGE) \
		--build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(git log -1 --format=%cI) .

sbom: $(VENV)/dev  ## write sbom.json, what the image holds of Python packages (CycloneDX)
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json requirements/runtime.txt

LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet
LOCK_TOOL := $(subst pyproject.toml,-,$(LOCK)) --upgrade
lock: $(VENV)/dev  ## lock the dependencies anew, with hashes
	$(LOCK) --upgrade --output-file requirements/runtime.txt
	$(LOCK) --upgrade --constraint requirements/runtime.txt --extra tracing \
		--output-file requirements/tracing.txt
	$(LOCK) --upgrade --constraint requirements/tracing.txt --extra tracing --group dev \
		--output-file requirements/dev.txt
	echo 'setuptools>=77' | $(BIN)/uv pip compile - --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		--constraint requirements/dev.txt --output-file requirements/build.txt
	printf '%s\n' 'setuptools>=77' 'mypy[mypyc]' types-PyYAML | $(BIN)/uv pip compile - --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--quiet --constraint requirements/dev.txt --output-file requirements/compile.txt
	echo 'pip-audit' | $(LOCK_TOOL) --output-file requirements/audit.txt
	printf 'atheris==3.0.0; python_version < "3.12"\natheris; python_version >= "3.12"\n' \
		| $(LOCK_TOOL) --output-file requirements/fuzz.txt

clean:  ## remove what the other targets made
	rm -rf $(VENV) build .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# The project itself is installed as it lies here, by the locked build tool alone.
$(VENV)/runtime: requirements/runtime.txt requirements/build.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/dev: $(VENV)/runtime requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	touch $@

# In an environment of its own: its dependencies are nobody else's.
$(VENV)/audit/installed: requirements/audit.txt $(VENV)/runtime
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
		-r requirements/audit.txt
	touch $@
