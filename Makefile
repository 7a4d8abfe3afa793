# make demo: train, validate and predict on embedded digits.   make test: lint and the whole test suite; needs setup-dense.
# make demo-detection, make demo-segmentation: the same for a detector and a segmentor, on digits in photographs.
# make setup-dense: install what detection and segmentation need; builds mmcv, 5 to 7 minutes on 2 cores.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := runs/demo
DETECTION := output/demo-detection
SEGMENTATION := output/demo-segmentation

.PHONY: help demo demo-detection demo-segmentation test lint format clean setup-dense
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

# mmcv's operators work with the one torch that they were built for, so they are built again whenever they do not.
$(VENV)/.dense: setup.cfg constraints.txt | $(VENV)/.core
	@echo "== installing OpenMMLab's packages into $(VENV)"
	$(PIP) install -q -c constraints.txt ninja psutil 'setuptools>=77,<82' wheel onedl-mmengine
	$(BIN)/python tools/dense/check_ops.py 2>/dev/null || MMCV_WITH_OPS=1 MAX_JOBS=$${MAX_JOBS:-$$(getconf _NPROCESSORS_ONLN)} \
		$(PIP) install -q -c constraints.txt --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv
	$(PIP) install -q -c constraints.txt -e '.[dense]'
	$(BIN)/python tools/dense/check_ops.py
	@touch $@

setup-dense: $(VENV)/.dense

demo: $(VENV)/.core
	@echo "== training a small NAT on scikit-learn's handwritten digits"
	$(BIN)/python tools/classification/train.py --recipe demo --output runs --experiment demo --overwrite
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

clean:
	rm -rf $(VENV) runs output data/scenes .pytest_cache .ruff_cache
