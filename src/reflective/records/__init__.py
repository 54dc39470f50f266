"""The store: records of problems, a JSON line each, and the manifest of the folder that they lie in.

Tensors that belong to a record lie beside it in shards (`reflective.shards`).
"""

from reflective.records.file import RecordWriter, read_records, with_own_keys
from reflective.records.record import RECORD_VERSION, Record, TrajectoryRecord, finite, key_of

__all__ = [
    "RECORD_VERSION",
    "Record",
    "RecordWriter",
    "TrajectoryRecord",
    "finite",
    "key_of",
    "read_records",
    "with_own_keys",
]
