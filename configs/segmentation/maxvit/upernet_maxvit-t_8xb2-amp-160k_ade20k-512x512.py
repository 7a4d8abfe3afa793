# The authors publish no setting for ADE20K: this is the common one of Swin and NAT, with windows of 512 / 32.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="maxvit_t", pretrained="in1k", img_size=512, out_norm=None, drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    paramwise_cfg=dict(custom_keys={"relative_position_bias_table": dict(decay_mult=0.0)}),
)
