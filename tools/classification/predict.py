"""Predict the classes of images; see --help."""

import sys

from backbones.train.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
