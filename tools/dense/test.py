#!/usr/bin/env python
"""Measure a trained detector or segmentor; see --help."""

from __future__ import annotations

import sys

try:
    from backbones.dense.ops import start
except RuntimeError as error:  # mmcv is there, but does not work
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(start("cli_test:main"))
