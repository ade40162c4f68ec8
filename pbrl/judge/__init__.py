"""How good is a judge? Any source of rewards or preferences, held against a data set with known returns.

`python -m pbrl.judge …` is the command; `measure` takes arrays.
"""

from pbrl.judge.evidence import Answers, Clips, Ratings, Source, Truth, draw_pairs
from pbrl.judge.judging import Measured, Verdict, measure

__all__ = ["Answers", "Clips", "Verdict", "Measured", "Ratings", "Source", "Truth", "draw_pairs", "measure"]
