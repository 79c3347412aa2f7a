"""The names that the double takes from NumPy: which they are, not what they do."""


def _words(text):
    return text.split()


UFUNCS = _words(
    "abs absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_or "
    "bitwise_xor cbrt ceil conj conjugate copysign cos cosh deg2rad divide divmod equal exp exp2 "
    "expm1 fabs floor floor_divide fmax fmin fmod frexp greater greater_equal hypot invert isfinite "
    "isinf isnan ldexp left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2 "
    "logical_and logical_not logical_or logical_xor matmul maximum minimum mod modf multiply negative "
    "nextafter not_equal positive power rad2deg reciprocal remainder right_shift rint sign signbit "
    "sin sinh sqrt square subtract tan tanh true_divide trunc"
)
FUNCTIONS = _words(
    "all allclose any append arange argmax argmin argsort argwhere array_equal average bincount clip "
    "concatenate convolve corrcoef count_nonzero cov cumprod cumsum diag diff digitize dot einsum eye "
    "flatnonzero full full_like gradient histogram identity inner interp isclose kron lexsort linspace "
    "logspace max mean median min nan_to_num nanmax nanmean nanmin nansum nonzero ones ones_like "
    "outer pad percentile prod ptp quantile repeat roll searchsorted sort stack std sum take "
    "take_along_axis tensordot tile trace trapezoid tri tril triu unique vdot vstack hstack var where "
    "zeros zeros_like fill_diagonal"
)
# Of these the answer is a view, or is about shapes and types: nothing runs on the device.
VIEWS = _words(
    "array_split atleast_1d atleast_2d atleast_3d broadcast_arrays broadcast_to diagonal expand_dims "
    "flip moveaxis ravel reshape rollaxis split squeeze swapaxes transpose"
)
ABOUT = _words(
    "broadcast_shapes can_cast finfo iinfo isscalar issubdtype may_share_memory min_scalar_type ndim "
    "promote_types result_type shape shares_memory size"
)
LINALG = _words(
    "cholesky det eigh eigvalsh inv lstsq matrix_power matrix_rank norm pinv qr slogdet solve svd"
)
CONSTANTS = _words(
    "bool_ complex64 complex128 dtype e float16 float32 float64 floating inexact inf int8 int16 int32 "
    "int64 integer intp nan newaxis number pi signedinteger uint8 uint16 uint32 uint64 "
    "unsignedinteger"
)

VIEW_METHODS = _words("diagonal ravel reshape squeeze swapaxes transpose")
METHODS = _words(
    "all any argmax argmin argsort clip conj cumprod cumsum dot flatten max mean min nonzero prod "
    "repeat round searchsorted std sum take trace var"
)
