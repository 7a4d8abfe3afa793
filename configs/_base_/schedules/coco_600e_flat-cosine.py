# 600 epochs of COCO in batches of 192 (8 GPUs of 24 images), as 120 of a set that is repeated five times: constant,
# then cosine over the second half, a step in five epochs. No decay of norms.
_base_ = "coco_1x_flat-cosine.py"

train_cfg = dict(max_epochs=120, val_interval=5)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=60, end=120, T_max=60),
]
optim_wrapper = dict(optimizer=dict(lr=0.0024))
auto_scale_lr = dict(enable=False, base_batch_size=192)
