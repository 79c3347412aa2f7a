"""What a network is, as plain data, and the files that hold it: written whole, and read with care."""

from .description import (
    FORMAT,
    Described,
    built_in,
    check_rng,
    describe,
    entry,
    generator,
    make,
    take_room,
)
from .disk import append_record, check_writable_folder, read_safetensors, write_safetensors
from .networks import check_kind, load, make_network

__all__ = [
    "FORMAT",
    "Described",
    "append_record",
    "built_in",
    "check_kind",
    "check_rng",
    "check_writable_folder",
    "describe",
    "entry",
    "generator",
    "load",
    "make",
    "make_network",
    "read_safetensors",
    "take_room",
    "write_safetensors",
]
