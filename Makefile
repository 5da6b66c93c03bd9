# make run    virtual environment, packages, the notebooks from top to bottom, figures;
#             make run NOTEBOOKS="01 02" for those whose names start so
# make test   the same set-up; unit tests, then the notebooks against their stored outputs
# make lab    the same set-up; JupyterLab
# make lint   ruff
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test lab lint

run: $(READY)
	$(BIN)/python notebooks/run_all.py $(NOTEBOOKS)

test: $(READY)
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --nbval notebooks

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check .

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("expected Python 3.11 or newer, found %d.%d: set PYTHON=/path/to/python3.11" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $(READY)
