"""Golden outputs and tolerances of the reference."""

# Both sides are float64 and differ only in the order of sums of at most some hundred terms, which
# costs a few times 1e-16 a layer; 1e-13 leaves room for another libm or BLAS.
GOLDEN_TOLERANCE = 1e-13

# Central differences are good to some 1e-10 of a loss of order 1; the losses here reach some tens,
# and the largest element of a gradient is seldom below 0.1. A wrong formula is off by 1e-2.
DIFFERENCE_TOLERANCE = 1e-8

# Values worked out by hand, and optimisers after a step or two: a few roundings of 1e-16.
HAND_TOLERANCE = 1e-14
