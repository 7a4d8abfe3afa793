# COCO boxes alone with the scale policy of DETR and Sparse R-CNN, see coco_ms-crop.py.
_base_ = "coco_box.py"

resize = dict(type="RandomChoiceResize", scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True)
small_resize = dict(type="RandomChoiceResize", scales=[(side, 1333) for side in (400, 500, 600)], keep_ratio=True)
crop = dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True)
train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[resize], [small_resize, crop, resize]]),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
