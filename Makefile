# `make run` and `make test` need nothing but Python 3.11 or newer: they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PORT ?= 8443
HEALTH_PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help run test e2e lint format bench docs image sbom lock clean

help:  ## tell what each target does
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

run: $(VENV)/runtime  ## serve the webhook on https://localhost:8443, on a self-signed certificate
	$(BIN)/seamless serve --port $(PORT) --health-port $(HEALTH_PORT)

test: $(VENV)/dev  ## run every test that needs no cluster
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/e2e

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
lock: $(VENV)/dev  ## lock the dependencies anew, with hashes
	$(LOCK) --upgrade --output-file requirements/runtime.txt
	$(LOCK) --upgrade --constraint requirements/runtime.txt --group dev \
		--output-file requirements/dev.txt
	echo 'setuptools>=77' | $(BIN)/uv pip compile - --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		--constraint requirements/dev.txt --output-file requirements/build.txt

clean:  ## remove what the other targets made
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

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
