_base_ = [
    "../../_base_/models/cascade-mask-rcnn_maxvit.py",
    "../../_base_/datasets/coco_lsj-896.py",
    "../../_base_/schedules/maxvit_coco.py",
    "../../_base_/detection_runtime_iters.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=896),
    backbone=dict(model="maxvit_s", pretrained="in1k", img_size=896, drop_path_rate=0.5),
    neck=dict(in_channels=[192, 384, 768]),
)
# trained on after the cosine has ended
train_cfg = dict(max_iters=115750)
train_dataloader = dict(batch_size=8)
published = dict(box_ap=53.54, mask_ap=45.79, params=107, flops=595)
