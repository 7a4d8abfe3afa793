"""Draw what a model looks at; see --help."""

import sys

from backbones.visualize.cli import main

if __name__ == "__main__":
    sys.exit(main())
