# 80,000 iterations of ADE20K in batches of 32 (8 GPUs of 4 images), cosine from the first, which the warm-up
# multiplies; decay of all parameters.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-8, by_epoch=False, begin=0, end=80000),
]
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0002, betas=(0.9, 0.999), weight_decay=0.0001)
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
