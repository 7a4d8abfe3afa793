_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="ravlt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=0.0001))
auto_scale_lr = dict(base_batch_size=16)
published = dict(
    miou=47.9, params=18, flops=136, checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/fpn_t_1x.pth"
)
