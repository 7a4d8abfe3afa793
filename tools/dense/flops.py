#!/usr/bin/env python
"""Print parameters and multiply-adds of a config; see --help."""

from __future__ import annotations

import sys

from backbones.dense.ops import start

if __name__ == "__main__":
    sys.exit(start("cli_look:flops"))
