# SPDX-License-Identifier: GPL-2.0-only
"""What a guest that goes on from a snapshot cannot know by itself: the time, and randomness."""

import fcntl
import random
import struct
import time

# include/uapi/linux/random.h
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207


def refresh(nanoseconds: int, seed: bytes) -> None:
    """Set the clock to `nanoseconds` since the epoch, and stir `seed` into the random pool.

    Else all guests of one snapshot would draw the same numbers. The seed counts as random: it
    comes from the harness' getrandom(2).
    """
    time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds)
    pool = struct.pack("ii", len(seed) * 8, len(seed)) + seed
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, _RNDADDENTROPY, pool)
        fcntl.ioctl(device, _RNDRESEEDCRNG)
    random.seed()
