# Everything a contributor runs. `make` alone lists it.
# All paths are relative, so a checkout whose path holds a space works.

VENV ?= .venv
PYTHON ?= python3
# What gets installed: the working tree, so that edits count at once. CI names the wheel it has just built.
PACKAGE ?= --editable .
# Test processes at once: two more than there are cores, since tests wait much of their time; slow ones start more that
# computes, and have one more.
N ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
test-slow test-all frameworks: N = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# What has its pins in constraints.txt; those of trainers are in tests/frameworks/requirements.txt.
EXTRAS := --extra postgresql --extra dask --extra ray
# Kill points per scenario in `make chaos`.
ROUNDS ?= 200
HISTORIES ?= 10000
# Passed on to the program that the target runs, as in `make test ARGS="-k manifest"`.
ARGS ?=

# Hundreds of tests start the program: its modules are compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

RUN := $(VENV)/bin/python
TEST = $(RUN) -m pytest -n $(N) --dist loadgroup
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-all test-versions test-resolved lint format docs site chaos frameworks fuzz hostile bench size install constraints audit clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## See the product work, on this machine alone
	@$(VENV)/bin/flexai demo $(ARGS)

test: $(INSTALLED) ## Run the tests but the slow ones (N=2 sets the processes, ARGS="-k words" picks some)
	$(TEST) -m "not slow and not frameworks" $(ARGS)

test-slow: $(INSTALLED) ## Run the slow tests alone
	$(TEST) -m slow $(ARGS)

test-all: $(INSTALLED) ## Run all tests
	$(TEST) $(ARGS)

test-versions: $(INSTALLED) ## Run the tests but the slow ones with the oldest and with the newest packages
	$(RUN) -m pip install -qq uv
	$(MAKE) test-resolved RESOLUTION=lowest-direct
	$(MAKE) test-resolved RESOLUTION=highest

# What the tests themselves need is the newest that goes with those packages.
test-resolved:
	mkdir -p build/$(RESOLUTION)
	$(RUN) -m uv pip compile pyproject.toml --quiet $(EXTRAS) --resolution $(RESOLUTION) --upgrade \
	  --no-emit-index-url --no-emit-find-links --output-file build/$(RESOLUTION)/constraints.txt
	$(PYTHON) -m venv build/$(RESOLUTION)/venv
	build/$(RESOLUTION)/venv/bin/python -m pip install -qq --upgrade 'pip>=25.1'
	build/$(RESOLUTION)/venv/bin/python -m pip install -qq --constraint build/$(RESOLUTION)/constraints.txt \
	  --group test --editable '.[postgresql,dask]'
	build/$(RESOLUTION)/venv/bin/python -m pytest -n $(N) --dist loadgroup -m "not slow and not frameworks" $(ARGS)

lint: $(INSTALLED) ## Check style, types, the direction of imports, that nothing is unused, and the prose of the pages
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) -m vulture
	$(RUN) -m vulture src blocks tasks flows benchmarks docs examples
	$(RUN) docs/prose.py

format: $(INSTALLED) ## Rewrite the code in the project's style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(INSTALLED) ## Write docs/reference from the program itself, and draw the pictures
	$(RUN) docs/generate.py $(ARGS)
	$(RUN) docs/pictures.py $(ARGS)
	$(RUN) docs/terminal.py

# Not --quiet: then no warning counts. The variable keeps an advertisement for a successor off the screen.
site: $(INSTALLED) ## Build a site from docs: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

chaos: $(INSTALLED) ## Kill the program in ROUNDS=200 rounds per scenario, up to three times in each, look for damage
	FLEXAI_CHAOS_ROUNDS=$(ROUNDS) FLEXAI_CHAOS_HISTORIES=$(HISTORIES) $(RUN) -m pytest -o faulthandler_timeout=0 tests/chaos \
	  tests/flows/test_at_once.py tests/checkpoints/service/test_recovered_equals_lost.py $(ARGS)

frameworks: $(INSTALLED) build/frameworks/.installed ## Train with real frameworks, and compare what is captured with what they saved
	FLEXAI_TEST_FRAMEWORKS=build/frameworks $(RUN) -m pytest tests/frameworks -m frameworks -n $(N) $(ARGS)
	$(RUN) docs/trainers.py build/frameworks/results

# An environment of their own, as a user's trainer has, with this package for its callbacks. torch comes first, so that
# what needs it does not choose another.
build/frameworks/.installed: tests/frameworks/requirements.txt pyproject.toml
	$(PYTHON) -m venv build/frameworks
	build/frameworks/bin/python -m pip install -qq "$$(grep '^torch==' $<)"
	build/frameworks/bin/python -m pip install -qq --requirement $<
	build/frameworks/bin/python -m pip install -qq --constraint tests/frameworks/requirements.txt $(PACKAGE)
	@touch $@

fuzz: $(INSTALLED) ## Try millions of inputs on the parsers of foreign data (ARGS="manifest --runs 1000000")
	$(RUN) -m tests.fuzz $(ARGS)

hostile: $(INSTALLED) ## Print the peak of memory and the seconds that each hostile input takes (ARGS="manifest")
	@$(RUN) -m tests.hostile $(ARGS)

bench: $(INSTALLED) ## Race the peers, side by side, in one run
	$(RUN) -m benchmarks $(ARGS)

size: $(INSTALLED) ## Count modules, lines and classes (ARGS=". ../other" compares two checkouts)
	@$(RUN) -m benchmarks.size $(ARGS)

install: $(INSTALLED) ## Make the virtual environment, if it is not there or out of date

# The stamp is written last: an installation that was broken off starts again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Installing into $(VENV); this happens once and takes a minute or two.'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install -qq --upgrade 'pip>=25.1'
	@$(RUN) -m pip install -qq --constraint constraints.txt --group dev $(PACKAGE)
	@touch $@

# What the image installs, on any processor.
HASHED := --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make constraints' --no-annotate \
  --no-emit-index-url --no-emit-find-links

# Not after $(INSTALLED): that would install by the very pins which may no longer fit pyproject.toml.
constraints: ## Fit constraints.txt to pyproject.toml (ARGS=--upgrade: newest of everything)
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -qq uv
	$(RUN) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --group dev $(EXTRAS) \
	  --custom-compile-command 'make constraints' --no-annotate --no-emit-index-url --no-emit-find-links \
	  --output-file constraints.txt $(ARGS)
	$(RUN) -m uv pip compile pyproject.toml --quiet --extra postgresql --constraint constraints.txt $(HASHED) \
	  --output-file deployments/docker/requirements.txt $(ARGS)
	$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
	  | $(RUN) -m uv pip compile - --quiet --constraint constraints.txt $(HASHED) \
	  --output-file deployments/docker/build-requirements.txt $(ARGS)

# Answers with 0 only where a database was asked about every pin and names none; with 2 where none can be asked.
audit: ## Compare constraints.txt with an advisory database: OSV's, or the package index's
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install -qq pip-audit; }
	@rm -f build/audit/found
	@for service in osv pypi; do \
	  if build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
	    -s $$service --output build/audit/found $(ARGS) 2>build/audit/$$service.log; \
	  then echo "No pin of constraints.txt has a known vulnerability ($$service)."; exit 0; \
	  elif test -s build/audit/found; then cat build/audit/found; exit 1; fi; \
	done; echo 'Nothing was audited: no advisory database can be reached, or none knows every pin.' \
	  'What each said is in build/audit/osv.log and build/audit/pypi.log.' >&2; exit 2

clean: ## Remove everything the other targets made
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
