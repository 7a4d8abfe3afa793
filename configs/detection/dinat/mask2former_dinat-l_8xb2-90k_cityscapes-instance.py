_base_ = [
    "../../_base_/models/mask2former.py",
    "../../_base_/datasets/cityscapes_instance.py",
    "../../_base_/schedules/mask2former_90k.py",
    "../../_base_/detection_runtime_iters.py",
]

model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(model="dinat_l_11x11", pretrained="in22k", dilations="mask2former", drop_path_rate=0.3),
    panoptic_head=dict(
        in_channels=[192, 384, 768, 1536],
        num_queries=200,
        num_things_classes=8,
        num_stuff_classes=0,
        loss_cls=dict(class_weight=[1.0] * 8 + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=8, num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False),
)
published = dict(
    mask_ap=45.1,
    params=220,
    flops=522,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/m2f/mask2former_dinat_large_cityscapes_instance.pth",
)
