"""A plugin of nbdkit: a disk in memory that writes down every write and every flush.

The log is in the order in which the disk was told; others may append marks to it
(``crash/power/logged_disk.py`` reads it).
"""

# ruff: noqa: A001, ANN001, ANN201, PLW0603 - nbdkit's names; its Python runs this
import os
import struct

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<cQI")

settings = {}
disk = bytearray()
log = -1


def config(key, value):
    settings[key] = value


def get_ready():
    disk.extend(bytes(int(settings["dsize"])))


def after_fork():
    global log
    log = os.open(settings["logfile"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    return 1


def get_size(handle):
    return len(disk)


def can_write(handle):
    return True


def can_flush(handle):
    return True


def can_fua(handle):
    return nbdkit.FUA_EMULATE


def can_trim(handle):
    return False


def can_zero(handle):
    return False


def can_multi_conn(handle):
    return True


def pread(handle, buffer, offset, flags):
    buffer[:] = disk[offset : offset + len(buffer)]


def pwrite(handle, buffer, offset, flags):
    data = bytes(buffer)
    disk[offset : offset + len(data)] = data
    os.write(log, RECORD.pack(b"W", offset, len(data)) + data)


def flush(handle, flags):
    os.write(log, RECORD.pack(b"F", 0, 0))
