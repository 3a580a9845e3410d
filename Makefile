# Two commands do everything on a machine that has only Python and make: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint types unit js slow bench constraints clean

run: $(VENV)/.installed
	$(BIN)/python -m wsstream

test: lint types unit js

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		ruff mypy pytest pytest-asyncio pytest-timeout pytest-cov hypothesis hatchling
	touch $@

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

unit: $(VENV)/.tested
	$(BIN)/python -m pytest -m "not slow" -q

# The browser client has no dependencies; its tests need only node.
js:
	@if command -v node >/dev/null; then node --test clients/js/test/; else echo "no node here: the JavaScript tests did not run"; fi

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow -q

bench: $(VENV)/.tested
	$(BIN)/python benchmarks/compare.py

# Pins exactly what is installed now; names packages and versions only.
constraints: $(VENV)/.tested
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > constraints.txt

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
