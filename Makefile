# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo   the main job: both twins of the shop, checked and proved
#   make test   every test, real servers included (they come as wheels)
#
# PYTHON=python3.12 make test    chooses the interpreter with which .venv is made (after make clean)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
LOCK   := requirements/dev.txt

.DEFAULT_GOAL := help
.PHONY: help demo test quick check bench soak truth-check truth-prove format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(VENV)/.installed: $(LOCK) pyproject.toml
	@PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" sh requirements/install.sh
	@touch $@

demo: $(VENV)/.installed ## check and prove the broken shop and the fixed one
	@$(BIN)/anypod demo

test: $(VENV)/.installed ## everything, real servers included
	$(PYTEST) -n 2 --dist loadgroup

quick: $(VENV)/.installed ## the fast core, under a minute
	$(PYTEST) -n 2 --dist loadgroup -m quick

check: $(VENV)/.installed ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## each speed beside its peer, in one run, as a ratio
	$(BIN)/python -m benchmarks

soak: $(VENV)/.installed ## the long truths; their committed results are in docs/evidence/
	$(PYTEST) -m soak tests/soak

truth-check: $(VENV)/.installed ## recall and precision of the checker on its labelled corpus
	$(BIN)/python -m tests.check.truth

truth-prove: $(VENV)/.installed ## what prove finds in services with planted bugs, and in safe ones
	$(BIN)/python -m tests.prove.truth

lock: ## pin the tools again (needs uv)
	uv pip compile --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --upgrade requirements/dev.in -o $(LOCK)

clean: ## remove what the other targets made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .hypothesis
