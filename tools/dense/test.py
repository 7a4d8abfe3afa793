#!/usr/bin/env python
"""Measure a trained detector or segmentor; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops import start

if __name__ == "__main__":
    sys.exit(start("cli_test:main"))
