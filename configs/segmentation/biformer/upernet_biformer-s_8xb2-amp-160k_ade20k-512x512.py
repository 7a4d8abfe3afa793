_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    # routing over 8 x 8 regions
    backbone=dict(model="biformer_s", pretrained="in1k", n_win=8, drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale=512.0,
    paramwise_cfg=dict(
        custom_keys={
            # these BatchNorms have no "norm" in the authors' names, so they are decayed
            "backbone.model.stem.norm": dict(decay_mult=1.0),
            "downsample.norm": dict(decay_mult=1.0),
        }
    ),
)
published = dict(miou=49.8, miou_ms=50.8)
