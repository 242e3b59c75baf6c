# `make run` and `make test` need nothing but Python 3.11 or newer: they set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PORT ?= 8443
HEALTH_PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help demo demo-local drill run quick test test-compiled e2e envtest lint format bench docs fuzz audit image sbom lock clean

help:  ## tell what each target does
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

run: $(VENV)/runtime  ## serve the webhook on https://localhost:8443, on a self-signed certificate
	$(BIN)/seamless serve --port $(PORT) --health-port $(HEALTH_PORT)

# What decides and what rolls, and the examples and the docs, but for the tests that search.
QUICK ?= tests/decision tests/rollout tests/test_docs.py tests/test_examples.py tests/test_workflows.py \
	--ignore tests/decision/test_growth.py --ignore tests/decision/test_hostile.py
quick: $(VENV)/dev  ## run the tests of decisions that do not search, in under a minute; QUICK=tests/…
	$(BIN)/python -m pytest -n 2 --dist worksteal --quick --exitfirst --quiet $(QUICK)

test: $(VENV)/dev  ## run every test that needs no cluster
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/e2e

# The image holds what decides compiled to machine code; here the same tests run on that.
COMPILED := build/compiled
CAN_COMPILE = $(BIN)/python -c 'import pathlib, shutil, sys, sysconfig; \
	sys.exit(not (shutil.which("cc") and pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file()))'
test-compiled: $(VENV)/dev  ## run the tests of decisions on compiled code, where there is a C compiler
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory $(COMPILED)/done && \
	SEAMLESS_COMPILED=1 $(BIN)/python -m pytest -n 2 --dist worksteal -o pythonpath='$(COMPILED) .' \
		tests/decision tests/test_examples.py tests/serving/test_app.py; \
	else echo 'test-compiled: skipped, for there is no C compiler (cc), or no Python.h'; fi

$(COMPILED)/done: $(VENV)/dev setup.py $(wildcard webhook/*.py webhook/*/*.py webhook/*/*/*.py)
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
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --strict-collection --quiet .github

format: $(VENV)/dev  ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

e2e: $(VENV)/dev  ## run the tests that need a real API server, if its binaries are here (make envtest)
	$(BIN)/python -m pytest tests/e2e

# etcd, kube-apiserver and kubectl, as Kubernetes' controller-tools release them. The digest is that
# of their envtest-releases.yaml.
ENVTEST_VERSION := 1.36.2
ENVTEST_SHA512 := ea743186c8a799f5cf8faf16969f86189d003cb7d130e0ac4b58789f1e5748dcf30ebe91c837a10d5ac415383da3e10b9e64d65785c938c23e739781cfb76f08
ENVTEST_NAME := envtest-v$(ENVTEST_VERSION)-linux-amd64.tar.gz
ENVTEST := build/envtest-$(ENVTEST_VERSION)
ifneq ($(wildcard $(ENVTEST)/kube-apiserver),)
export KUBEBUILDER_ASSETS ?= $(CURDIR)/$(ENVTEST)
export PATH := $(PATH):$(KUBEBUILDER_ASSETS)
endif
envtest: $(ENVTEST)/kube-apiserver  ## fetch a real API server for tests: Linux on x86-64 alone (150 MB)

$(ENVTEST)/kube-apiserver:
	mkdir -p build/fetched
	curl --fail --silent --show-error --location --proto =https --retry 3 \
		--output build/fetched/$(ENVTEST_NAME) \
		https://github.com/kubernetes-sigs/controller-tools/releases/download/envtest-v$(ENVTEST_VERSION)/$(ENVTEST_NAME)
	echo '$(ENVTEST_SHA512)  build/fetched/$(ENVTEST_NAME)' | sha512sum --check --quiet
	tar --extract --gzip --no-same-owner --strip-components 2 --one-top-level=build/fetched/envtest \
		--file build/fetched/$(ENVTEST_NAME)
	mv build/fetched/envtest $(ENVTEST)
	rm -r build/fetched

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

drill: $(VENV)/dev  ## roll and kill replicas under load: a roll may lose nothing (about ten minutes)
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
