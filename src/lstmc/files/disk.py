"""Files that are whole or absent: arrays and metadata in one safetensors file.

Networks, language models and checkpoints of training are such files; each decides for itself what it holds.
The metadata are the one entry "lstmc" of the file's own: an object in JSON, at whose end a checksum is added.
"""

import contextlib
import errno
import os
import stat
import zlib

import numpy as np

__all__ = ["check_writable_folder", "only_one", "read_safetensors", "write_safetensors"]

_KEY = "lstmc"
FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_CHECKSUM = '"crc32":'  # ends the metadata, with a number and a brace
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def _plain(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"metadata must be what JSON can hold, got {type(value).__name__}")


def _checksum(text, arrays):
    """Return the CRC-32 of the metadata and of the bytes of all arrays in the order of their names."""
    total = zlib.crc32(text.encode())
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].reshape(-1).view(np.uint8), total)
    return total


# -- writing --------------------------------------------------------------------------------------


def write_safetensors(path, arrays, metadata):
    """Write a file so that at every moment either the old one or the new one exists, whole.

    It is written under a name of its own in the same folder, synced to the disk, and renamed. If that fails,
    that file is removed and an existing one does not change. What a link points to is replaced, not the link;
    a file that is replaced passes on its permissions.

    Parameters
    ----------
    path : path
    arrays : dict of str to ndarray
    metadata : dict
        Anything that JSON can hold; arrays become lists. A checksum of it and of the arrays is added.

    Raises
    ------
    OSError
        The file cannot be written, for instance because the disk is full.
    TypeError
        The metadata hold something that JSON cannot.
    """
    import json  # which costs `import lstmc` more than most of its modules

    from safetensors.numpy import save

    text = json.dumps(metadata, default=_plain, separators=(",", ":"))
    arrays = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    comma = "," if metadata else ""
    text = f"{text[:-1]}{comma}{_CHECKSUM}{_checksum(text, arrays)}}}"
    _replace(path, save(arrays, {_KEY: text}))


def _replace(path, data):
    """Write a file anew, or leave it as it was."""
    path = os.fsdecode(path)
    if path.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, "cannot write: it is the name of a folder", path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".lstmc-{os.urandom(8).hex()}.tmp")
    try:
        mode = _mode_of(target)
        # What may be read by its owner alone may so while it is written.
        opened = os.open(temporary, FRESH, 0o666 if mode is None else 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # if the disk is full, the error does not name the file
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise
    if os.name == "posix":  # the new name is on the disk once the folder is
        with contextlib.suppress(OSError):  # a folder that one may write to and not read
            opened = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def _mode_of(target):
    """Return the permissions of a file that is to be replaced, None if there is none; refuse a device."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder: the renaming says so
        raise OSError(errno.EINVAL, "it is not a regular file")
    return stat.S_IMODE(mode)


# -- reading --------------------------------------------------------------------------------------


def read_safetensors(path, verify=True):
    """Read a file that ``write_safetensors`` wrote.

    Parameters
    ----------
    path : path
    verify : bool
        Compare the checksum, if the file has one.

    Returns
    -------
    arrays : dict of str to ndarray
        float16 and bfloat16 become float32.
    metadata : dict

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is truncated or damaged, or is not such a file.
    """
    from safetensors import SafetensorError, deserialize

    # Read, not mapped: a file may be overwritten meanwhile, and must not take the process along.
    data = _bytes_of(path)
    try:
        tensors = deserialize(data)  # refuses what is not a whole file
        text = _metadata_text(data)
        del data
        stored = {name: _array(tensor) for name, tensor in tensors}
        metadata, checksum = _parse(text)
        if verify and checksum is not None and _checksum(checksum[1], stored) != checksum[0]:
            raise ValueError("its data are damaged: the checksum is another one")
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of lstmc, or not all of it: {error}") from None
    halves = {name for name, tensor in tensors if tensor["dtype"] in ("F16", "BF16")}
    return {n: _widened(a) if n in halves else a for n, a in stored.items()}, metadata


def _bytes_of(path):
    """Return what is in a file, after a look at its beginning: it may be a large one of something else."""
    with open(os.fspath(path), "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a file of lstmc: it is not a regular file")
        start = file.read(8)
        if 8 + int.from_bytes(start, "little") > status.st_size:
            raise ValueError(
                f"{path} is not a file of lstmc, or not all of it: its header is too long"
            )
        return start + file.read()


def _without_waiting(path, flags):
    """Open a file; a pipe without a writer, which is refused, would have been waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _metadata_text(data):
    """Return the entry "lstmc" in the header of a safetensors file."""
    import json

    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    if _KEY not in entries:
        raise ValueError(f"its metadata have no entry {_KEY!r}")
    return entries[_KEY]


def _parse(text):
    """Return the metadata, and the checksum with the text that it belongs to, or None."""
    import json

    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"its entry {_KEY!r} is not an object")
    if "crc32" not in metadata:
        return metadata, None
    return metadata, (metadata.pop("crc32"), text.rpartition(_CHECKSUM)[0].rstrip(",") + "}")


def _array(tensor):
    """Return a tensor as an array of its own; bfloat16 as the integers that its bits are."""
    kind = tensor["dtype"]
    if kind not in _TYPES:
        raise ValueError(f"it holds a tensor of type {kind}, which lstmc does not know")
    return np.frombuffer(tensor["data"], _TYPES[kind]).reshape(tensor["shape"])


def _widened(array):
    """Return float16, or the bits of bfloat16, as float32."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


# -- other files ----------------------------------------------------------------------------------


def check_writable_folder(path):
    """Check that a file can be written, before the work whose result it is to hold.

    Parameters
    ----------
    path : path
        Of the file. It need not exist, and is not touched.

    Raises
    ------
    OSError
        The folder is missing, is not a folder, or cannot be written to; the file is a folder, or its name is
        longer than names may be there.
    """
    import tempfile

    path = os.fsdecode(path)
    if os.path.isdir(path):
        raise IsADirectoryError(
            errno.EISDIR, "the output must be a file, and this is a folder", path
        )
    folder, name = os.path.split(path)
    folder = folder or os.curdir
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # refuses a name that is too long
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"cannot write {name} into this folder: {error.strerror}"
        raise OSError(error.errno, reason, folder) from None


@contextlib.contextmanager
def only_one(folder):
    """Hold a folder for this process, which must be the only one that writes there.

    Parameters
    ----------
    folder : path

    Raises
    ------
    BlockingIOError
        Another process holds it. One that dies does not any more. A file system or a system without such
        locks says nothing.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another process is at work in this folder"
            raise BlockingIOError(errno.EAGAIN, reason, os.fsdecode(folder)) from None
        except OSError:
            pass
        yield
    finally:
        os.close(opened)
