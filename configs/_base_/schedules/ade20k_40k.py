# 40,000 iterations of ADE20K in batches of 32 (8 GPUs of 4 images), decayed with power 0.9; decay of all parameters.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=4000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40000)]
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0002, betas=(0.9, 0.999), weight_decay=0.0001)
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
