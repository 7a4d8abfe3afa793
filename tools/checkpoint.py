"""Pretrained weights: list, get, convert, verify, identify, compare, export; see --help."""

import sys

from backbones.checkpoints.cli import main

if __name__ == "__main__":
    sys.exit(main())
