# ADE20K panoptic (100 things, 50 stuff) with Mask2Former's augmentation: short side of 320 to 1280, crops of 640.
_base_ = "coco_panoptic_lsj.py"

dataset_type = "backbones.ADE20KPanoptic"
data_root = "data/ade/ADEChallengeData2016/"
image_size = (640, 640)
cost_size = image_size
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="backbones.LoadPanopticAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(
        type="RandomChoiceResize",
        scales=list(range(320, 1281, 64)),
        resize_type="ResizeShortestEdge",
        max_size=2560,
    ),
    dict(type="RandomCrop", crop_size=image_size, crop_type="absolute", recompute_bbox=True, allow_negative_crop=True),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    _base_.test_pipeline[-1],
]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ade20k_panoptic_train.json",
        data_prefix=dict(img="images/training/", seg="ade20k_panoptic_train/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ade20k_panoptic_val.json",
        data_prefix=dict(img="images/validation/", seg="ade20k_panoptic_val/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type="backbones.PanopticQuality"),
    dict(type="CocoMetric", ann_file=data_root + "ade20k_instance_val.json", metric="segm"),
]
test_evaluator = val_evaluator
