#!/usr/bin/env python
"""Draw what a trained detector or segmentor finds on images; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops import start

if __name__ == "__main__":
    sys.exit(start("cli_predict:main"))
