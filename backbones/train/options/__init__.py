"""Options of the command lines: one typed table each, from which flags, recipes, checks and documentation come.

:mod:`.option` says what an option is, :mod:`.shared`, :mod:`.training` and :mod:`.evaluation` hold the tables,
:mod:`.names` what timm and torch know, and :mod:`.flags` makes command lines.
"""

from backbones.train.options.option import Option, OptionError, Options
from backbones.train.options.training import OPTIONS, TrainOptions

__all__ = ["OPTIONS", "Option", "OptionError", "Options", "TrainOptions"]
