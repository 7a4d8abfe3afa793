# 160,000 iterations of ADE20K in batches of 32 (4 GPUs of 8 images): constant, then cosine to 0 over the second half.
# Ten times the learning rate in the head, no decay of norms.
_base_ = "ade20k_80k.py"

train_cfg = dict(max_iters=160000, val_interval=16000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=80000, end=160000, T_max=80000),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.00012, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=10.0), "norm": dict(decay_mult=0.0)}),
)
