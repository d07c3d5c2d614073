# Two commands matter: `make run` and `make test`. Both work on a fresh clone with Python >= 3.11 (venv, pip) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# 106: names are imported as the module reads best; 109: a deadline is a parameter where the caller chooses it;
# 119, 124: async context managers are generators, and coroutines may be without await where a protocol wants them.
ASYNC_OFF := ASYNC106,ASYNC109,ASYNC119,ASYNC124
STREAMER_LISTEN ?= 127.0.0.1:8080

# What waits for a server more than it counts on being alone with it. What takes longest comes first, so that no worker is
# left with it alone at the end.
STORAGE := $(wildcard tests/lifetimes/test_storage_*.py)

.PHONY: run test unit lint types check bench stubs clean

run: $(VENV)/.run ## serve the embedded store under ./var, with a sample image and container
	@exec $(BIN)/python deploy/sample.py --state var --listen "$(STREAMER_LISTEN)"

test: $(VENV)/.dev ## every test this machine can run
	$(BIN)/pytest -q -n auto --dist loadfile $(STORAGE) tests/interop tests/deploy tests/property tests/contracts tests/unit \
	  $(PYTEST_ARGS)
	$(BIN)/pytest -q tests/lifetimes $(STORAGE:%=--ignore=%) $(PYTEST_ARGS)

unit: $(VENV)/.dev ## the fast tests only
	$(BIN)/pytest -q tests/unit tests/contracts $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8-async --anyio --enable=ASYNC1,ASYNC2 --disable=$(ASYNC_OFF) \
	  --startable-in-context-manager=_held $$(git ls-files 'streamer/*.py')
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test ## what CI runs

bench: $(VENV)/.run ## side by side with the peers, as root; e.g. make bench ARGS="--only container,big --quick"
	$(BIN)/python -m bench.run $(ARGS)

stubs: $(VENV)/.dev ## containerd's API in Python, from the .proto files beside it
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. streamer/stores/containerd/api/*.proto

$(VENV)/.run: requirements/run.txt pyproject.toml hatch_build.py $(wildcard streamer/native/*.[ch])
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("streamer needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing from requirements/run.txt ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "installing from requirements/dev.txt ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

clean: ## remove what make made; ./var is yours and stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
