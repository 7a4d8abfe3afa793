# ADE20K instances (100 things) with Mask2Former's augmentation: short side of 320 to 1280, crops of 640.
_base_ = "coco_lsj.py"

dataset_type = "ADE20KInstanceDataset"
data_root = "data/ade/ADEChallengeData2016/"
image_size = (640, 640)
cost_size = image_size
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=list(range(320, 1281, 64)),
        resize_type="ResizeShortestEdge",
        max_size=2560,
    ),
    dict(type="RandomCrop", crop_size=image_size, crop_type="absolute", recompute_bbox=True, allow_negative_crop=True),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [dict(step, scale=(2560, 640)) if step["type"] == "Resize" else step for step in _base_.test_pipeline]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ade20k_instance_train.json",
        data_prefix=dict(img="images/training/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ade20k_instance_val.json",
        data_prefix=dict(img="images/validation/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "ade20k_instance_val.json", metric="segm")
test_evaluator = val_evaluator
