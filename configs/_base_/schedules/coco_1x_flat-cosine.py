# 12 epochs of COCO in batches of 16 (4 GPUs of 4 images): constant, then cosine over the second half, a step an
# epoch. No decay of norms.
_base_ = "coco_1x.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=6, end=12, T_max=6),
]
optim_wrapper = dict(optimizer=dict(lr=0.0002), clip_grad=dict(max_norm=0.1, norm_type=2))
