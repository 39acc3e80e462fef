"""A range coder (Martin 1979) over cumulative counts. The output is at most eight bytes longer than
the information content of the symbols.

The range has 64 bits, so that a total of 2^24 counts leaves 2^32 steps per count and the rounding
loss is negligible. Carries propagate through pending bytes, as in LZMA.
"""

from __future__ import annotations

from ..errors import DamagedError

BITS = 64
TOP, MIN_RANGE = 1 << BITS, 1 << (BITS - 8)  # a range below MIN_RANGE is widened by a byte
BYTES = BITS // 8


class Encoder:
    def __init__(self) -> None:
        self.low, self.range = 0, TOP - 1
        self.out = bytearray()
        # a carry may still increment the pending byte, through the bytes of 255 that follow it
        self.pending_byte, self.pending_255s, self.has_pending = 0, 0, False

    def encode(self, start: int, end: int, total: int) -> None:
        """Codes the symbol with the cumulative counts start ... end - 1 of `total`."""
        step = self.range // total
        self.low += step * start
        self.range = step * (end - start)
        while self.range < MIN_RANGE:
            self._shift()
            self.range <<= 8

    def _shift(self) -> None:
        """Moves the highest byte of `low` to the output, or to the pending bytes if it is 255."""
        top = self.low >> (BITS - 8)
        if top != 0xFF:
            carry = top >> 8
            if self.has_pending:
                self.out.append((self.pending_byte + carry) & 0xFF)
            self.out.extend(bytes([(0xFF + carry) & 0xFF]) * self.pending_255s)
            self.pending_byte, self.pending_255s, self.has_pending = top & 0xFF, 0, True
        else:
            self.pending_255s += 1
        self.low = (self.low << 8) & (TOP - 1)

    def finish(self) -> bytes:
        """The coded bytes, without up to eight trailing zeros: the decoder reads zeros past the
        end, and counts more than eight of them as damage."""
        for _ in range(BYTES + 1):
            self._shift()
        return bytes(self.out[:-BYTES] + self.out[-BYTES:].rstrip(b"\0"))


class Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, BYTES
        self.range = TOP - 1
        self.code = int.from_bytes(data[:BYTES].ljust(BYTES, b"\0"), "big")

    def target(self, total: int) -> int:
        """A cumulative count within the next symbol's interval; `take` must follow."""
        return min(self.code // (self.range // total), total - 1)

    def take(self, start: int, end: int, total: int) -> None:
        """Consumes the symbol with the counts start ... end - 1. DamagedError."""
        step = self.range // total
        self.code -= step * start
        self.range = step * (end - start)
        if not 0 <= self.code < self.range:
            raise DamagedError("the coded bytes are damaged")
        while self.range < MIN_RANGE:
            byte = self.data[self.position] if self.position < len(self.data) else 0
            self.code = self.code << 8 | byte
            self.range <<= 8
            self.position += 1
