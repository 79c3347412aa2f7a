"""Random generators for the problems of long memory."""

import numpy as np

NAMES = ("adding", "temporal_order", "copying")


def generator(seed=0):
    return np.random.default_rng(seed)
