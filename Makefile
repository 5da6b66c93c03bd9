# make run    virtual environment, packages, notebooks 01 to 05 from top to bottom, figures;
#             make run NOTEBOOKS="01 02" for those whose names start so
# make study  the same for the notebooks beyond the report, 06 and later
# make test   the same set-up; unit tests, and the notebooks, on the phantom, against the text of
#             their stored outputs
# make lab    the same set-up; JupyterLab
# make lint   ruff, and import-linter: who may import whom (pyproject.toml)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run study test lab lint

run: $(READY)
	$(BIN)/python scripts/run_notebooks.py $(NOTEBOOKS)

study: $(READY)
	$(BIN)/python scripts/run_notebooks.py --beyond

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval -n logical --maxprocesses 8 --dist loadfile \
		--no-loadscope-reorder tests notebooks

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("expected Python 3.11 or newer, found %d.%d: set PYTHON=/path/to/python3.11" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $(READY)
