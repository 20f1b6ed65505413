# make run    install into .venv and run the demo line; ARGS="--for 20s --summary s.json" passes options on
# make test   install what the tests need and run them
# make check  lint, types, import contracts, spelling, workflows
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt

.PHONY: run install test check clean
run: .venv/installed
	@.venv/bin/linepipe run deploy/line1.yaml $(ARGS)

install: .venv/installed

test: .venv/installed-test
	.venv/bin/python -m pytest $(ARGS)

check: .venv/installed-check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy docs/reference.py
	.venv/bin/lint-imports
	.venv/bin/codespell
	.venv/bin/python docs/reference.py --check
	.venv/bin/zizmor --quiet --offline .github

# torch first and by its pin: any other request for it may bring gigabytes of CUDA libraries along.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

.venv/installed-%: .venv/installed
	$(PIP) -e ".[$*]"
	@touch $@

clean:
	rm -rf .venv .linepipe
