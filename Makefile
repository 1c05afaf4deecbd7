PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test unit lowest lint bench gpu demo results dist clean

install: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt requirements-demo.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 40

unit: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

# The unit tests with the lowest versions that pyproject.toml allows. PYTHON: the lowest too, 3.10
lowest:
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/pip install --quiet uv
	build/lowest/bin/uv pip install --python build/lowest --resolution lowest-direct -e '.[train,report,demo,dev]'
	build/lowest/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint -s hparams recipes .yamllint.yaml
	$(BIN)/codespell

bench: install
	$(BIN)/python -m tests.benchmark

# DEVICE: cpu for a rehearsal at the tiny size; by default cuda, where there is one
gpu: install
	$(BIN)/python -m tests.gpu $(if $(DEVICE),--device $(DEVICE))

demo: install
	$(BIN)/python recipes/Synthetic/demo.py

# RESULTS: the output folder of recipes/experiments/results.py
results: install
	$(BIN)/python recipes/experiments/results.py --write $(RESULTS)

# Wheel and source distribution in dist/, checked, and each used in an empty environment: needs the network
dist: install
	rm -rf dist
	$(BIN)/python -m tests.release.distributions dist

clean:
	rm -rf .venv build dist *.egg-info
