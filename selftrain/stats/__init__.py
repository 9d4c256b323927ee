"""Intervals, paired tests, votes, pass@k, scaling and power: how sure a number is, and how to count one that is a tie.

Functions of counts, votes, or per-problem outcomes joined by id: no order of votes or problems changes a result.
Proportions and differences are fractions of 1, never percent (but see `scaling`). numpy and scipy are imported inside
the functions that need them, so that importing this package stays cheap.
"""

from selftrain.stats.calibration import Reliability, auc_within, calibration
from selftrain.stats.intervals import RESAMPLES, bootstrap_mean, wilson
from selftrain.stats.multiple_testing import Chosen, choose_on_dev, holm
from selftrain.stats.paired import PairedTest, paired_bootstrap, paired_test
from selftrain.stats.power import connor, detectable_difference, mcnemar_power, questions_needed
from selftrain.stats.scaling import Scaling, control, frontier, performance, sample_control, scaling
from selftrain.stats.votes import majority, pass_at_k, vote_at_n

__all__ = [
    "RESAMPLES", "Chosen", "PairedTest", "Reliability", "Scaling", "auc_within", "bootstrap_mean", "calibration",
    "choose_on_dev", "connor", "control", "detectable_difference", "frontier", "holm", "majority", "mcnemar_power",
    "paired_bootstrap", "paired_test", "pass_at_k", "performance", "questions_needed", "sample_control", "scaling",
    "vote_at_n", "wilson",
]  # fmt: skip
