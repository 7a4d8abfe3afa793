#!/usr/bin/env python
"""Run mmcv's compiled operators once and compare them with torchvision's; the exit status is 0 if they work."""

from __future__ import annotations

import sys

try:
    from backbones.dense.ops import main
except RuntimeError as error:
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
