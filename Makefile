# make run    install into .venv and run the demo line; ARGS="--for 20s --summary s.json" passes options on
# make test   install what the tests need and run the quick ones: each promise by one test
# make test-all  all tests; ARGS="-m long" those that make test leaves out
# make check  lint, types, import contracts, spelling, workflows
# make docs   the documentation as a site, in .site; fails on a link within the repository that leads nowhere
# make cover  how much of the code the short tests run, in lines and branches
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt

.PHONY: run install test test-all check docs cover clean
run: .venv/installed
	@.venv/bin/linepipe run deploy/line1.yaml $(ARGS)

install: .venv/installed

# One worker more than there are processors: tests of lines wait for half of their time.
TEST := .venv/bin/python -m pytest -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder
test: .venv/installed-test
	$(TEST) -m "not long" $(ARGS)

test-all: .venv/installed-test
	$(TEST) $(ARGS)

cover: .venv/installed-test
	$(TEST) -m "not long" --cov --cov-report=term:skip-covered $(ARGS)

docs: .venv/installed-docs
	.venv/bin/sphinx-build -q -W --keep-going -c docs -b html . .site

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
	rm -rf .venv .linepipe .site
