"""Packed integer instructions that exist for MMX and for XMM registers, by opcode."""

from __future__ import annotations

from typing import Final

PACKED: Final = {
    0x60: "punpcklbw", 0x61: "punpcklwd", 0x62: "punpckldq", 0x63: "packsswb", 0x64: "pcmpgtb", 0x65: "pcmpgtw",
    0x66: "pcmpgtd", 0x67: "packuswb", 0x68: "punpckhbw", 0x69: "punpckhwd", 0x6A: "punpckhdq", 0x6B: "packssdw",
    0x74: "pcmpeqb", 0x75: "pcmpeqw", 0x76: "pcmpeqd", 0xD1: "psrlw", 0xD2: "psrld", 0xD3: "psrlq", 0xD4: "paddq",
    0xD5: "pmullw", 0xD8: "psubusb", 0xD9: "psubusw", 0xDA: "pminub", 0xDB: "pand", 0xDC: "paddusb", 0xDD: "paddusw",
    0xDE: "pmaxub", 0xDF: "pandn", 0xE0: "pavgb", 0xE1: "psraw", 0xE2: "psrad", 0xE3: "pavgw", 0xE4: "pmulhuw",
    0xE5: "pmulhw", 0xE8: "psubsb", 0xE9: "psubsw", 0xEA: "pminsw", 0xEB: "por", 0xEC: "paddsb", 0xED: "paddsw",
    0xEE: "pmaxsw", 0xEF: "pxor", 0xF1: "psllw", 0xF2: "pslld", 0xF3: "psllq", 0xF4: "pmuludq", 0xF5: "pmaddwd",
    0xF6: "psadbw", 0xF8: "psubb", 0xF9: "psubw", 0xFA: "psubd", 0xFB: "psubq", 0xFC: "paddb", 0xFD: "paddw",
    0xFE: "paddd",
}  # fmt: skip
"""Map 0F: no prefix for MMX, 66 for XMM."""

PACKED_38: Final = {
    0x00: "pshufb", 0x01: "phaddw", 0x02: "phaddd", 0x03: "phaddsw", 0x04: "pmaddubsw", 0x05: "phsubw",
    0x06: "phsubd", 0x07: "phsubsw", 0x08: "psignb", 0x09: "psignw", 0x0A: "psignd", 0x0B: "pmulhrsw",
    0x1C: "pabsb", 0x1D: "pabsw", 0x1E: "pabsd",
}  # fmt: skip
"""Map 0F 38: no prefix for MMX, 66 for XMM. The last three read only their source."""

SHIFT_GROUPS: Final = (
    (0x71, 2, "psrlw"), (0x71, 4, "psraw"), (0x71, 6, "psllw"), (0x72, 2, "psrld"), (0x72, 4, "psrad"),
    (0x72, 6, "pslld"), (0x73, 2, "psrlq"), (0x73, 6, "psllq"),
)  # fmt: skip
"""Opcode of map 0F, ModRM.reg and name of the shifts by an immediate."""
