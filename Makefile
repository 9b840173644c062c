# The commands of contributors. The first use of any target makes .venv from the lock by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The benchmarks' peers, and matplotlib, in an environment of their own: one of them pins an older confluent-kafka.
PEERS := .venv-peers
PEERS_INSTALLED := $(PEERS)/.installed

LOCK_IMAGE := --constraint ../../requirements.lock --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --upgrade --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos lint format docs chart bench bench-full panels lock lock-image secrets up down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Making .venv from requirements.lock (once, about a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## a fleet of agents through a real Kafka to the services, and a check of all counts
	@$(BIN)/hypervisor-telemetry demo $(ARGS)

test: $(INSTALLED) ## the usual suites: unit, property, contract and Kafka tests on a local broker
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not full" $(ARGS)

test-all: $(INSTALLED) ## the suites that need installed servers and tools, or take long
	@$(BIN)/python -m pytest -m full $(ARGS)

chaos: $(INSTALLED) ## half an hour of kills, freezes, moves, outages and bad records; prints its seeds
	@$(BIN)/python -m pytest tests/chaos -s --chaos=long $(ARGS)

lint: $(INSTALLED) ## format check, lint, strict types, the arrows between packages, the rules of the house
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.house_check

format: $(INSTALLED) ## apply the formatter and the safe fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## write the generated tables of docs/ and the Grafana dashboards
	@$(BIN)/python -m tools.generate_docs
	@$(BIN)/python -m tools.dashboards

chart: $(INSTALLED) ## render the examples of helm/; builds helm the first time, some minutes
	@$(BIN)/python -m tools.chart_examples

$(PEERS_INSTALLED): bench/peers/requirements.lock | $(INSTALLED)
	@echo "Making $(PEERS) from bench/peers/requirements.lock (once, about a minute) ..."
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

bench: $(PEERS_INSTALLED) ## the benchmarks, side by side with the alternatives; about twenty minutes
	@$(BIN)/python -m bench $(ARGS)

bench-full: $(PEERS_INSTALLED) ## the same with more events, more rounds and larger sizes
	@$(BIN)/python -m bench --full $(ARGS)

panels: $(PEERS_INSTALLED) ## draw docs/plots/panels.svg: the panels after a run on a real Kafka and Prometheus
	@$(BIN)/python -m pytest tests/observability/test_prometheus_run.py --panels docs/plots/panels.json
	@$(PEERS)/bin/python tests/observability/draw_panels.py docs/plots/panels.json docs/plots/panels.svg

lock: $(INSTALLED) ## resolve requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --upgrade --quiet --output-file requirements.lock
	@$(BIN)/uv pip compile bench/peers/requirements.in --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --upgrade --quiet \
	  --output-file bench/peers/requirements.lock
	@$(MAKE) --no-print-directory lock-image

lock-image: $(INSTALLED) # the image's packages: the versions in requirements.lock, without those for development
	@cd deploy/image && for part in services demo; do \
	  ../../$(BIN)/uv pip compile ../../pyproject.toml --extra $$part $(LOCK_IMAGE) --output-file $$part.lock; done
	@cd deploy/image && ../../$(BIN)/uv pip compile build.in $(LOCK_IMAGE) --output-file build.lock

secrets: ## random passwords and a token for docker compose, in deploy/compose/secrets; existing ones stay
	@$(PYTHON) deploy/compose/make_secrets.py

up: secrets ## everything by docker compose; returns when each part is healthy
	docker compose up --detach --build --wait $(ARGS)

down: ## stop what `make up` started; ARGS="--volumes" also deletes the stored data
	docker compose --profile demo down $(ARGS)

clean: ## remove the virtual environments and the caches
	rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
