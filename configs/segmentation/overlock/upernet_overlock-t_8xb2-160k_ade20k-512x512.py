_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="overlock_t", pretrained="in1k", drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 384, 640]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            # The authors' rule goes by their names, which say "norm" only in focus blocks and at the outputs.
            "backbone.model.stem": dict(decay_mult=1.0),
            "downsample": dict(decay_mult=1.0),
            "mixer": dict(decay_mult=1.0),
            "stages.0.blocks": dict(decay_mult=1.0),
            "stages.1.blocks": dict(decay_mult=1.0),
            "base.blocks": dict(decay_mult=1.0),
            "overview.blocks": dict(decay_mult=1.0),
        }
    ),
)
published = dict(
    miou=50.3, checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/upernet_overlock_tiny_ade20k.pth"
)
