#!/usr/bin/env python
"""Plot the curves of a training; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops import start

if __name__ == "__main__":
    sys.exit(start("cli_look:analyze"))
