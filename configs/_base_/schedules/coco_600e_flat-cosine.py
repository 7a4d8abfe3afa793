# 600 epochs of COCO in batches of 192 (8 GPUs of 24 images): constant, then cosine to 0 over the second half. No decay
# of norms. (EMOv2's authors count 120 epochs of a set that is repeated five times.)
_base_ = "coco_1x_flat-cosine.py"

train_cfg = dict(max_epochs=600, val_interval=25)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(
        type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=300, end=600, T_max=300, convert_to_iter_based=True
    ),
]
optim_wrapper = dict(optimizer=dict(lr=0.0024))
auto_scale_lr = dict(enable=False, base_batch_size=192)
