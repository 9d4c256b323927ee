"""Chooses what to train on: filters and draws over a pool of problems, each seeded and with a reason for every problem.

`pool` reads the pool once and keeps what decisions need, `filters` and `draws` decide, `choose` puts them together, and
`folder` and `manifest` write the result. The recipe is that of s1 (Muennighoff et al. 2025, arXiv 2501.19393): quality,
difficulty, diversity. Settings and everything that needs a model lie in `selftrain.curation`.
"""
