_base_ = [
    "../../_base_/models/cascade-mask-rcnn_maxvit.py",
    "../../_base_/datasets/coco_lsj-896.py",
    "../../_base_/schedules/maxvit_coco.py",
    "../../_base_/detection_runtime_iters.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=896),
    # the rate of this size at 896 is not published; this is the one of the small model
    backbone=dict(model="maxvit_t", pretrained="in1k", img_size=896, drop_path_rate=0.5),
    neck=dict(in_channels=[128, 256, 512]),
)
train_dataloader = dict(batch_size=8)
published = dict(box_ap=52.35, mask_ap=44.69, params=69, flops=475)
