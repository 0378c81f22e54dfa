"""Trains, exports and measures the credit card approval model."""

import os

# With AVX-512 numpy has an exponential of its own, which differs from the C library's in the last
# digit of some values. Without it numpy calls the C library, as scipy and the predictor do, and
# gives the same bits on every processor. numpy reads this when it is imported first.
os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4 AVX512_ICL AVX512_SPR")

__version__ = "0.1.0"
