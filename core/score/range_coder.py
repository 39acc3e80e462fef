"""A range coder (Martin 1979) over cumulative counts: what is coded costs its information, and at
most eight bytes beside.

64-bit ranges leave 2^32 steps to totals of 2^24, so that rounding costs nothing to speak of; a
carry runs through bytes held back, as in LZMA.
"""

from __future__ import annotations

from ..errors import DamagedError

BITS = 64
TOP, LOW_RANGE = 1 << BITS, 1 << (BITS - 8)  # a range below the second is widened by a byte
BYTES = BITS // 8


class Encoder:
    def __init__(self) -> None:
        self.low, self.range = 0, TOP - 1
        self.out = bytearray()
        self.held, self.waiting = 0, 0  # a byte that a carry may reach, and 255s behind it
        self.begun = False

    def encode(self, start: int, end: int, total: int) -> None:
        """What holds the counts start ... end - 1 of `total`."""
        step = self.range // total
        self.low += step * start
        self.range = step * (end - start)
        while self.range < LOW_RANGE:
            self._shift()
            self.range <<= 8

    def _shift(self) -> None:
        """The highest byte leaves; 255 waits, as a carry would make it 0 and run on."""
        top = self.low >> (BITS - 8)
        if top != 0xFF:
            carry = top >> 8
            if self.begun:
                self.out.append((self.held + carry) & 0xFF)
            self.out.extend(bytes([(0xFF + carry) & 0xFF]) * self.waiting)
            self.held, self.waiting, self.begun = top & 0xFF, 0, True
        else:
            self.waiting += 1
        self.low = (self.low << 8) & (TOP - 1)

    def finish(self) -> bytes:
        """All that was coded; zeros at its end, eight at most, are left out: the decoder reads
        them anyhow, and that many alone are not taken for damage."""
        for _ in range(BYTES + 1):
            self._shift()
        return bytes(self.out[:-BYTES] + self.out[-BYTES:].rstrip(b"\0"))


class Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, BYTES
        self.range = TOP - 1
        self.code = int.from_bytes(data[:BYTES].ljust(BYTES, b"\0"), "big")

    def target(self, total: int) -> int:
        """A count of the next symbol, to be looked up; `take` must follow."""
        return min(self.code // (self.range // total), total - 1)

    def take(self, start: int, end: int, total: int) -> None:
        step = self.range // total
        self.code -= step * start
        self.range = step * (end - start)
        if not 0 <= self.code < self.range:
            raise DamagedError("the coded bytes are damaged")
        while self.range < LOW_RANGE:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.code = self.code << 8 | byte
            self.range <<= 8
            self.at += 1
