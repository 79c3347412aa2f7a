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
        What ``place`` was when the run was saved: "size" in bytes and the "checksum" of as many. If the file
        begins with these, wherever it is now, what follows them is removed. Otherwise it is another file, and
        is only added to.

    Raises
    ------
    OSError
        It cannot be written.
    """

    def __init__(self, path, place=None):
        self.path = path
        with open(path, "a+b") as file:
            if place is not None and _checksum(file, place["size"]) == place["checksum"]:
                file.truncate(place["size"])
            self.size = file.seek(0, os.SEEK_END)
            self.checksum = _checksum(file, self.size)

    @property
    def place(self):
        """Where the file ends, for a checkpoint."""
        return {"size": self.size, "checksum": self.checksum}

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
