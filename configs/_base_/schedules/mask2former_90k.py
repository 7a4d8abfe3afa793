# Mask2Former's schedule for Cityscapes: 90,000 iterations in batches of 16, decayed with power 0.9.
_base_ = "mask2former_coco.py"

train_cfg = dict(max_iters=90000, val_interval=5000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=90000)]
