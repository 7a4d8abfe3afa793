#!/usr/bin/env python
"""Write a small data set of handwritten digits on photographs, for detection and segmentation; see --help."""

from __future__ import annotations

import sys

try:
    from backbones.dense.scenes import main
except RuntimeError as error:  # mmcv is there, but does not work
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main())
