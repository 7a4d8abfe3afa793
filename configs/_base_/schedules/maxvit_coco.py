# MaxViT's Cascade R-CNN at 896: 90,000 iterations in batches of 256 (32 GPUs of 8 images), cosine to 3%, and an average
# of the weights with decay 0.9998, less at the beginning. Gradients are cut to a norm of 1, which is the default of the
# original's optimiser, as is its epsilon. No decay of norms, biases and position bias tables.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=90000, val_interval=1848)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=6000),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.03, by_epoch=False, begin=0, T_max=90000, end=90000),
]
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="AdamW", lr=0.003, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"relative_position_bias_table": dict(decay_mult=0.0)},
    ),
)
custom_hooks = [dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.0002, gamma=9, update_buffers=True)]
auto_scale_lr = dict(enable=False, base_batch_size=256)
