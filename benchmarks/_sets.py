"""Names of the ten labelled sets that the studies run over."""

REAL = (
    "baron_mouse_pancreas", "human_kidney_young_top2000", "mouse_bladder_2100", "pbmc3k", "pbmc4k_top2000",
    "tian_celseq2_5cl", "tm_kidney_smartseq2", "worm_neuron", "zheng_sorted_2140", "zilionis_mouse_lung_800",
)  # fmt: skip
