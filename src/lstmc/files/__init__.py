"""What a network is, as plain data, and the files that hold it: written whole, and read with care."""

from .description import (
    FORMAT,
    Described,
    built_in,
    check_rng,
    check_tensors,
    describe,
    entry,
    generator,
    make,
    take_room,
)
from .disk import check_writable_folder, only_one, read_safetensors, write_safetensors
from .networks import check_kind, load, make_network
from .records import RecordFile

__all__ = [
    "FORMAT",
    "Described",
    "RecordFile",
    "built_in",
    "check_kind",
    "check_rng",
    "check_tensors",
    "check_writable_folder",
    "describe",
    "entry",
    "generator",
    "load",
    "make",
    "make_network",
    "only_one",
    "read_safetensors",
    "take_room",
    "write_safetensors",
]
