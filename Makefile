# `make help` lists the targets. Two of them are enough to begin with: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3.11
BIN := .venv/bin
UV_VERSION := 0.13.9
CLUSTER := $(PYTHON) -m hack.cluster

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: .venv/installed ## make .venv with every dependency, locked; then .venv/bin/neuronmodel exists

NATIVE := worker/build_native.py $(wildcard worker/neuronmodel_worker/stream/native/*.c)

.venv/installed: pyproject.toml constraints.txt $(NATIVE)
	@echo "making .venv (the first time downloads about 3 GB, most of it PyTorch)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint <(sed 's/ *\\$$//; /^ *--hash/d' constraints.txt) uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --reinstall-package neuronmodel --editable .
	@touch $@

.PHONY: lock
lock: LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock: ## resolve pyproject.toml anew: constraints.txt for developers, hack/locks for the images; names, versions and hashes, no index
	$(LOCK) --all-extras --group dev pyproject.toml --output-file constraints.txt
	$(LOCK) --constraint constraints.txt --extra operator pyproject.toml --output-file hack/locks/operator.txt
	$(LOCK) --constraint constraints.txt --extra worker pyproject.toml --output-file hack/locks/worker.txt
	$(LOCK) --constraint constraints.txt --extra neuron --no-emit-package numpy pyproject.toml --output-file hack/locks/worker-neuron.txt
	printf 'transformers\nsafetensors\nnumpy\n' | $(LOCK) --constraint constraints.txt - --output-file hack/locks/standins.txt
	printf 'huggingface_hub\n' | $(LOCK) - --output-file hack/locks/hub-client.txt
	$(BIN)/python -m hack.vllm lock
	sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | $(LOCK) --constraint constraints.txt - --output-file hack/locks/build.txt

.PHONY: up
up: ## a real Kubernetes on this machine: two nodes, registry, DNS
	@$(CLUSTER) up

.PHONY: down
down: ## end it; leaves no process, mount, bridge or rule behind
	@$(CLUSTER) down

.PHONY: images
images: up ## build the images from their Dockerfiles and push them to the local registry
	@$(CLUSTER) images

.PHONY: lint
lint: install ## ruff, mypy strict, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: unit
unit: install ## unit and golden tests: no cluster; compiles an S3 server the first time
	$(BIN)/pytest tests/unit tests/store_faults

.PHONY: fuzz
fuzz: SECONDS = 60
fuzz: install ## the header parser against the safetensors library, for SECONDS=60
	$(BIN)/python -m tests.fuzz.header -max_total_time=$(SECONDS)

.PHONY: model
model: install up ## SmolLM2-135M-Instruct as a Hugging Face checkpoint
	@$(CLUSTER) model

.PHONY: test
test: install ## everything: lint, unit tests, the real API server, end to end on real kubelets
	@$(BIN)/python -m hack.verify

.PHONY: scale
scale: install up ## one operator with 100, 1,000 and 10,000 NeuronModels, 50 minutes; WRITE=1, SCALE_OPTIONS="--help"
	@$(BIN)/python -m tests.scale $(if $(WRITE),--write) $(SCALE_OPTIONS)

.PHONY: campaign
campaign: install up ## every fault between operator and API server, 70 minutes; SEED=1 CAMPAIGN_OPTIONS="--help"
	@$(BIN)/python -m tests.campaign --seed $(or $(SEED),1) $(if $(WRITE),--write) $(CAMPAIGN_OPTIONS)

.PHONY: observe
observe: install up model ## metrics, alerts and dashboard with a real Prometheus, compiled the first time: 10 minutes more
	@$(BIN)/pytest -m observe tests/e2e/test_observed.py $(OBSERVE_OPTIONS)

.PHONY: vllm
vllm: install ## the worker with real vLLMs for processors, one version after the other; 6 GB for each
	@$(BIN)/python -m hack.vllm $(VLLM_OPTIONS)

.PHONY: demo
demo: install ## kubectl apply to an answer, both strategies, every second accounted for
	@$(BIN)/python -m hack.demo

.PHONY: bench
bench: install ## sharding against the disk and against today's loop, an hour on a quiet machine; QUICK=1: a look in five minutes
	@$(BIN)/python -m hack.bench $(if $(QUICK),--quick) $(BENCH_OPTIONS)
