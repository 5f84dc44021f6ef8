# Two commands matter: `make demo` runs the whole pipeline, `make test` the tests. Both set up what they need first.

.PHONY: help python setup setup-cluster demo build fetch test test-full test-cluster lint format docs lock bench-data bench-sandbox bench-slurm clean
.DEFAULT_GOAL := help

# The first of these that is new enough; some systems keep a newer Python beside their own.
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHONS = python3 python3.11 python3.12 python3.13 python3.14
ifndef PYTHON
PYTHON := $(shell for python in $(PYTHONS); do $$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
endif
# The stacks that `setup` installs; none named, all that are not optional.
STACKS =
PATH := $(CURDIR)/.venvs/bin:$(PATH)
export PATH

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

python:
	@[ "$(PYTHON)" ] || { echo "no Python 3.11 or newer on PATH; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }

setup: python ## install every pinned stack below .venvs/, or STACKS
	$(PYTHON) envs/install.py $(STACKS)

setup-cluster: python ## install what a login node needs: Snakemake and the tools beside it; the rest is in the images
	$(PYTHON) envs/install.py workflow

fetch: setup-cluster ## download all that RECIPE needs, in the images, where there is a network
	recipe check $(RECIPE)
	snakemake --profile workflow/profiles/fetch -- fetch-$(RECIPE)

demo: ## build the recipe `demo`: source tasks, rollouts, SFT, RL, scores
	@$(MAKE) --no-print-directory build RECIPE=demo

build: setup ## build the recipe RECIPE (a name in workflow/recipes)
	recipe check $(RECIPE)
	snakemake --profile workflow/profiles/local -- $(RECIPE)
	report show results/recipes/$(RECIPE)

test: setup ## lint, types and the fast tests
	$(MAKE) --no-print-directory lint
	pytest -n auto --dist worksteal -m "not full and not cluster" tests

test-full: setup ## everything a machine without a GPU can run
	$(PYTHON) envs/install.py skyrl-config
	$(MAKE) --no-print-directory lint
	pytest -n auto --dist worksteal -m "not full and not cluster" tests
	pytest -n 2 --dist worksteal -m "full and not cluster" tests

test-cluster: setup ## bring up a real Apptainer and Slurm (Debian 12, as root), build the images, run what needs them
	tests/cluster/apptainer
	pytest -n 2 --dist worksteal -m "full and not cluster" -k apptainer tests
	images build --base local
	@was=$$(tests/cluster/slurm status >/dev/null 2>&1 && echo up); tests/cluster/slurm up || exit; \
	pytest -n 2 --dist loadfile -m cluster tests/cluster; code=$$?; \
	[ "$$was" ] || tests/cluster/slurm down; exit $$code

lint: ## ruff, mypy, snakefmt, snakemake --lint
	ruff check . tests/cluster/slurm
	ruff format --check . tests/cluster/slurm
	mypy
	snakefmt --check Snakefile workflow/rules benchmarks/slurm_units.smk
	snakemake --lint

format: ## rewrite the code in the house's format
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules benchmarks/slurm_units.smk

docs: ## write docs/recipes.md and workflow/schemas/recipe.json again
	.venvs/dev/bin/python -m recipe.reference > docs/recipes.md
	mkdir -p workflow/schemas
	recipe schema > workflow/schemas/recipe.json

lock: ## resolve every envs/<stack>/requirements.in again
	envs/lock

bench-data: setup ## time the data tools on up to 1,200,000 rows (40 minutes); writes results/bench/data.json
	$(PYTHON) envs/install.py bench
	.venvs/data/bin/python benchmarks/bench_data.py

bench-sandbox: setup ## trials a minute, start and stop of sandboxes beside Harbor's own; writes results/bench/sandbox.json
	.venvs/harness/bin/python benchmarks/bench_sandbox.py

bench-slurm: setup-cluster ## what 200 small units cost as Slurm jobs and as one, and a plan of 1,000 artifacts; SITE=a site file
	.venvs/workflow/bin/python benchmarks/bench_slurm.py --site $(or $(SITE),workflow/profiles/generic)

clean: ## remove what recipes built (not the stacks, nor what a teacher was asked)
	find results -mindepth 1 -not -path 'results/requests*' -not -name README.md -delete
