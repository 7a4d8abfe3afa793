"""The site: build it, write its pages only, or measure what it tells; see --help."""

import sys

from backbones.site.build import main

if __name__ == "__main__":
    sys.exit(main())
