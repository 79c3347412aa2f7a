"""Tests of what counts in a loss: lengths, masks and the ignored index, alone and together.

The judge is the reference, which takes the elements that count out of the arrays. Where nothing counts there
is something that would spoil any sum: NaN, and classes that there are not.
"""

import numpy as np
import pytest
from recurrent_inputs import read_only
from stacks import seed_of
from support import assert_close, assert_same_bits, numerical_gradient

import lstmc
from lstmc import reference

# As in test_losses.py: some hundred terms, each rounded as its type is.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}

LOSSES = ["softmax_cross_entropy", "squared_error", "huber", "binary_cross_entropy"]
EACH = LOSSES[1:]  # those in which every element counts by itself
LENGTHS = np.array([4, 0, 7, 1, 6])  # in no order, of T = 7


def draw(loss, shape, dtype):
    """Return an output and targets that fit."""
    generator = np.random.default_rng(seed_of("masks", loss, shape))
    y = np.array(2 * generator.standard_normal(shape), dtype)
    if loss == "softmax_cross_entropy":
        return y, generator.integers(shape[-1], size=shape[:-1])
    if loss == "binary_cross_entropy":
        return y, np.array(generator.random(shape), dtype)
    return y, np.array(generator.standard_normal(shape), dtype)


def spoil(y, target, counts):
    """Return both with what spoils a loss where nothing counts."""
    y, target = np.array(y), np.array(target)
    y[~counts] = np.nan
    if target.dtype.kind == "f":
        target[~counts] = np.nan
    else:
        target[~counts] = np.resize([2**40, -(2**60), y.shape[-1], -2], np.count_nonzero(~counts))
    return y, target


def expected(loss, y, target, counts, **options):
    y = y.astype(np.float64)
    target = target.astype(np.float64) if target.dtype.kind == "f" else target
    return getattr(reference, loss)(y, target, mask=counts, **options)


def assert_right(actual, right, counts, dtype):
    assert type(actual[0]) is float
    assert actual[1].dtype == dtype
    assert_close(actual[0], right[0], TOLERANCE[dtype], "the loss")
    assert_close(actual[1], right[1], TOLERANCE[dtype], "the gradient")
    assert actual[1][counts].any()
    zeros = actual[1][~counts]
    assert_same_bits(zeros, np.zeros_like(zeros))


def whole(counts, shape):
    """Return what counts, (T, B), in a whole shape."""
    return np.broadcast_to(counts.reshape(counts.shape + (1,) * (len(shape) - 2)), shape)


WAYS = [
    (loss, kind, has_lengths, batch_first)
    for loss in LOSSES
    for kind in ("none", "of steps", "of elements")
    for has_lengths, batch_first in ((False, False), (True, False), (True, True))
    if (kind != "none" or has_lengths)
    and (loss, kind) != ("softmax_cross_entropy", "of elements")  # its elements are its steps
]


@pytest.mark.parametrize(("loss", "kind", "has_lengths", "batch_first"), WAYS)
@pytest.mark.parametrize("features", [1, 9, 33])
def test_what_counts(isa, dtype, loss, kind, has_lengths, batch_first, features):
    """Lengths and masks, alone and together, in either order of the axes."""
    steps, batch = 7, LENGTHS.size
    shape = (batch, steps, features) if batch_first else (steps, batch, features)
    y, target = draw(loss, shape, dtype)
    of_elements = shape[:-1] if loss == "softmax_cross_entropy" else shape
    counts, options = np.ones(of_elements, bool), {"batch_first": batch_first}
    if has_lengths:
        options["lengths"] = LENGTHS
        within = np.array([[t < n for n in LENGTHS] for t in range(steps)])
        counts = counts & whole(within.T if batch_first else within, of_elements)
    if kind != "none":
        mask_shape = shape if kind == "of elements" else shape[:-1]
        options["mask"] = np.random.default_rng(3).random(mask_shape) < 0.6
        counts = counts & (
            options["mask"] if kind == "of elements" else whole(options["mask"], of_elements)
        )
    if features == 1 and loss == "softmax_cross_entropy":
        y, target = spoil(y, target, counts)
        value, dy = lstmc.softmax_cross_entropy(y, target, **options)
        assert value == 0.0  # there is but one class
        assert not dy.any()
        return
    right = expected(loss, y, target, counts)
    y, target = spoil(y, target, counts)
    y, target = read_only(y), read_only(target)
    actual = getattr(lstmc, loss)(y, target, **options)
    assert_right(actual, right, counts, dtype)


@pytest.mark.parametrize("ignored", [-1, 3, 2**40])
@pytest.mark.parametrize("kind", [np.int32, np.int64, ">i4", ">i8"])
def test_an_ignored_index_beside_lengths_and_a_mask(isa, dtype, kind, ignored):
    """What counts is what all three let count; the index may be a class, or none that the type has."""
    y, target = draw("softmax_cross_entropy", (7, 5, 9), dtype)
    if ignored < 2**31:
        target[np.random.default_rng(1).random((7, 5)) < 0.3] = ignored
    mask = np.random.default_rng(2).random((7, 5)) < 0.7
    counts = mask & (np.arange(7)[:, None] < LENGTHS)
    right = expected("softmax_cross_entropy", y, target, counts, ignore_index=ignored)
    dropped = np.where(counts, target, 77).astype(kind)
    actual = lstmc.softmax_cross_entropy(y, dropped, ignored, lengths=LENGTHS, mask=mask)
    assert_right(actual, right, counts & (target != ignored), dtype)


def test_out_beside_lengths(isa, dtype):
    y, target = draw("softmax_cross_entropy", (7, 5, 17), dtype)
    right = lstmc.softmax_cross_entropy(y, target, lengths=LENGTHS)
    loss, dlogits = lstmc.softmax_cross_entropy(y, target, lengths=LENGTHS, out=y)
    assert dlogits is y
    assert loss == right[0]
    assert_same_bits(dlogits, right[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_what_lets_all_count_changes_no_bit(isa, dtype, loss):
    y, target = draw(loss, (7, 5, 1001), dtype)
    plain = getattr(lstmc, loss)(y, target)
    for options in (
        {"mask": np.ones((7, 5), bool)},
        {"lengths": np.full(5, 7)},
        {"lengths": np.full(7, 5), "batch_first": True},
    ):
        value, dy = getattr(lstmc, loss)(y, target, **options)
        assert value == plain[0]
        assert_same_bits(dy, plain[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(7, 5, 9), (0, 5, 9), (7, 0, 9), (0, 0, 1)])
def test_nothing_counts(isa, dtype, loss, shape):
    y, target = draw(loss, shape, dtype)
    nothing = np.zeros(shape[:-1], bool)
    of_elements = nothing if loss == "softmax_cross_entropy" else whole(nothing, shape)
    y, target = spoil(y, target, of_elements)
    for options in ({"mask": nothing}, {"lengths": np.zeros(shape[1], int)}):
        value, dy = getattr(lstmc, loss)(y, target, **options)
        assert value == 0.0
        assert_same_bits(dy, np.zeros(shape, dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_derivatives(isa, loss):
    y, target = draw(loss, (4, 3, 5), np.dtype(np.float64))
    options = {"lengths": np.array([2, 4, 0]), "mask": np.arange(12).reshape(4, 3) % 5 > 0}
    _, dy = getattr(lstmc, loss)(y, target, **options)
    numerical = numerical_gradient(lambda a: getattr(lstmc, loss)(a, target, **options)[0], y)
    assert_close(dy, numerical, 1e-7)  # as good as central differences are


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(300, 7, 65), (50, 3, 1001)])
def test_threads(isa, dtype, loss, size):
    """Large enough that a second thread is used; flat.h has the threshold."""
    y, target = draw(loss, size, dtype)
    options = {"lengths": np.arange(size[1]) * size[0] // size[1]}
    options["mask"] = np.random.default_rng(5).random(size[:2]) < 0.5
    one, two = (getattr(lstmc, loss)(y, target, num_threads=n, **options) for n in (1, 2))
    assert one[0] == two[0]
    assert_same_bits(one[1], two[1])
    counts = options["mask"] & (np.arange(size[0])[:, None] < options["lengths"])
    of_elements = size[:-1] if loss == "softmax_cross_entropy" else size
    right = expected(loss, y, target, whole(counts, of_elements))
    assert_close(one[0], right[0], 10 * TOLERANCE[dtype])  # sums of many more terms
    assert_close(one[1], right[1], 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("axes", [4, 5])
def test_more_axes_than_three(dtype, loss, axes):
    shape = (7, 5, 2, 3, 4)[: axes - 1] + (4,)
    y, target = draw(loss, shape, dtype)
    of_elements = shape[:-1] if loss == "softmax_cross_entropy" else shape
    counts = whole(np.arange(7)[:, None] < LENGTHS, of_elements)
    right = expected(loss, y, target, counts)
    actual = getattr(lstmc, loss)(*spoil(y, target, counts), lengths=LENGTHS)
    assert_right(actual, right, counts, dtype)


@pytest.mark.parametrize("loss", EACH)
@pytest.mark.parametrize("shape", [(9,), (7, 5), ()])
def test_masks_of_fewer_axes(isa, dtype, loss, shape):
    """A mask needs no steps: outputs that are one for each row, or numbers without any order, take one."""
    y, target = draw(loss, shape, dtype)
    counts = np.random.default_rng(8).random(shape) < 0.7
    counts = np.asarray(counts | (np.arange(max(1, counts.size)).reshape(shape) == 0))
    right = expected(loss, y, target, counts)
    actual = getattr(lstmc, loss)(*spoil(y, target, counts), mask=counts)
    assert_right(actual, right, counts, dtype)


def test_a_mask_with_one_target_for_each_row(dtype):
    y, target = draw("softmax_cross_entropy", (5, 9), dtype)
    counts = np.array([True, False, True, True, False])
    right = expected("softmax_cross_entropy", y, target, counts)
    actual = lstmc.softmax_cross_entropy(*spoil(y, target, counts), mask=counts)
    assert_right(actual, right, counts, dtype)


FORMS = {
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "Fortran": np.asfortranarray,
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "read-only": read_only,
    "a view of bytes": lambda a: (a * np.uint8(2)).view(bool),  # any byte but 0 is True
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_forms_of_a_mask(dtype, loss, form):
    y, target = draw(loss, (7, 5, 9), dtype)
    shapes = [(7, 5)] if loss == "softmax_cross_entropy" else [(7, 5), (7, 5, 9)]
    for shape in shapes:
        mask = np.random.default_rng(9).random(shape) < 0.6
        right = getattr(lstmc, loss)(y, target, mask=mask)
        value, dy = getattr(lstmc, loss)(y, target, mask=FORMS[form](mask))
        assert value == right[0]
        assert_same_bits(dy, right[1])


@pytest.mark.parametrize(
    "kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8", np.longlong]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_types_of_lengths(dtype, loss, kind):
    y, target = draw(loss, (7, 5, 9), dtype)
    right = getattr(lstmc, loss)(y, target, lengths=LENGTHS)
    for lengths in (LENGTHS.astype(kind), np.repeat(LENGTHS, 2).astype(kind)[::2]):
        value, dy = getattr(lstmc, loss)(y, target, lengths=read_only(lengths))
        assert value == right[0]
        assert_same_bits(dy, right[1])


def test_more_steps_than_the_type_of_lengths_has(dtype):
    y, target = draw("huber", (300, 2, 3), dtype)
    value, _ = lstmc.huber(y, target, lengths=np.array([127, 3], np.int8))
    assert value == lstmc.huber(y, target, lengths=np.array([127, 3]))[0]


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------

Y = np.zeros((7, 5, 9), np.float32)
IDS = np.zeros((7, 5), np.int64)


def changed(row, value, kind=np.int64):
    lengths = LENGTHS.astype(kind)
    lengths[row] = value
    return lengths


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"lengths": changed(2, 9)},
            ValueError,
            r"^lengths must be integers in \[0, 7\], got 9 at row 2$",
        ),
        ({"lengths": changed(4, 8, np.uint64)}, ValueError, "got 8 at row 4"),
        ({"lengths": changed(3, -1)}, ValueError, r"in \[0, 7\], got -1 at row 3"),
        ({"lengths": LENGTHS[:4]}, ValueError, r"lengths must be \(5,\), got \(4,\)"),
        ({"lengths": LENGTHS[None]}, ValueError, r"\(5,\), got \(1, 5\)"),
        ({"lengths": LENGTHS.astype(float)}, TypeError, r"lengths must be integers, got float64"),
        ({"lengths": LENGTHS > 3}, TypeError, r"lengths must be integers, got bool"),
        ({"lengths": LENGTHS.astype(object)}, TypeError, r"lengths must be integers, got object"),
        ({"lengths": [3.0] * 5}, TypeError, r"lengths must be integers, got \[3.0"),
        ({"lengths": 3}, ValueError, r"lengths must be \(5,\), got \(\)"),
        ({"lengths": LENGTHS, "batch_first": True}, ValueError, r"\(7,\), got \(5,\)"),
        ({"lengths": np.full(7, 6), "batch_first": True}, ValueError, r"\[0, 5\], got 6 at row 0"),
        ({"mask": np.ones((7, 5), np.int8)}, TypeError, r"bool array \(7, 5\).*got int8"),
        ({"mask": np.ones((7, 5))}, TypeError, r"bool array \(7, 5\).*got float64"),
        ({"mask": np.ones((7, 5), bool).tolist()}, TypeError, r"array \(7, 5\).*got list"),
        ({"mask": True}, TypeError, r"array \(7, 5\).*got bool"),
        ({"mask": np.ones((5, 7), bool)}, ValueError, r"array \(7, 5\).*got \(5, 7\)"),
        ({"mask": np.ones(5, bool)}, ValueError, r"array \(7, 5\).*got \(5,\)"),
        ({"mask": np.ones((7, 5, 1), bool)}, ValueError, r"array \(7, 5\).*got \(7, 5, 1\)"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_lengths_and_masks_that_are_refused(loss, options, error, message):
    target = IDS if loss == "softmax_cross_entropy" else Y
    out = {"out": np.full_like(Y, 3)} if loss == "softmax_cross_entropy" else {}
    with pytest.raises(error, match=message):
        getattr(lstmc, loss)(Y, target, **options, **out)
    assert all((a == 3).all() for a in out.values())


def test_a_mask_of_logits_is_refused():
    """Softmax counts rows: classes have no mask."""
    with pytest.raises(ValueError, match=r"bool array \(7, 5\), got \(7, 5, 9\)"):
        lstmc.softmax_cross_entropy(Y, IDS, mask=np.ones(Y.shape, bool))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(), (5,), (5, 5), (7, 5)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_of_what_has_no_steps(loss, shape, batch_first):
    """One output for each row, or one sequence: also where T, B and K are equal and would fit by chance."""
    y = np.zeros((*shape, 9) if shape == () else shape, np.float32)
    target = np.zeros(y.shape[:-1], int) if loss == "softmax_cross_entropy" else y
    name = "logits" if loss.endswith("entropy") else "y"
    order = r"\(B, T, " if batch_first else r"\(T, B, "
    with pytest.raises(ValueError, match=rf"{name} must be {order}.*with lengths.* has no steps"):
        getattr(lstmc, loss)(y, target, lengths=LENGTHS, batch_first=batch_first)


@pytest.mark.parametrize("place", [(0, 0), (3, 4)])
@pytest.mark.parametrize("value", [9, -2, 2**40])
def test_a_class_out_of_range_that_counts(place, value):
    """It is named with its position, as without a mask."""
    target, mask = IDS.copy(), np.ones(IDS.shape, bool)
    target[place], target[2, 2], mask[2, 2] = value, 99, False
    with pytest.raises(ValueError, match=rf"targets\[{place[0]}, {place[1]}\].*got {value}$"):
        lstmc.softmax_cross_entropy(Y, target, mask=mask)


@pytest.mark.parametrize("target", [IDS.astype(np.int16), IDS.astype(float), IDS.tolist(), IDS[0]])
def test_targets_of_the_wrong_form_beside_a_mask(target):
    """They are what they are without one."""
    with pytest.raises((TypeError, ValueError), match="targets must be") as plain:
        lstmc.softmax_cross_entropy(Y, target)
    with pytest.raises(plain.type) as masked:
        lstmc.softmax_cross_entropy(Y, target, mask=np.ones(IDS.shape, bool))
    assert str(masked.value) == str(plain.value)
