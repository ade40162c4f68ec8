# make train · make label · make test · make bench · make docs
# Each sets up what it needs, once; ARGS="steps=20000 env=…" is passed on

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
unexport PYTHONDONTWRITEBYTECODE  # else every process compiles all that it imports

.PHONY: train label test bench docs clean

train: $(VENV)/ready
	$(RUN) train.py $(ARGS)

label: $(VENV)/ready
	$(RUN) -m pbrl.label $(ARGS)

# three workers for two cores: many tests wait, for a clock, a server or a page
test: $(VENV)/ready
	$(RUN) -m tests.browser
	$(RUN) -m pytest -n 3 --dist worksteal $(ARGS)

bench: $(VENV)/ready
	$(RUN) -m benchmarks.offline $(ARGS)

docs: $(VENV)/ready
	$(RUN) -m sphinx -W --keep-going -q -b html docs site $(ARGS)
	@echo "open site/index.html"

# torch first: it is the CUDA build where PyPI has one, and every other package then leaves it alone. Python compiles what
# it imports when it does: to compile all that is installed takes half of the time
$(VENV)/ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --no-compile torch==2.13.0
	$(RUN) -m pip install --quiet --no-compile --editable ".[sim,arms,real,label,vlm,sweep,log,docs,dev]"
	$(RUN) -c "from sim import backend; backend.install()"
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info site docs/api
