# make demo: a small world from nothing to pictures; make test: lint, types and all tests;
# make bench: how long things take, in 5 to 15 minutes
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
DEMO := demo
# exported, so that two processes on one machine do not wait for each other in busy loops
export OMP_WAIT_POLICY ?= PASSIVE
RUN := $(VENV)/bin/python main.py --datasets_dir $(DEMO)/datasets --results_dir $(DEMO)/results
MODEL := --models_dir $(DEMO)/models --model_name demo

.PHONY: demo test bench clean

demo: $(VENV)/installed
	$(VENV)/bin/python main.py --utility make_demo_dataset --datasets_dir $(DEMO)/datasets
	source setup.csh $(VENV)/bin/python $(DEMO)/datasets
	$(RUN) $(MODEL) --utility train_joint_model --config models_src/configs/demo.yaml --overwrite
	$(RUN) $(MODEL) --utility text_evaluation
	$(RUN) $(MODEL) --utility visual_evaluation
	$(RUN) $(MODEL) --utility heatmap_demonstration --num_items 6
	$(RUN) $(MODEL) --utility bbox_demonstration --num_items 6
	$(RUN) $(MODEL) --utility report
	@echo
	@echo "The demo is complete:"
	@echo "  report               $(DEMO)/results/report_demo.html (open it in a browser)"
	@echo "  data                 $(DEMO)/datasets"
	@echo "  model                $(DEMO)/models/text/demo.*, $(DEMO)/models/visual/demo.*"
	@echo "  word results         $(DEMO)/results/text_evaluation_demo.json"
	@echo "  image results        $(DEMO)/results/visual_evaluation_demo.json"
	@echo "  metrics by epoch     $(DEMO)/results/demo/evaluation_by_epoch.csv"
	@echo "  learning curves      $(DEMO)/results/demo/learning_curves.png"
	@echo "  heatmaps             $(DEMO)/results/demo/heatmap_demonstration/"
	@echo "  boxes                $(DEMO)/results/demo/bbox_demonstration/"

test: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m coverage run -m pytest -n auto --maxprocesses=4 --dist=worksteal
	$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python -m coverage report

bench: $(VENV)/installed
	$(VENV)/bin/python -m tests.benchmarks.speed

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-baselines.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
