_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="vsa_vitaev2_48m", pretrained="in1k", drop_path_rate=0.45),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "relative_position_bias_table": dict(decay_mult=0.0),
            # BatchNorms have no "norm" in the authors' names, so they are decayed
            "pcm.norm": dict(decay_mult=1.0),
        }
    )
)
# the backbone's BatchNorms are not synchronised, those of the box heads are
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["roi_head"])]
published = dict(box_ap=52.9, mask_ap=45.6, params=108)
