#!/usr/bin/env python
"""Draw what a config's data pipeline feeds; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops import start

if __name__ == "__main__":
    sys.exit(start("cli_look:browsing"))
