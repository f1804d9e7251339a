"""Why the driver holds a GPU's clocks down: NVML's bits, their names, and which of them spoil a measurement.

Source: nvml.h, nvmlClocksEventReason... (nvmlClocksThrottleReason... before driver 535).
"""

from __future__ import annotations

GPU_IDLE = 0x01
APPLICATION_CLOCKS = 0x02
POWER_CAP = 0x04
HARDWARE_SLOWDOWN = 0x08
SYNC_BOOST = 0x10
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40
POWER_BRAKE = 0x80
DISPLAY_CLOCKS = 0x100

NAMES = {
    GPU_IDLE: "idle",
    APPLICATION_CLOCKS: "application clocks",
    POWER_CAP: "power cap",
    HARDWARE_SLOWDOWN: "hardware slowdown",
    SYNC_BOOST: "sync boost",
    SOFTWARE_THERMAL: "software thermal slowdown",
    HARDWARE_THERMAL: "hardware thermal slowdown",
    POWER_BRAKE: "power brake",
    DISPLAY_CLOCKS: "display clocks",
}
# A chip that is too hot or short of power runs at clocks that no other run can reproduce.
SLOWDOWNS = (HARDWARE_SLOWDOWN, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE)


def names(reasons: int) -> tuple[str, ...]:
    """The names of the bits that are set, lowest first; a bit that has none by its number."""
    bits = (1 << place for place in range(reasons.bit_length()))
    return tuple(NAMES.get(bit, f"reason 0x{bit:x}") for bit in bits if reasons & bit)


def slowdowns(reasons: int) -> tuple[str, ...]:
    """The names of those bits that spoil a measurement."""
    return tuple(NAMES[bit] for bit in SLOWDOWNS if reasons & bit)
