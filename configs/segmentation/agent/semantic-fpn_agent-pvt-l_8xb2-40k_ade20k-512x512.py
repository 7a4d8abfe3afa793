_base_ = "semantic-fpn_agent-pvt-t_8xb2-40k_ade20k-512x512.py"

model = dict(backbone=dict(model="agent_pvt_l", drop_path_rate=0.1))
published = dict(miou=46.52, params=52, flops=434)
