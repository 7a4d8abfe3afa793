"""Train an image classifier; see --help."""

import sys

from backbones.train.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
