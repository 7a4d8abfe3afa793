# make demo: train, validate and predict on embedded digits.   make test: lint and the whole test suite.
# make test-all: the same, with tests that take long or need tools of the interop extra, which it installs.
# make demo-detection, make demo-segmentation: the same for a detector and a segmentor, on digits in photographs.
# make setup-dense: install what detection and segmentation need; nothing is compiled.
# make test-latest: the test suite on the newest releases of all that it needs, in an environment of its own.
# make prove-ops: compile mmcv in an environment of its own, 6 minutes on 2 cores, and compare our operators with its.
# make docs: build the site, build/site/index.html.   make test-docs: try it in a headless Chromium, which must be installed.
PYTHON ?= python3
VENV ?= .venv
LATEST ?= .venv-latest
COMPILED ?= .venv-compiled
DOCS ?= .venv-docs
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := runs/demo
DETECTION := runs/demo-detection
SEGMENTATION := runs/demo-segmentation

.PHONY: help demo demo-detection demo-segmentation test test-all test-latest prove-ops docs test-docs lint format clean setup-dense
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q;p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: setup.cfg constraints.txt | $(BIN)/python
	@echo "== installing backbones into $(VENV)"
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: setup.cfg constraints.txt | $(BIN)/python
	@echo "== installing backbones and its test tools into $(VENV)"
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.dense: setup.cfg constraints.txt | $(BIN)/python
	@echo "== installing backbones and OpenMMLab's packages into $(VENV)"
	$(PIP) install -q -c constraints.txt -e '.[dense]'
	@touch $@ $(VENV)/.core

# After OpenMMLab's packages, as installing these may move what both need.
$(VENV)/.interop: setup.cfg constraints.txt $(VENV)/.dev | $(VENV)/.dense
	@echo "== installing tools that backbones is tested with into $(VENV)"
	$(PIP) install -q -c constraints.txt -e '.[interop]'
	@touch $@

setup-dense: $(VENV)/.dense

demo: $(VENV)/.core
	@echo "== training a small NAT on scikit-learn's handwritten digits"
	$(BIN)/python tools/classification/train.py --recipe demo --experiment demo --overwrite
	@echo "== validating it"
	$(BIN)/python tools/classification/validate.py $(DEMO) --confusion $(DEMO)/confusion.png
	@echo "== predicting held-out digits"
	$(BIN)/python tools/classification/predict.py --model $(DEMO) --digits 40 --topk 3 --sheet $(DEMO)/sheet.png
	@echo "curves: $(DEMO)/curves.png   confusion matrix: $(DEMO)/confusion.png   predictions: $(DEMO)/sheet.png"

# $(call reach,metrics.json,metric,least): tell a metric, and fail if it is less than it should be.
reach = $(BIN)/python -c 'import json, sys; file, key, least = sys.argv[1:]; value = json.load(open(file))[key]; \
	print(f"{key} on held-out scenes: {value:.4g}"); sys.exit(f"{key} should reach {least}" if value < float(least) else 0)' $(1) $(2) $(3)

demo-detection: $(VENV)/.dense
	@echo "== composing scenes of scikit-learn's handwritten digits and photographs"
	$(BIN)/python tools/dense/make_scenes.py
	@echo "== training a small Mask R-CNN on them"
	$(BIN)/python tools/dense/train.py configs/detection/demo.py --work-dir $(DETECTION)
	@echo "== testing it on held-out scenes"
	$(BIN)/python tools/dense/test.py configs/detection/demo.py $$(cat $(DETECTION)/last_checkpoint) --work-dir $(DETECTION)/test
	@echo "== drawing what it finds on them"
	$(BIN)/python tools/dense/predict.py configs/detection/demo.py $$(cat $(DETECTION)/last_checkpoint) \
		data/scenes/images/val --limit 12 --score-thr 0.5 --out-dir $(DETECTION)/predictions
	$(BIN)/python tools/dense/analyze.py $(DETECTION)
	@echo "curves: $(DETECTION)/curves.png   pictures: $(DETECTION)/predictions"
	@$(call reach,$(DETECTION)/test/metrics.json,coco/bbox_mAP_50,0.5)

demo-segmentation: $(VENV)/.dense
	@echo "== composing scenes of scikit-learn's handwritten digits and photographs"
	$(BIN)/python tools/dense/make_scenes.py
	@echo "== training a small UPerNet on them"
	$(BIN)/python tools/dense/train.py configs/segmentation/demo.py --work-dir $(SEGMENTATION)
	@echo "== testing it on held-out scenes"
	$(BIN)/python tools/dense/test.py configs/segmentation/demo.py $$(cat $(SEGMENTATION)/last_checkpoint) --work-dir $(SEGMENTATION)/test
	@echo "== drawing what it finds on them"
	$(BIN)/python tools/dense/predict.py configs/segmentation/demo.py $$(cat $(SEGMENTATION)/last_checkpoint) \
		data/scenes/images/val --limit 12 --out-dir $(SEGMENTATION)/predictions
	$(BIN)/python tools/dense/analyze.py $(SEGMENTATION)
	@echo "curves: $(SEGMENTATION)/curves.png   pictures: $(SEGMENTATION)/predictions"
	@$(call reach,$(SEGMENTATION)/test/metrics.json,mIoU,50)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint $(VENV)/.dense
	$(BIN)/python -m pytest -q -n 2

test-all: lint $(VENV)/.dense $(VENV)/.interop
	$(BIN)/python -m pytest -q -n 2 -m 'extra or not extra'

test-latest:
	$(PYTHON) -m venv $(LATEST)
	@echo "== installing the newest releases into $(LATEST)"
	$(LATEST)/bin/python -m pip install -q --upgrade --upgrade-strategy eager -e '.[dense,dev]'
	$(LATEST)/bin/python -m pip list
	$(LATEST)/bin/python -m pytest -q -n 2

# mmcv's compiled operators work with the one torch that they were built for, and are built only where they see it.
$(COMPILED)/.built: setup.cfg constraints.txt
	$(PYTHON) -m venv $(COMPILED)
	@echo "== compiling mmcv in $(COMPILED)"
	$(COMPILED)/bin/python -m pip install -q -c constraints.txt ninja psutil 'setuptools>=77,<82' wheel -e '.[dense]'
	MMCV_WITH_OPS=1 MAX_JOBS=$${MAX_JOBS:-$$(getconf _NPROCESSORS_ONLN)} $(COMPILED)/bin/python -m pip install -q \
		-c constraints.txt --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv
	@touch $@

prove-ops: $(COMPILED)/.built
	$(COMPILED)/bin/python tools/dense/check_ops.py --compiled

$(DOCS)/.built: setup.cfg constraints.txt
	$(PYTHON) -m venv $(DOCS)
	@echo "== installing backbones and what builds its site into $(DOCS)"
	$(DOCS)/bin/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)/.built
	$(DOCS)/bin/python tools/docs.py build

test-docs: docs
	$(DOCS)/bin/python -m pytest -q tests/site/in_browser.py

clean:
	rm -rf $(VENV) $(LATEST) $(COMPILED) $(DOCS) build runs data/scenes .pytest_cache .ruff_cache
