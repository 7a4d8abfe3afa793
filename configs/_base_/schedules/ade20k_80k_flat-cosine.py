# 80,000 iterations of ADE20K in batches of 32 (4 GPUs of 8 images): constant, then cosine to 0 over the second half. No
# decay of norms.
_base_ = "ade20k_80k.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=40000, end=80000, T_max=40000),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.00012, weight_decay=0.05),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={"norm": dict(decay_mult=0.0)}),
)
