# make quickstart   all three stages on simulated recordings; DATA=<folder of the BIDMC release> for real ones
# make test         code style, types and tests
# make docs         the documentation as a site, in site/
# Each sets up a virtual environment in .venv first and reuses it afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN ?= quickstart_run

.PHONY: quickstart test test-long test-gpu docs clean

quickstart: $(INSTALLED)
	$(BIN)/python scripts/quickstart.py --output_dir "$(RUN)" $(if $(DATA),--data_dir "$(DATA)")

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-long: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu

$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(RUN) site *.egg-info .pytest_cache .ruff_cache .mypy_cache
