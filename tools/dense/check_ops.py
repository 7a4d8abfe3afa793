#!/usr/bin/env python
"""Prove the operators that detectors run, against mmcv's compiled ones where they are installed; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops.proof import main

if __name__ == "__main__":
    sys.exit(main())
