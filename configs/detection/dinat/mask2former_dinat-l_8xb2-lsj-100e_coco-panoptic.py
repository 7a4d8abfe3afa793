_base_ = [
    "../../_base_/models/mask2former.py",
    "../../_base_/datasets/coco_panoptic_lsj.py",
    "../../_base_/schedules/mask2former_coco.py",
    "../../_base_/detection_runtime_iters.py",
]

custom_imports = dict(imports=["backbones.dense", "backbones.dense.panoptic"])
model = dict(
    backbone=dict(model="dinat_l_11x11", pretrained="in22k", dilations="mask2former", drop_path_rate=0.3),
    panoptic_head=dict(in_channels=[192, 384, 768, 1536], num_queries=200),
)
published = dict(
    pq=58.5,
    mask_ap=49.2,
    miou=68.3,
    params=220,
    flops=522,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/m2f/mask2former_dinat_large_coco_panoptic.pth",
)
