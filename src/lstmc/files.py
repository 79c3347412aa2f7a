"""Files that are whole or absent: arrays and metadata in one safetensors file.

Models and training checkpoints are both such files; each decides for itself what it holds.
"""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np

__all__ = ["append_record", "check_writable_folder", "read_safetensors", "write_safetensors"]

_KEY = "lstmc"  # the one entry in the metadata of the file: JSON


def _plain(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"metadata must be what JSON can hold, got {type(value).__name__}")


def write_safetensors(path, arrays, metadata):
    """Write a file so that at every moment either the old one or the new one exists, whole.

    It is written as ``<path>.tmp``, synced to the disk, and renamed. If that fails, the temporary file is
    removed and an existing file does not change.

    Parameters
    ----------
    path : path
    arrays : dict of str to ndarray
    metadata : dict
        Anything that JSON can hold; arrays become lists.

    Raises
    ------
    OSError
        The file cannot be written, for instance because the disk is full.
    TypeError
        The metadata holds something that JSON cannot.
    """
    import json  # which costs `import lstmc` more than most of its modules

    from safetensors.numpy import save

    text = json.dumps(metadata, default=_plain)
    arrays = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    data = save(arrays, {_KEY: text})
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # if the disk is full, the error does not name the file
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
        raise
    if os.name == "posix":  # the new name is on the disk once the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_safetensors(path):
    """Read a file that ``write_safetensors`` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    arrays : dict of str to ndarray
    metadata : dict

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is truncated, or is not such a file.
    """
    import json

    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with open(path, "rb"):  # missing or unreadable: Python's own error says so
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
            if _KEY not in entries:
                raise ValueError(f"its metadata have no entry {_KEY!r}")
            metadata = json.loads(entries[_KEY])
            if not isinstance(metadata, dict):
                raise ValueError(f"its entry {_KEY!r} is not an object")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not a file of lstmc, or not all of it: {error}") from None


def append_record(path, record):
    """Append a record to a JSONL file, as one line.

    Parameters
    ----------
    path : path
    record : dict
        Of what JSON can hold.

    Returns
    -------
    int
        The size of the file afterwards, in bytes.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    import json

    with open(path, "ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        return file.tell()


def check_writable_folder(path):
    """Check that a file can be written, before the work whose result it is to hold.

    Parameters
    ----------
    path : path
        Of the file. It need not exist, and is not touched.

    Raises
    ------
    OSError
        The folder is missing, is not a folder, or cannot be written to; or the file is a folder.
    """
    import tempfile

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "the output must be a file, and this is a folder", str(path)
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        reason = f"cannot write {path.name} into this folder: {error.strerror}"
        raise OSError(error.errno, reason, str(path.parent)) from None
