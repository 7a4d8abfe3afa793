"""Write a small data set of handwritten digits on photographs, for detection and segmentation; see --help."""

import sys

from backbones.dense.scenes import main

if __name__ == "__main__":
    sys.exit(main())
