_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/detection_runtime.py",
]

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.01)
model = dict(
    data_preprocessor=dict(pad_size_divisor=640),
    backbone=dict(model="maxvit_b", pretrained="in1k", img_size=640, out_norm=None, drop_path_rate=0.7),
    neck=dict(
        in_channels=[192, 384, 768],
        add_extra_convs="on_output",
        relu_before_extra_convs=True,
        norm_cfg=norm_cfg,
        no_norm_on_lateral=True,
    ),
    # BatchNorm of its own on every level; losses in the authors' scale, which averages over the four coordinates
    bbox_head=dict(
        type="RetinaSepBNHead",
        num_ins=5,
        norm_cfg=norm_cfg,
        loss_cls=dict(gamma=1.5),
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=0.1, loss_weight=1.25),
    ),
    train_cfg=dict(assigner=dict(neg_iou_thr=0.5)),
)

cost_size = (640, 640)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(640, 640), ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(640, 640), crop_type="absolute", allow_negative_crop=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [dict(step, scale=(640, 640)) if step["type"] == "Resize" else step for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=72, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="SGD", lr=0.32, momentum=0.9, weight_decay=0.0001),
    # kernels of neck and heads alone are decayed; the heads of all levels have the same ones
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"backbone": dict(decay_mult=0.0)},
        bypass_duplicate=True,
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.0067 / 0.32, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=72, milestones=[57, 67], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
# the BatchNorms of neck and heads are not synchronised
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["backbone"])]
published = dict(box_ap=46.63)
