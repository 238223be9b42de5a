"""The one room that writes to disk: whole files or nothing, tensors without code in them, records of what was written."""

from excise.store.files import file_digest, left_over, remove, remove_empty, sweep, write_bytes
from excise.store.keys import commitment
from excise.store.locks import LOCK, holder, lock, tidy
from excise.store.remote import Remote, is_url
from excise.store.runs import (
    BEGUN,
    CHECKPOINTS,
    DATA,
    LAST_FINITE,
    RECORD,
    RunDirectory,
    amend_record,
    forget_files,
    read_record,
)
from excise.store.sealed import read_sealed, sealed_bytes, write_sealed
from excise.store.tensors import metadata_of, read_metadata, read_tensors, read_weights, require_form, write_tensors
from excise.store.values import json_bytes, read_json, write_json

__all__ = [
    "BEGUN",
    "CHECKPOINTS",
    "DATA",
    "LAST_FINITE",
    "LOCK",
    "RECORD",
    "Remote",
    "RunDirectory",
    "amend_record",
    "commitment",
    "file_digest",
    "forget_files",
    "holder",
    "is_url",
    "json_bytes",
    "left_over",
    "lock",
    "metadata_of",
    "read_json",
    "read_metadata",
    "read_record",
    "read_sealed",
    "read_tensors",
    "read_weights",
    "remove",
    "remove_empty",
    "require_form",
    "sealed_bytes",
    "sweep",
    "tidy",
    "write_bytes",
    "write_json",
    "write_sealed",
    "write_tensors",
]
