_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    # routing over 16 x 16 regions; BatchNorm keeps its ImageNet statistics
    backbone=dict(model="biformer_s", pretrained="in1k", n_win=16, norm_eval=True, drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
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
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=47.8, mask_ap=43.2)
