# COCO with large-scale jitter: images of 0.1 to 2 times 1024 x 1024, cut to that size.
_base_ = "coco.py"

image_size = (1024, 1024)
train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=image_size, crop_type="absolute", recompute_bbox=True, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(sampler=dict(type="InfiniteSampler", shuffle=True), dataset=dict(pipeline=train_pipeline))
