"""Prove and measure everything on a GPU; see --help."""

import sys

from backbones.gpu.cli import main

if __name__ == "__main__":
    sys.exit(main())
