_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="agent_swin_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# nor is there decay of the position biases of agents and windows
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "relative_position_bias_table": dict(decay_mult=0.0),
            "an_bias": dict(decay_mult=0.0),
            "na_bias": dict(decay_mult=0.0),
            "ah_bias": dict(decay_mult=0.0),
            "aw_bias": dict(decay_mult=0.0),
            "ha_bias": dict(decay_mult=0.0),
            "wa_bias": dict(decay_mult=0.0),
        }
    )
)
published = dict(box_ap=44.6, mask_ap=40.7, params=48, flops=276)
