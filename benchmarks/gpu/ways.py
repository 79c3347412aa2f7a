"""The private names of lstmc's CUDA path that the benchmarks use, and nothing else uses any."""

from contextlib import contextmanager

from lstmc._kernels import kernels_for

from .. import peers
from ..peers import Side
from ..timing import OURS, LeftOut


def cupy_here():
    """Return CuPy; raise ImportError or RuntimeError where there is none, or no usable GPU."""
    return kernels_for("cuda").arrays


def names():
    """List the ways through time."""
    from lstmc._kernels.cuda.ways import WAYS

    return list(WAYS)


@contextmanager
def use(way):
    """Let lstmc take a way, by name, within; None: the one that it chooses.

    Raises
    ------
    LeftOut
        The way does not fit what was to be done.
    """
    from lstmc._kernels.cuda.ways import use_way

    try:
        with use_way(way):
            yield
    except Exception as error:
        if "does not fit" in str(error):
            raise LeftOut(str(error)) from error
        raise


@contextmanager
def watched(taken):
    """Add to a set the names of the ways that are taken within."""
    from lstmc._kernels.cuda.ways import watch_ways

    with watch_ways() as names_taken:
        yield
    taken.update(names_taken)


def makers(w, problem, setting, every_way):
    """Return functions that make lstmc's sides: as it is by itself and, if asked for, by each way."""

    def make(way):
        with use(way):
            side = peers.make("ours", w, problem, setting)[OURS]

        def run(n):
            with use(way):
                side.run(n)

        return Side(run, side.answers)

    ways = names() if every_way else []
    return {
        OURS: lambda: make(None),
        **{f"{OURS} {way}": lambda way=way: make(way) for way in ways},
    }


def forget():
    """Let go of recorded graphs and of the memory that they and CuPy's pool hold."""
    from lstmc._kernels.cuda.ways import forget_graphs

    forget_graphs()
    cupy_here().get_default_memory_pool().free_all_blocks()


def multiply(out, a, b):
    """Multiply matrices as lstmc's layers do."""
    from lstmc._kernels.cuda.products import product

    product(out, a, b)


def smallest_kernel(array):
    """Launch the least that lstmc launches."""
    from lstmc._kernels.cuda import kernels as cuda

    cuda.scale(array, 1.0)
