"""Streams, events and graphs of the emulated device.

All work is done when it is asked for; only a stream that captures keeps it for later. So order between
streams is not emulated: a missing synchronisation does not show.
"""

import threading
import time

from .errors import CUDARuntimeError

_local = threading.local()
_capturing = []  # streams


class Stream:
    """A stream; `ptr` is a number like a real one's."""

    null = None
    ptds = None
    _next = 0x5000

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.is_non_blocking = non_blocking
        self.priority = priority or 0
        self.device_id = -1 if null or ptds else 0
        self._work = None
        self._before = []
        if null or ptds:
            self.ptr = 2 if ptds else 0
        else:
            Stream._next += 0x100
            self.ptr = Stream._next

    @property
    def done(self):
        return True

    def __enter__(self):
        self._before.append(get_current_stream())
        return self.use()

    def __exit__(self, *error):
        self._before.pop().use()

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return hash(self.ptr)

    def use(self):
        _local.stream = self
        return self

    def synchronize(self):
        if self._work is not None:
            raise CUDARuntimeError(900)

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        pass

    def launch_host_func(self, callback, arg):
        submit(lambda: callback(arg), self)

    def is_capturing(self):
        return self._work is not None

    def begin_capture(self, mode=None):
        if self.ptr in (0, 1, 2):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._work is not None:
            raise CUDARuntimeError(1)
        self._work = []
        _capturing.append(self)

    def end_capture(self):
        if self._work is None:
            raise CUDARuntimeError(1)
        work, self._work = self._work, None
        _capturing[:] = [stream for stream in _capturing if stream is not self]
        return Graph(work)


class ExternalStream(Stream):
    """A stream that another made; the device is the same, so it needs only its number."""

    def __init__(self, ptr, device_id=-1):
        super().__init__()
        self.ptr, self.device_id = ptr, device_id


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)


class Event:
    """A moment of the host's clock."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr = id(self)
        self._disable_timing = disable_timing
        self._time = None

    @property
    def done(self):
        return True

    def record(self, stream=None):
        self._time = time.perf_counter()

    def synchronize(self):
        pass


class Graph:
    """What a stream was asked while it captured."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        for action in self._work:
            submit(action, stream)

    def upload(self, stream=None):
        pass


def get_current_stream(device_id=-1):
    return getattr(_local, "stream", Stream.null)


def get_elapsed_time(start_event, end_event):
    """Milliseconds between two events."""
    if start_event._disable_timing or end_event._disable_timing:
        raise CUDARuntimeError(1)
    return (end_event._time - start_event._time) * 1000


def submit(action, stream=None):
    """Do it, or keep it for the graph where the stream captures."""
    stream = get_current_stream() if stream is None else stream
    if stream._work is not None:
        stream._work.append(action)
    elif _capturing and stream.ptr == 0:
        raise CUDARuntimeError(906)
    else:
        action()


def any_captures():
    """Whether any stream captures."""
    return bool(_capturing)


def forbid_capture(what):
    """Raise where `what`, that the double can do only at once, is asked for during a capture."""
    stream = get_current_stream()
    if stream._work is not None or (_capturing and stream.ptr == 0):
        raise RuntimeError(f"{what}: not emulated during capture, it would run at once")


def forget_captures():
    """For a test that failed within a capture: end it."""
    for stream in _capturing:
        stream._work = None
    _capturing.clear()
    Stream.null.use()
