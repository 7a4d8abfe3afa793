"""Export a model and compare what was exported with it; see --help."""

import sys

from backbones.export.cli import main

if __name__ == "__main__":
    sys.exit(main())
