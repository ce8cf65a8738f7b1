# Two commands matter: `make run` and `make test`. `make help` lists the rest.
# Needs Python >= 3.11 (with venv) and make; everything else comes from the lock files,
# checked by hash, into .venv, which is rebuilt when a lock changes.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint format types cover mutants bench rigs soak lock clean

# The first interpreter that is new enough, so that an old `python3` does not matter.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV ?= uv
ARGS ?=
UPGRADE ?=

VENV := .venv
BIN := $(VENV)/bin
QUICK := not rig and not soak and not bench and not real_pins

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.runtime  ## start the demo: gateway, broker on 127.0.0.1:1883, a simulated herd
	@$(BIN)/barn-gateway run --demo $(ARGS)

test: $(VENV)/.dev  ## run the quick tests (all but rigs, soak, bench and wired pins)
	@$(BIN)/python -m pytest -m "$(QUICK)" $(ARGS)

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## mypy --strict
	$(BIN)/mypy

cover: $(VENV)/.dev  ## branch coverage of gateway/core, at least 95 %
	@$(BIN)/python -m pytest -m "$(QUICK)" tests/core --cov --cov-fail-under=95 --cov-report=term-missing:skip-covered

mutants: $(VENV)/.mutants  ## mutation score of the alert law and of validation, at least 80 % (three minutes)
	@rm -rf mutants
	@ALERT_HISTORIES=20 $(BIN)/mutmut run
	@$(BIN)/python -m tests.mutation_score 80

bench: $(VENV)/.dev  ## figures: readings per CPU-second, publish to PUBACK, memory
	@$(BIN)/python -m tests.bench $(ARGS)

rigs: $(VENV)/.dev  ## power cuts, kills, a failing card, the demo: three minutes
	@$(BIN)/python -m pytest -m "rig and not soak" $(ARGS)

soak: $(VENV)/.dev  ## the same for long
	@$(BIN)/python -m pytest -m soak -s $(ARGS)

lock:  ## bring the locks up to pyproject.toml (needs uv; UPGRADE=--upgrade for newer versions)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv; name it with UV=/path/to/uv" >&2; exit 1; }
	$(COMPILE) pyproject.toml --extra build --extra notify -o requirements.lock
	$(COMPILE) pyproject.toml --extra build --extra notify --extra dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) pyproject.toml --extra build --extra notify --extra dev --extra mutants -c requirements-dev.lock -o requirements-mutants.lock

# One lock for Python 3.11 to 3.13 on aarch64 and x86 Linux and macOS. No addresses in it.
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)

clean:  ## remove .venv and everything that was made by tools; data/ and logs/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage mutants dist build
	find gateway sensor_sim tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.runtime: requirements.lock pyproject.toml
	$(call make-venv,requirements.lock)
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml
	$(call make-venv,requirements-dev.lock)
	@touch $(VENV)/.runtime $@

$(VENV)/.mutants: requirements-mutants.lock $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# $(1): lock file. The package itself is built offline with the locked hatchling.
define make-venv
	@test -n "$(PYTHON)" || { echo "This needs Python 3.11 or newer; none was found. \
	Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is \
	older than Python 3.11; name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks venv; \
	on Debian and Raspberry Pi OS: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) from $(1) with $(PYTHON) (once; takes a minute)"
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef
