"""The classification fixtures and the models of ours that they pin."""

CLASSIFICATION = {
    "biformer/biformer_small": "biformer_s",
    "biformer/biformer_stl": "biformer_stl",
    "biformer/biformer_tiny": "biformer_t",
    "dinat/dinat_base": "dinat_b",
    "dinat/dinat_isotropic_small": "dinat_isotropic_s",
    "dinat/dinat_mini": "dinat_m",
    "dinat/dinat_s_tiny": "dinat_s_t",
    "dinat/vitrpb_small": "vitrpb_s",
    "maxvit/maxvit_small_tf_224": "maxvit_s",
    "maxvit/maxvit_tiny_tf_224": "maxvit_t",
    "maxvit/maxvit_tiny_tf_384": "maxvit_t.in1k_384",
    "nat/nat_mini": "nat_m",
    "nat/nat_small": "nat_s",
    "overlock/overlock_t": "overlock_t",
    "overlock/overlock_xt": "overlock_xt",
    "smt/smt_base": "smt_b",
    "smt/smt_tiny": "smt_t",
    "transxnet/transxnet_s": "transxnet_s",
    "transxnet/transxnet_t": "transxnet_t",
}
