# The front door: `make` lists what there is.  Each target builds the
# environment it needs, in .venv, from the versions pinned in requirements/.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run demo test lint format types layers check crash fuzzer soak bench scale resume \
	transcripts recording lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV), once: the pinned packages are fetched (needs the network)"
	@$(PYTHON) -m venv $(VENV) \
	    || { echo "the venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY)  ## the daemon in the foreground, on your own journal
	@$(BIN)/agent-journald

demo: $(READY)  ## a real agent loop, killed with its daemon amid a tool call, and resumed
	@$(BIN)/agent-journal demo

test: $(READY)  ## all tests but the slow crash cycles
	@$(BIN)/pytest -q -m "not crash" --durations=15 --durations-min=5

lint: $(READY)  ## ruff: formatting and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(READY)  ## let ruff format the sources
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(READY)  ## mypy --strict
	@$(BIN)/mypy
	@$(BIN)/mypy tests/typing

layers: $(READY)  ## the import contracts
	@$(BIN)/lint-imports --no-cache

check: lint types layers test  ## what CI runs, in the order that fails fastest

crash: $(READY)  ## crashes, power cuts, faults, hostile clients: all that is published (hours)
	@$(BIN)/pytest -q -m "crash or sized" --full

fuzzer: $(READY)  ## add atheris, with which `make test` fuzzes guided by coverage
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/fuzz.txt

soak: $(READY)  ## an hour of everything at once, and nothing may grow (SECONDS=60 for less)
	@PYTHONPATH=tests $(BIN)/python -m soak $(or $(SECONDS),3600)

bench: $(READY)  ## durable appends beside Redis and others (minutes)
	@$(BIN)/python benchmarks/run.py

scale: $(READY)  ## the same on a journal of 10 million entries (many minutes)
	@$(BIN)/python benchmarks/scale.py

resume: $(READY)  ## what a boot with 10,000 unfinished agents, and a durable step, cost (minutes)
	@$(BIN)/python benchmarks/resume.py

transcripts: $(READY)  ## renew what the tests expect commands to print; then read git diff
	@RENEW_TRANSCRIPTS=1 $(BIN)/pytest -q tests/cli/test_transcripts.py tests/cli/test_acting_transcripts.py

recording: $(READY)  ## docs/demo.svg, of the demo as it runs here
	@$(BIN)/python benchmarks/record_demo.py

lock: $(READY)  ## pin what is installed in .venv
	@{ head -1 requirements/dev.txt; $(BIN)/pip freeze --exclude-editable --disable-pip-version-check; } \
	    > requirements/dev.new && mv requirements/dev.new requirements/dev.txt

clean:  ## remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/bin benchmarks/.venv
