"""Files of records that a run appends to, one line of JSON each."""

import os
import zlib

__all__ = ["RecordFile"]

PIECE = 1 << 20  # bytes


class RecordFile:
    """A JSONL file that is appended to, and goes back to an earlier place with the run that writes it.

    Parameters
    ----------
    path : path
        Made if there is none.
    place : dict, optional
        What ``place`` was when the run was saved: "size" in bytes, the "checksum" of as many, and "path". If
        the file begins with these bytes, wherever it is now, what follows them is removed. (No bytes say
        nothing: then the path must be the same.) Otherwise it is another file, and is only added to.

    Raises
    ------
    OSError
        It cannot be written.
    """

    def __init__(self, path, place=None):
        self.path = path
        with open(path, "a+b") as file:
            if place is not None and self._was_at(place, file):
                file.truncate(place["size"])
            end = file.seek(0, os.SEEK_END)
            if end and _last_byte(file) != b"\n":
                file.write(b"\n")  # a line that somebody left open
                file.flush()
            self.size = file.seek(0, os.SEEK_END)
            self.checksum = _checksum(file, self.size)

    def _was_at(self, place, file):
        named = os.path.realpath(self.path) == place["path"]
        return (place["size"] or named) and _checksum(file, place["size"]) == place["checksum"]

    @property
    def place(self):
        """Where the file ends, for a checkpoint."""
        return {"size": self.size, "checksum": self.checksum, "path": os.path.realpath(self.path)}

    def append(self, record):
        """Add a record, a dict of what JSON can hold.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        import json

        line = json.dumps(record).encode() + b"\n"
        with open(self.path, "ab") as file:
            file.write(line)
            file.flush()
            self.size = file.tell()
        self.checksum = zlib.crc32(line, self.checksum)


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _checksum(file, size):
    """Return the CRC-32 of so many bytes of a file, None if it has fewer."""
    total = 0
    file.seek(0)
    while size:
        piece = file.read(min(size, PIECE))
        if not piece:
            return None
        total, size = zlib.crc32(piece, total), size - len(piece)
    return total
