"""The few numbers of pyribs' CMA-ES are not worth compiling: numba reads this when it is imported."""

import os

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
