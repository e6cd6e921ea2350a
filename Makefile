# Everything a newcomer needs: Python >= 3.10, pip and make. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo docs test lint unit fuzz kills format benchmark clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

demo: $(VENV)/.installed ## images of 8 prompts with full guidance, under budgets, and with the text in the first steps only
	@$(BIN)/shapefirst demo

docs: $(VENV)/.installed ## the documentation as a site in site/, without a network; every link is checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "site/index.html; with a search: python3 -m http.server -d site"

test: $(VENV)/.installed ## format check, lint, type check, floors of the house, tests: both of the next, at once
	@$(MAKE) --no-print-directory -j 2 lint unit

lint: $(VENV)/.installed ## format check, lint, type check, floors of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Processes of one thread: the tensors of the tests are tiny, and more threads would only wait for one another. Three on
# two cores, as a fifth of the time one waits for a command or a cluster that it has started.
unit: $(VENV)/.installed ## the tests alone
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal

# Odd calls, each in a process of its own; a failure has a name, and `make fuzz ONLY=NAME` is that one again.
CALLS ?= 5000
SEED ?= 0
WORKERS ?= 2
KILLS ?= 100
FUZZ := OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -W ignore -m fuzz

fuzz: $(VENV)/.installed ## CALLS=5000 odd command lines, files and folders: what falls (an hour)
	$(FUZZ) --calls $(CALLS) --seed $(SEED) --workers $(WORKERS) $(ONLY:%=--only %)

kills: $(VENV)/.installed ## KILLS=100 runs killed anywhere and run again: whether anything is lost or doubled
	$(FUZZ).kills --kills $(KILLS) --seed $(SEED) --workers $(WORKERS) $(ONLY:%=--only %)

format: $(VENV)/.installed ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(VENV)/.installed ## print the figures of the model card and of the times in docs/keep.md (minutes)
	@for name in saving pocket_quality recording startup full_size; do \
		echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all targets, so that each works without network once any of them has run. The package is installed
# editable: only a change of its dependencies asks for pip again. Python compiles the files that it comes to import, a fifth
# of those that pip would compile one after the other.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "shapefirst needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes, once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@
