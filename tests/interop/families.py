"""One model of every family, at test size."""

from __future__ import annotations

import backbones
from backbones.models import family_of

#: Name of the first registered model of each family.
FAMILIES = sorted({id(family_of(name)): name for name in reversed(backbones.list_models())}.values())
