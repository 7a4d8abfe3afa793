# MaxViT's Cascade R-CNN at 896: 90,000 iterations in batches of 256 (32 GPUs of 8 images), cosine to 3%, and an average
# of the weights with decay 0.9998, less at the beginning. Epsilon and limit of the gradient's norm are the defaults of
# the original's optimiser (which cuts the share of every core, before they are added). Everything is decayed, norms and
# biases included: the names that the original gives are those that it need not leave out.
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
)
custom_hooks = [dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.0002, gamma=9, update_buffers=True)]
auto_scale_lr = dict(enable=False, base_batch_size=256)
