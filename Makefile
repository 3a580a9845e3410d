# Two commands do everything on a machine that has only Python and make: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint types unit proxies js js-full browser slow soak bench bench-browser autobahn fuzz deploy-check sbom constraints clean

run: $(VENV)/.installed
	$(BIN)/python -m wsstream

test: lint types unit js js-full browser

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		ruff mypy types-regex pytest pytest-asyncio pytest-timeout pytest-cov hypothesis hatchling \
		anthropic fastapi django flask trustme pyyaml opentelemetry-sdk \
		"atheris; sys_platform == 'linux' and python_version < '3.14'"
	touch $@

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

unit: $(VENV)/.tested proxies
	$(BIN)/python -m pytest -m "not slow" -q

# Real proxies for tests/wires/test_proxies.py, which are skipped without them.
proxies:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v nginx && command -v haproxy; } >/dev/null; then \
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends nginx-light haproxy; } >/dev/null 2>&1 \
			|| echo "no nginx or HAProxy here: the tests behind them are skipped"; fi

# The browser client has no dependencies; its tests need only node.
js:
	@if command -v node >/dev/null; then node --test clients/js/test/; else echo "no node here: the JavaScript tests did not run"; fi

# Types, sizes and React: what needs packages. Without a registry it says what it leaves out.
js-full:
	@if ! command -v npm >/dev/null; then echo "no npm here: types, sizes and React of the browser client were not tested"; \
	elif $(MAKE) --no-print-directory clients/node_modules/.installed; then node --test clients/js/test-full/; \
	else echo "packages are not to be had: types, sizes and React of the browser client were not tested"; fi

clients/node_modules/.installed: clients/js/package.json
	cd clients && npm install --silent --no-save --no-package-lock --no-audit --no-fund --fetch-retries=1 \
		$$(node -p 'Object.entries(require("./js/package.json").devDependencies).map((named) => named.join("@")).join(" ")')
	touch $@

# Real browsers with a real server; installs Chromium and the tooling where it may. Firefox and WebKit where they are.
browser: $(VENV)/.installed
	tests/browser/run.sh test

bench-browser: $(VENV)/.installed
	tests/browser/run.sh bench

slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m "slow and not deploy" -q

# All kinds of clients, a provider that fails and a server that is killed; SEED repeats the plan of a run before.
SECONDS ?= 600
soak: $(VENV)/.tested
	$(BIN)/python -m tests.soak.run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.tested
	$(BIN)/python benchmarks/compare.py

# The WebSocket layer under the cases of the Autobahn suite; needs a Python 2.7, see tests/autobahn/run.py.
autobahn: $(VENV)/.tested
	$(BIN)/python -m tests.autobahn.run

# A minute for each of the fuzzers.
fuzz: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow -q -s tests/fuzz

# What lies in deploy/, and what is published, under the tools of others: images, charts, rules, units, wheels. The first
# time takes ten minutes; as root on Debian what is missing is installed, else it says what it skips.
deploy-check: $(VENV)/.tested
	tests/deploy/tools.sh $(VENV)/deploy
	$(BIN)/python -m pytest -m deploy -q -rs --durations=5 tests/deploy

# What is installed to run the server, what its page brings along, and not what tests it, as CycloneDX. It is not kept here: it belongs to a build.
sbom:
	rm -rf $(VENV)/shipped
	$(PYTHON) -m venv $(VENV)/sbom
	$(PYTHON) -m venv --without-pip $(VENV)/shipped
	$(VENV)/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom
	$(VENV)/sbom/bin/pip --python $(VENV)/shipped/bin/python install --quiet --disable-pip-version-check \
		--constraint constraints.txt .
	mkdir -p dist
	sed "s/^dynamic = .*/version = \"$$($(VENV)/shipped/bin/python -c 'import wsstream; print(wsstream.__version__)')\"/" \
		pyproject.toml > $(VENV)/sbom/pyproject.toml
	$(VENV)/sbom/bin/cyclonedx-py environment $(VENV)/shipped/bin/python --pyproject $(VENV)/sbom/pyproject.toml --output-reproducible \
		--output-file dist/wsstream.cdx.json
	$(VENV)/sbom/bin/python deploy/vendored.py dist/wsstream.cdx.json

# Pins exactly what is installed now; names packages and versions only.
constraints: $(VENV)/.tested
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > constraints.txt

clean:
	rm -rf $(VENV) clients/node_modules dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
