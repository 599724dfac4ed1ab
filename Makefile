# Every target does its own set-up: a virtual environment in .venv with the CPU build of torch.

PYTHON ?= python3
VENV ?= .venv
PLAN ?= plans/digits.yaml
OUT ?= squeeze-out/$(basename $(notdir $(PLAN)))
STORE ?= .squeeze/store
PACKAGE ?= $(firstword $(wildcard $(OUT)/*.zip))
REAL ?= ../shared/real
ARGS ?=
WORKERS ?= 2
OWN := plans/prose6m-adapter.yaml plans/prose6m-backends.yaml plans/prose6m-everywhere.yaml plans/minilm-sst2-int8.yaml plans/minilm-half.yaml plans/resnet20-phone.yaml plans/mobilenet-phone.yaml plans/smollm2-int4.yaml plans/smollm2-100m.yaml plans/smollm2-english.yaml plans/smollm2-phone.yaml  # need extras or a package; a test checks them
PLANS := $(filter-out $(OWN),$(wildcard plans/*.yaml))

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A file of tests per process, in the order of their names: sorted by their number, the few that take longest come last.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
UNIT := tests/algorithms tests/blocks tests/data tests/evaluate tests/formats tests/plan tests/report \
	$(filter-out tests/test_fuzz.py tests/test_readme.py tests/test_plugins.py,$(wildcard tests/test_*.py))
SQUEEZE := $(BIN)/squeeze

.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit test-all coverage check run gate package verify report bench bench-quick format clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY) ## Make the virtual environment.

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch>=2.13,<2.14"
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(READY) ## Train, prune, distill, export, quantize, pack and verify the digits CNN.
	$(SQUEEZE) run plans/digits.yaml --out squeeze-out/digits --store $(STORE)
	$(SQUEEZE) verify squeeze-out/digits/digits-cpu.zip --data plans/digits.yaml

test: $(READY) ## Run the tests, WORKERS=2 processes side by side.
	$(PYTEST)

test-unit: $(READY) ## The tests of single rooms, without models that run through a plan.
	$(PYTEST) $(UNIT)

test-all: $(READY) ## The tests, and those that take minutes.
	$(PYTEST) -m ''

coverage: $(READY) ## The tests with branch coverage of squeeze/, also in htmlcov/.
	$(PYTEST) --cov --cov-report term:skip-covered --cov-report html

check: $(READY) ## Lint, types (of the tests too), and every plan in plans/.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict squeeze
	$(BIN)/mypy --config-file tests/mypy.ini tests
	@for plan in $(PLANS); do $(SQUEEZE) check $$plan --var real=$(abspath $(REAL)) || exit $$?; done

run: $(READY) ## Carry out PLAN=..., results in OUT=... (ARGS="--set passes.0.ratio=0.5").
	$(SQUEEZE) run $(PLAN) --out $(OUT) --store $(STORE) $(ARGS)

gate: $(READY) ## As run, for CI servers: fails (code 3 in its last line) when the budget is broken; writes OUT/junit.xml.
	@$(SQUEEZE) run $(PLAN) --out $(OUT) --store $(STORE) $(ARGS); code=$$?; echo "gate: exit code $$code, $(OUT)/junit.xml"; exit $$code

package: run ## Carry out PLAN=... and list its packages.
	@ls -l $(OUT)/*.zip

verify: $(READY) ## Verify PACKAGE=....
	$(SQUEEZE) verify $(PACKAGE)

report: $(READY) ## Show the report of OUT=... again.
	$(SQUEEZE) report $(OUT) --render

bench: $(READY) ## Every benchmark; REAL=... is where the real models and data lie. Takes a while.
	$(BIN)/python -m benchmarks --real $(REAL) $(ARGS)

format: $(READY) ## Format and fix what can be fixed.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove results, store and environment.
	rm -rf squeeze-out .squeeze $(VENV) build *.egg-info
