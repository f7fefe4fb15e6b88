.PHONY: help install demo check test soak test-install lint types imports unit property format docs kube-up kube-down clean
.DEFAULT_GOAL := help
PY = .venv/bin/python

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

install:  ## make .venv with Seaway and its tools; every other target does so first
	@scripts/install

demo: install  ## a platform, an app, its updates under load
	@$(PY) scripts/demo.py

check: install  ## under a minute: lint, types, import contracts, unit tests, a few property tests
	@$(PY) scripts/test.py check

test: install  ## everything, as CI does; one tier: .venv/bin/python scripts/test.py WORD
	@$(PY) scripts/test.py

soak: install  ## the long proofs at full length
	@$(PY) scripts/test.py soak

test-install: install  ## an installation in a cluster, replaced part by part under load
	@$(PY) -m pytest -q -ra tests/kube/test_install.py

lint: install  ## only this part of check; so are the next four
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: install
	@.venv/bin/mypy

imports: install
	@.venv/bin/lint-imports

unit: install
	@$(PY) -m pytest -q -p no:schemathesis tests/unit

property: install
	@$(PY) -m pytest -q -p no:schemathesis tests/property

format: install  ## mend what ruff can mend
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

docs: install  ## write the generated pages anew
	@for script in scripts/gen_*_docs.py; do $(PY) $$script || exit; done

kube-up: install  ## Kubernetes on this machine: three masters, three nodes
	@$(PY) -m tests.kube.lab up

kube-down: install  ## end it; no trace is left
	@$(PY) -m tests.kube.lab down

clean:  ## remove .venv and what tools have kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .test-logs
