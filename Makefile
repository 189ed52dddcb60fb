# Spoolway. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_BIN := .venv-proto/bin
PROTOS := $(sort $(wildcard proto/spoolway/v1/*.proto))
SERVICES := proto/spoolway/v1/job_service.proto proto/spoolway/v1/storage_admin.proto
STUBS ?= clients

.DEFAULT_GOAL := $(VENV)/.ready

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: pyproject.toml clients/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Spoolway needs Python 3.11 or newer; say which with: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two, the first time) ..."
	@# Both packages in one command, else pip would look for the client in the index.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./clients -e '.[dev]'
	@touch $@

run: $(VENV)/.ready ## Show the main job: a server, a spooler, a Rabi scan, its curve
	@$(BIN)/spoolway demo

serve: $(VENV)/.ready ## Keep the service up on 127.0.0.1:50061, its data in ./spoolway.sqlite
	@$(BIN)/spoolway serve

test: $(VENV)/.ready ## Run the tests, on all cores; ARGS="tests/server -k drain" runs some
	@$(BIN)/python -m pytest -q -n auto $(ARGS)

fuzz: $(VENV)/.ready ## Make 20,000 hostile calls, other ones each time, and tell how they were answered
	@FUZZ_CALLS=20000 $(BIN)/python -m pytest -q --log-cli-level=INFO tests/server/test_fuzz.py

soak: $(VENV)/.ready ## Open and close 20,000 streams, and tell by how much the server's memory has grown
	@SOAK_STREAMS=20000 $(BIN)/python -m pytest -q --timeout 600 --log-cli-level=INFO tests/server/test_stream_memory.py

lint: $(VENV)/.ready proto-check ## ruff, mypy strict, import-linter, buf, fresh stubs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mypy examples bench
	@$(BIN)/lint-imports --config pyproject.toml

check: lint test ## lint and test

format: $(VENV)/.ready ## Format and mend what can be mended by itself
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/buf format -w proto

crash: $(VENV)/.ready ## Kill processes at random: ROUNDS=200 SEED=7 PROVIDER=sqlite, ROUND=17 for one round
	@$(BIN)/python -m tests.crash $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(ROUND),--round $(ROUND)) \
		$(addprefix --provider ,$(PROVIDER)) $(ARGS)

fleet: $(VENV)/.ready ## Three servers on one MongoDB, twelve spoolers, a server and the database killed; 10 s without it; 3 minutes
	@$(BIN)/python -m pytest -q -m fleet $(ARGS) tests/crash tests/server/test_mongodb_cut.py

bench: $(VENV)/.ready ## Measure against two floors, in 12 minutes; QUICK=1: in 50 s, less exact
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

bench-peers: $(VENV)/.ready .venv-peers/.ready ## Measure beside other queues, which this installs; QUICK=1: less exact
	@sh bench/peers/install.sh
	@$(BIN)/python -m bench.peers $(if $(QUICK),--quick) $(ARGS)

.venv-peers/.ready: bench/peers/requirements.txt
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt
	@touch $@

lb-test: $(VENV)/.ready ## Try the files of deploy/: real balancers before real servers, and checkers; 2 minutes
	@sh tests/balancers/install.sh
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./clients -e '.[dev,deploy]'
	@$(BIN)/python -m pytest -q -m tools -rP --show-capture=stdout --no-header $(ARGS) tests/balancers tests/deploy

node-test: $(VENV)/.ready ## Try the example for Node.js 20 or newer, which must be there with npm
	@node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' || { echo "node-test needs Node.js 20 or newer, with npm: install it, then run it again"; exit 1; }
	@cd examples/node && npm install --no-package-lock --no-fund --no-audit --ignore-scripts --silent
	@$(BIN)/python -m pytest -q -m node $(ARGS) tests/node

dist: $(VENV)/.ready ## Build both wheels and sdists, and try them in bare environments
	@rm -rf dist && mkdir -p dist
	@$(BIN)/python -m build --outdir dist clients
	@$(BIN)/python -m build --outdir dist .
	@sh tests/packaging/install.sh

client-protobuf6: ## Run the client's tests with protobuf 6
	@sh tests/packaging/protobuf6.sh

sqooler-test: $(VENV)/.ready ## Run sqooler's own programs against the service, in an environment of its own
	@sh tests/sqooler/run.sh $(BIN)/spoolway $(ARGS)

release-contract: $(VENV)/.ready ## At a release: what the breaking-change check compares with from now on
	@$(BIN)/buf build proto -o proto/released.binpb

clean: ## Remove what was built; the environments stay
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: fuzz release-contract help run serve test lb-test node-test crash fleet bench bench-peers soak lint check format dist client-protobuf6 sqooler-test clean proto proto-check

.venv-proto/.ready:
	@$(PYTHON) -m venv .venv-proto
	@# The last generator whose code runs with protobuf 6 and 7; it can't live beside the current grpcio.
	@$(PROTO_BIN)/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.80.1 mypy-protobuf==5.1.0 'setuptools<81'
	@touch $@

proto: .venv-proto/.ready ## Generate the stubs in clients/spoolway/v1
	@mkdir -p $(STUBS)/spoolway/v1
	@PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -I proto --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) $(PROTOS)
	@PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -I proto --grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) $(SERVICES)
	@echo '"""Generated from proto/spoolway/v1 by `make proto`; do not edit."""' > $(STUBS)/spoolway/v1/__init__.py

proto-check: .venv-proto/.ready $(VENV)/.ready ## Check that the stubs are fresh and the contract only grows
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(MAKE) --no-print-directory proto STUBS=build/stubs
	@diff -r -x __pycache__ build/stubs/spoolway/v1 clients/spoolway/v1 || { echo "The stubs are stale: run 'make proto' and commit them."; exit 1; }
	@$(BIN)/buf lint proto
	@$(BIN)/buf format --diff --exit-code proto > /dev/null || { echo "Run '$(BIN)/buf format -w proto'."; exit 1; }
	@$(BIN)/buf breaking proto --against proto/released.binpb
