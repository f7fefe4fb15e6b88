.PHONY: soak test-install kube-up kube-down install demo check test lint types imports unit property format clean
PY = .venv/bin/python

install:
	@scripts/install

demo: install
	@$(PY) scripts/demo.py

# Side by side; the output of each comes when it is done.
check: install
	@$(PY) scripts/test.py check

lint: install
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: install
	@.venv/bin/mypy

imports: install
	@.venv/bin/lint-imports

unit: install
	@$(PY) -m pytest -q -p no:schemathesis tests/unit

property: install
	@$(PY) -m pytest -q -p no:schemathesis tests/property

format: install
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

test: install
	@$(PY) scripts/test.py

soak: install
	@$(PY) scripts/test.py soak

test-install: install
	@$(PY) -m pytest -q -ra tests/kube/test_install.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

kube-up: install
	@$(PY) -m tests.kube.lab up

kube-down: install
	@$(PY) -m tests.kube.lab down
