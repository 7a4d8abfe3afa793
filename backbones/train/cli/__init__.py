"""The command lines: ``backbones-train``, ``backbones-validate`` and ``backbones-predict``."""
