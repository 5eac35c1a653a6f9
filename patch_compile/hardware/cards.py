"""GPUs as the roofline sees them, from NVIDIA's papers. Rates are those at the boost clock."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICES", "Device", "Limits"]

_A100 = "NVIDIA A100 Tensor Core GPU Architecture (2020)"
_A100_80 = "NVIDIA A100 Tensor Core GPU datasheet (2021)"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture V2.0 (2021)"
_ADA = "NVIDIA Ada GPU Architecture V2.01 (2023)"
_L40S = "NVIDIA L40S datasheet (2023)"
_L4 = "NVIDIA L4 datasheet (2023)"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture (2022)"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet (2023)"


@dataclass(frozen=True)
class Limits:
    """`Device` of schedule.h: what a schedule depends on of a device. Bytes; those of shared memory are a block's."""

    sms: int
    shared_bytes: int
    l2_bytes: int
    block_tokens: int  # tokens an SM multiplies by a 64×64 block of W while one comes from DRAM
    fma: int  # dense multiply-adds of an SM and clock


@dataclass(frozen=True)
class Device:
    """One card.

    bandwidth: GB/s. dense: TFLOP/s of fp16 products with fp32 sums, without sparsity. mma: which share of it mma.sync
    reaches (1 but on Hopper, whose full rate takes wgmma). sparse: rate of 2:4 products over dense ones. clock: GHz.
    l2: MB. l2_bytes: of L2 a clock, all SMs together. shared: KiB of shared memory an SM, and a block.
    """

    name: str
    arch: int
    bandwidth: float
    dense: float
    sms: int
    clock: float
    l2: int
    l2_bytes: int
    shared: tuple[int, int]
    source: str
    mma: float = 1.0
    sparse: float = 2.0

    @property
    def limits(self) -> Limits:
        """What a schedule depends on."""
        fma = _FMA[self.arch]
        block = 64 * 64 * 2 / (self.bandwidth / self.sms) * self.clock * fma / 64**2
        return Limits(self.sms, self.shared[1] << 10, self.l2 << 20, int(block), fma)

    @property
    def fma(self) -> float:
        """Dense fp16 multiply-adds an SM and clock."""
        return self.dense * 1e3 / (2 * self.sms * self.clock)


# What the plugin takes for `Device.fma`: GeForce cards, half as fast, can't be told from others.
_FMA = {80: 1024, 86: 512, 89: 512, 90: 1270}
# Shared memory: CUDA C++ Programming Guide, "Compute Capabilities".
_SM80, _SM86, _SM90 = (164, 163), (100, 99), (228, 227)
# L2: 5120 bytes a clock on A100 (its paper) and H100 (as many GB/s over the clock in doi 10.1016/j.ultsonch.2023.106546,
# table 3). NVIDIA publishes none for GA102 and AD10x; 32 bytes an SM and clock is assumed there, less than on an A100.
_L2_A100, _L2_ASSUMED = 5120, 32
# Tensor cores of GeForce cards run at half rate when they sum in fp32: the papers' "with FP32 Accumulate".
# mma.sync on Hopper: 62 % of the rate of wgmma, see _slower_than_wgmma in linear_roofline.py.
_HOPPER_MMA = 0.62

DEVICES = {
    device.name: device
    for device in (
        Device("A100-40", 80, 1555, 312.0, 108, 1.410, 40, _L2_A100, _SM80, _A100),
        Device("A100-80", 80, 2039, 312.0, 108, 1.410, 40, _L2_A100, _SM80, _A100_80),
        Device("A6000", 86, 768, 154.8, 84, 1.800, 6, 84 * _L2_ASSUMED, _SM86, _GA102),
        Device("RTX 3090", 86, 936, 71.2, 82, 1.695, 6, 82 * _L2_ASSUMED, _SM86, _GA102),
        Device("RTX 4090", 89, 1008, 165.2, 128, 2.520, 72, 128 * _L2_ASSUMED, _SM86, _ADA),
        Device("L4", 89, 300, 121.0, 58, 2.040, 48, 58 * _L2_ASSUMED, _SM86, f"{_L4}; {_ADA}"),
        Device("L40S", 89, 864, 362.05, 142, 2.520, 96, 142 * _L2_ASSUMED, _SM86, f"{_L40S}; {_ADA}"),
        Device("H100", 90, 3350, 989.4, 132, 1.830, 50, 5120, _SM90, _H100, mma=_HOPPER_MMA),
        Device("H200", 90, 4800, 989.4, 132, 1.830, 50, 5120, _SM90, f"{_H200}; {_H100}", mma=_HOPPER_MMA),
    )
}
