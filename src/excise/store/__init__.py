"""The one room that writes to disk: whole files or nothing, tensors without code in them, records of what was written."""

from excise.store.files import file_digest, left_over, remove, sweep, write_bytes
from excise.store.keys import commitment
from excise.store.runs import LAST_FINITE, RECORD, RunDirectory, read_record
from excise.store.tensors import read_metadata, read_tensors, read_weights, write_tensors
from excise.store.values import read_json, write_json

__all__ = [
    "LAST_FINITE",
    "RECORD",
    "RunDirectory",
    "commitment",
    "file_digest",
    "left_over",
    "read_json",
    "read_metadata",
    "read_record",
    "read_tensors",
    "read_weights",
    "remove",
    "sweep",
    "write_bytes",
    "write_json",
    "write_tensors",
]
