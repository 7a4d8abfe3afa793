_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    # position biases are those of images of 800 x 800, interpolated
    backbone=dict(model="transnext_tiny", pretrained="in1k", bias_size=800, drop_path_rate=0.4),
    neck=dict(in_channels=[72, 144, 288, 576]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale=512.0,
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": dict(decay_mult=0.0),
            "relative_pos_bias_local": dict(decay_mult=0.0),
            "rel_pos": dict(decay_mult=0.0),
            "temperature": dict(decay_mult=0.0),
        }
    ),
)
published = dict(
    box_ap=49.9,
    mask_ap=44.6,
    params=47.9,
    checkpoint="https://huggingface.co/DaiShiResearch/maskrcnn-transnext-tiny-coco/resolve/main/mask_rcnn_transnext_tiny_fpn_1x_coco_in1k.pth",
)
