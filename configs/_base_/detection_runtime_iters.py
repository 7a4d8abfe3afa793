# The runtime of detectors that are trained for a number of iterations.
_base_ = "detection_runtime.py"

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=5000, save_last=True)
)
log_processor = dict(by_epoch=False)
