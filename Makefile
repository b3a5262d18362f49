# Every target sets up what it needs: the environment is rebuilt only when the lock file changed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TOOLS := .tools
RUN_DIR ?= runs/mnist1d
SIZE ?= full
SOAK_SECONDS ?= 3600
# The chart's appVersion, so that a chart finds the images of its own version.
TAG ?= $(shell sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/esper/Chart.yaml)
TORCH ?= cuda
TORCH_INDEX ?=
# Of the commit, so that building it again gives the same bytes.
IMAGE_TIME = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
export UV_NATIVE_TLS := 1

.PHONY: help setup run test stack stack-down stack-clean soak check bench bench-growth proto crds docs lock locks images kind clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# uv is used when the machine has it; otherwise it is installed into a private place with pip.
UV = $(or $(shell command -v uv 2>/dev/null),$(TOOLS)/uv/bin/uv)
$(TOOLS)/uv/bin/uv:
	@echo "setting up uv (once)"
	@python3 -m venv $(TOOLS)/uv && $(TOOLS)/uv/bin/pip install --quiet uv

$(STAMP): requirements.lock pyproject.toml
	@command -v uv >/dev/null 2>&1 || $(MAKE) --no-print-directory $(TOOLS)/uv/bin/uv
	@echo "setting up the environment from requirements.lock (once; about half a minute on a fast line)"
	@test -x $(PY) || $(UV) venv --quiet --python '>=3.11' $(VENV)
	@$(UV) pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## Set up the environment (the other targets do this themselves)

run: $(STAMP) ## Train and grow on MNIST-1D on this machine, then open the report it names
	@$(VENV)/bin/esper run docs/examples/mnist1d.yaml -o $(RUN_DIR) --control

test: $(STAMP) ## Run every test
	@tests/infra/setup.sh
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q $(TESTS)

stack: $(STAMP) ## Start PostgreSQL, S3, Pulsar, the library and a worker of each pool on this machine
	@tests/infra/setup.sh
	@$(PY) tests/infra/stack.py up

stack-down: $(STAMP) ## Stop them; data stays for the next `make stack` (`make stack-clean` removes it)
	@$(PY) tests/infra/stack.py down

stack-clean: $(STAMP) ## Stop them and remove their data
	@$(PY) tests/infra/stack.py clean

soak: $(STAMP) ## Kill the stack's programs for an hour under load; figures go to docs/results/soak.md
	@tests/infra/setup.sh
	@$(PY) -m tests.soak --seconds $(SOAK_SECONDS) --gap 18 --write

check: $(STAMP) ## What a reviewer would run: format, lint, types, import rules, freshness of generated files, contracts
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	MYPYPATH=contracts:workers:operator $(VENV)/bin/mypy -p leyline -p esper -p esper_operator
	$(VENV)/bin/lint-imports --no-cache
	$(PY) scripts/gen_proto.py --check
	$(PY) scripts/gen_crds.py --check
	$(PY) scripts/gen_locks.py --check
	$(PY) scripts/gen_docs.py --check
	$(PY) scripts/check_contracts.py
	$(PY) scripts/check_repository.py

bench: $(STAMP) ## Print the promised figures (docs/promises.md), ratios side by side in one run
	@$(PY) -m tests.bench

bench-growth: $(STAMP) ## Growth against tuned controls; about an hour on two cores (SIZE=quick for a taste)
	@$(PY) -m tests.bench.growth --size $(SIZE)

images: ## Build the images of operator and workers with buildah; TAG names them, TORCH=cpu needs TORCH_INDEX
	buildah build --timestamp "$(IMAGE_TIME)" -f operator/Dockerfile -t localhost/esper-operator:$(TAG) .
	buildah build --timestamp "$(IMAGE_TIME)" --build-arg TORCH=$(TORCH) --build-arg TORCH_INDEX=$(TORCH_INDEX) \
	  -f workers/Dockerfile -t localhost/esper-worker:$(TAG) .

kind: ## Esper with small servers of its own in a cluster in Docker, to try it; needs TORCH_INDEX (docs/install.md)
	@scripts/kind.sh

proto: $(STAMP) ## Generate the protobuf code from contracts/proto
	$(PY) scripts/gen_proto.py

crds: $(STAMP) ## Generate crds/*.yaml from leyline.resources
	$(PY) scripts/gen_crds.py

docs: $(STAMP) ## Generate the parts of the documentation that come from code
	$(PY) scripts/gen_docs.py

lock: ## Resolve pyproject.toml anew into requirements.lock, and cut the images' lock files out of it
	$(UV) pip compile --quiet --generate-hashes --extra dev --python-version 3.11 --no-annotate --no-header pyproject.toml -o requirements.lock
	@$(MAKE) --no-print-directory locks

locks: $(STAMP) ## Cut the images' lock files out of requirements.lock
	$(PY) scripts/gen_locks.py

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) $(TOOLS) runs .mypy_cache .ruff_cache .import_linter_cache .hypothesis
