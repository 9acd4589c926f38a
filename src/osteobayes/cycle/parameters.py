"""Names of the parameters that the cycle reads (everything else in ``priors/`` belongs to the observation side)."""

CYCLE_PARAMETERS = (
    "tgfb_matrix_share", "tgfb_tumour_output", "pthrp_output", "pthrp_tgfb_fold",
    "rankl_pthrp_fold", "rankl_pthrp_slope", "opg_pthrp_fold", "opg_pthrp_slope", "rankl_tumour_contact",
    "opg_bound_to_free", "rankl_independent_share", "rankl_independent_tumour", "rankl_formation_fold",
    "rankl_formation_slope", "tgfb_osteoclast_priming", "tgfb_osteoclast_fold", "tgfb_slope",
    "tgfb_osteoclast_apoptosis", "rankl_survival_fold", "rankl_survival_floor", "coupling_share", "coupling_fold",
    "tgfb_recruitment_share", "tgfb_recruitment_fold", "osteoblastic_drive", "osteoblastic_half_burden",
    "tgfb_differentiation_fold", "differentiating_share", "dkk1_suppression",
    "precursor_turnover", "osteoblast_turnover", "osteoclast_turnover", "mineral_turnover", "mineral_maximum",
    "tgfb_programme_rate", "radiation_osteoblast_damage", "beam_skeleton_share", "alpha_range_burden", "smad_bypass",
    "reserve_gain", "reserve_turnover", "tumour_half_burden", "loop_strength",
    "growth_flux_fold", "growth_flux_slope", "growth_tgfb_fold", "growth_tgfb_slope", "background_loss", "net_growth",
    "entry_burden", "entry_mineral", "effector_turnover", "effector_priming", "effector_priming_half_burden",
    "effector_tgfb_fold", "myeloid_suppression", "exhaustion_rate", "exhaustion_drive", "exhaustion_pd1_drive",
    "exhaustion_pd1_share", "immune_kill",
    "exhaustion_tim3_of_rest", "exhaustion_lag3_of_rest", "siglec15_exhaustion", "ctla4_priming", "antigen_priming",
    "antigen_loss", "immunogenic_death", "vessel_turnover", "vessel_need", "vegf_growth", "vegf_regression",
    "fgf_turnover", "fgf_hypoxia", "fgf_growth", "entry_mesenchymal_share", "transition_rate", "transition_fold",
    "transition_slope", "reversion_rate", "mesenchymal_growth_ratio", "mesenchymal_tgfb_slope", "mesenchymal_resistance",
)  # fmt: skip
"""Parameters of the ODE, besides the potencies that ``priors/therapies`` names."""
