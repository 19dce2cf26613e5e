"""A wall clock that jumps: forked processes run it first, where tests say so.

`time.time` and `time.time_ns` are off by as many seconds as the file named by TESTS_INSIDE_CLOCK says, eight bytes of a
double, from the moment they are written there. Processes that are forked later see it, too.
"""

import mmap
import os
import struct
import time

_OFFSET = struct.Struct("d")
_real_time, _real_time_ns = time.time, time.time_ns

with open(os.environ["TESTS_INSIDE_CLOCK"], "rb") as _file:
    _seen = mmap.mmap(_file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)


def _time() -> float:
    return _real_time() + _OFFSET.unpack_from(_seen)[0]


def _time_ns() -> int:
    return _real_time_ns() + int(_OFFSET.unpack_from(_seen)[0] * 1e9)


time.time, time.time_ns = _time, _time_ns
