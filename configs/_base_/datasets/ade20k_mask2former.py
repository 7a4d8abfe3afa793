# ADE20K with Mask2Former's augmentation: short side of 320 to 1280, crops of 640 x 640; tested at a short side of 640,
# and of 320 to 1120 in the multi-scale test.
_base_ = "ade20k_640.py"

crop_size = (640, 640)
cost_size = crop_size
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(
        type="RandomChoiceResize",
        scales=list(range(320, 1281, 64)),
        resize_type="ResizeShortestEdge",
        max_size=2560,
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=1.0),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(4480, side), keep_ratio=True) for side in (320, 480, 640, 800, 960, 1120)],
            *_base_.tta_pipeline[1]["transforms"][1:],
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
