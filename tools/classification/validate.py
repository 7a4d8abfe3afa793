"""Measure one or several models on labelled images; see --help."""

import sys

from backbones.train.cli.validate import main

if __name__ == "__main__":
    sys.exit(main())
