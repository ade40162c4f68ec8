"""Quality diversity by human feedback: many good behaviours that differ in what people call different.

QDHF, Ding et al. 2023, arXiv:2310.12103. Answers to "which of two is more like the first" teach a projection of what is
observed to a few numbers, the diversity measures; MAP-Elites (Mouret & Clune 2015, arXiv:1504.04909) then fills a grid
over them with the best behaviour of each cell.
"""
