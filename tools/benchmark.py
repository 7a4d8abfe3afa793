"""Measure speed and memory of models and operators; see --help."""

import sys

import backbones  # noqa: F401, registers the models
from backbones.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
