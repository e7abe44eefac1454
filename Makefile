# `make` alone prints this list. Each target needs nothing but Python 3.11 or newer, git and make.
PYTHON ?= python3
# In the environment, so that no letter of a prompt means anything to make's shell.
export PROMPT ?= a red cat
export OUT ?= demo.jpeg

BENCHMARKS := overhead startup memory lag_simulated lag_live lag_held scale server doors replicas fleet telemetry
BIN := .venv/bin
UV := $(BIN)/uv
# Trust the certificates this machine trusts, as pip does.
export UV_SYSTEM_CERTS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format manual proto proto-check test-compat test-faults soak build test-wheel sbom recordings screenshots bench plots docs clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

demo: .venv/demo ## make a picture with no account: make demo [PROMPT="a red cat"] [OUT=demo.jpeg]
	@$(BIN)/yandexart generate --demo --force --output "$$OUT" -- "$$PROMPT"

test: lint proto-check ## run every check and test but the slow ones
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder -m 'not slow and not faults'

lint: .venv/test ## check formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/test ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

manual: .venv/test ## write docs/cli.md, the manual of the command line, from its code
	$(BIN)/python docs/manual.py

proto: .venv-proto/done ## compile proto/ into generated/
	.venv-proto/bin/python proto/compile.py

proto-check: .venv-proto/done ## fail where generated/ is not what proto/ compiles to
	.venv-proto/bin/python proto/compile.py --check

test-compat: .venv/test ## try the stubs beside several versions of yandexcloud and protobuf (minutes)
	$(BIN)/pytest -m slow

test-faults: .venv/test ## break everything: connections, servers, batches, at random instants (a quarter of an hour)
	$(BIN)/pytest tests/faults

soak: .venv/test ## let both clients work through faults for ten minutes, and see that nothing is left behind
	YANDEXART_SOAK_SECONDS=600 $(BIN)/pytest -rP tests/faults/test_soak.py

build: $(UV) ## build sdist and wheel into dist/, the same to the byte on every machine
	rm -rf dist
	$(UV) build --quiet --no-create-gitignore
	$(UV) tool run --quiet --with 'readme-renderer[md]' twine check --strict dist/*.whl dist/*.tar.gz

test-wheel: .venv/test ## try the wheel without the checkout: alone, with each extra, and under the tests (minutes)
	$(BIN)/pytest -m slow tests/test_wheel.py

sbom: .venv/test build ## list what a full installation is made of in dist/ (CycloneDX), and its licences in THIRD_PARTY.md
	$(BIN)/python docs/sbom.py dist

recordings: .venv/test ## record the terminal into docs/images
	$(BIN)/python -m docs.recordings

bench: .venv-bench/done ## measure lag, reads, CPU, memory and start-up against raw stubs and the official clients (minutes)
	@for name in $(BENCHMARKS); do .venv-bench/bin/python -m benchmarks.$$name || exit 1; done

plots: .venv-bench/done ## draw docs/images from what `make bench` found
	.venv-bench/bin/python -m benchmarks.plots

docs: .venv-docs/done ## build the pages as a site into site/, and fail where a link leads nowhere
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

screenshots: .venv/test ## make the pictures of the page in docs/images/ (needs Chromium)
	$(BIN)/python -m docs.screenshots

clean: ## remove the environments and what was built
	rm -rf .venv .venv-proto .venv-bench .venv-docs dist site

$(UV):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv-bench/done: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear .venv-bench
	$(UV) pip install --quiet --python .venv-bench/bin/python --editable '.[postgres,server]' --group bench
	touch $@

.venv-docs/done: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear .venv-docs
	$(UV) pip install --quiet --python .venv-docs/bin/python --group docs
	touch $@

.venv/demo: pyproject.toml | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python --editable '.[cli,server]'
	touch $@

.venv/test: pyproject.toml | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python --editable '.[all]' --group test
	touch $@

# The compiler's protobuf and the one yandexcloud wants exclude each other, and it has no build for Python 3.14 or newer.
.venv-proto/done: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python '>=3.11,<3.14' .venv-proto
	$(UV) pip install --quiet --python .venv-proto/bin/python --group proto
	touch $@
