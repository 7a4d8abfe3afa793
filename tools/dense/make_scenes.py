#!/usr/bin/env python
"""Write a small data set of handwritten digits on photographs, for detection and segmentation; see --help."""

from __future__ import annotations

import sys

from backbones.dense.scenes import main

if __name__ == "__main__":
    sys.exit(main())
