"""Trains an image classifier: ``python tools/classification/train.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backbones.train.cli_train import main

if __name__ == "__main__":
    sys.exit(main())
