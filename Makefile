# Every target works on a fresh clone: it sets up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help setup compile check demo chat demo-stop test test-all lint bench clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /' | sort

.venv/.ready: pyproject.toml demo/environment.py
	@$(PYTHON) demo/environment.py dev
	@touch $@

setup: .venv/.ready  ## make .venv with everything in it

compile: setup  ## registry/ and base/ -> generated/
	@$(BIN)/llm-serve compile

check: setup  ## fail if generated/ is not what registry/ says
	@$(BIN)/llm-serve compile --check

demo: setup  ## a real model answers through Ray Serve on this machine
	@$(BIN)/python -m demo

chat: setup  ## go on talking to the demo's model
	@$(BIN)/llm-serve chat

demo-stop: setup  ## stop what `make demo` has started
	@$(BIN)/python -m demo stop

test: setup  ## every kind of proof, at a quick size
	@$(BIN)/pytest

test-all: setup  ## the same at full size, and the end-to-end tests through Ray's other proxy too
	@HYPOTHESIS_PROFILE=full $(BIN)/pytest
	@RAY_SERVE_ENABLE_HA_PROXY=0 $(BIN)/pytest tests/e2e

lint: setup  ## ruff, mypy --strict, and that generated/ is current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/llm-serve compile --check > /dev/null

bench: setup  ## figures: builds and engines next to others; streams through Ray Serve (needs `make demo`)
	@$(PYTHON) demo/environment.py bench
	@$(BIN)/python -m benchmarks.commands
	@$(BIN)/python -m benchmarks.builds --sizes 100 1000 10000
	@$(BIN)/python -m benchmarks.engines
	@$(BIN)/python -m benchmarks.overhead
	@$(BIN)/python -m benchmarks.weights
	@$(BIN)/python -m benchmarks.streams

clean:  ## remove what setup and the tools have made
	rm -rf .venv .clients .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
