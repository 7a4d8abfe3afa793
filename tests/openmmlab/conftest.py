"""Gives mmcv its operators before a test imports mmdet or mmseg, as an installed package does at torch's import."""

import backbones.dense.ops  # noqa: F401
from tests.train.conftest import one_thread  # noqa: F401 - sums depend on the number of threads
