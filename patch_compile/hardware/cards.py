"""The table of GPU architectures and cards: valid names of `--target`, and the data behind predictions.

A new card is one row of `CARDS`. A new architecture is one row of `ARCHITECTURES` (and an entry in
plugins/kernels/config.h). Rates are NVIDIA's, at the boost clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from patch_compile.errors import UsageError
from patch_compile.hardware.gpu import Gpu, local_gpu


@dataclass(frozen=True)
class SmRates:
    """Rates of an SM that predictions assume.

    shared: KiB of shared memory of an SM, and of a block (CUDA C++ Programming Guide, "Compute Capabilities"). fma:
    dense fp16 multiply-adds with fp32 sums a clock; GeForce cards do half as many. mma: the share of them that mma.sync
    reaches. sparse: rate of mma.sp over mma.sync. l2_bytes: bytes of L2 a clock, for cards without a source for theirs.
    """

    shared: tuple[int, int]
    fma: int
    mma: float = 1.0
    sparse: float = 2.0
    l2_bytes: int = 32


@dataclass(frozen=True)
class GpuArchitecture:
    """GPUs of one compute capability, which an engine is built for.

    sm: 86 for compute capability 8.6. rates: None if no card of the architecture has predictions.
    """

    sm: int
    rates: SmRates | None = None

    @property
    def name(self) -> str:
        """Returns the name in the spelling of users and of engines of TensorRT-RTX."""
        return f"sm{self.sm}"

    @property
    def tensorrt_name(self) -> str:
        """Returns the name in the spelling of TensorRT-RTX's enum ComputeCapability."""
        return f"SM{self.sm}"

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Returns the compute capability as the driver gives it: (8, 6)."""
        return divmod(self.sm, 10)


@dataclass(frozen=True)
class Card:
    """A GPU that engines can be built for.

    aliases: other names, such as the driver's. Brands, case and punctuation don't count.
    """

    name: str
    sm: int
    aliases: tuple[str, ...] = ()


class Origin(StrEnum):
    """Where a figure of a card comes from that its data sheet lacks. The value is what a person is shown."""

    OTHERS = "measured by others"
    FIT = "fitted to published times"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class Share:
    """A share of a rate, and where it comes from."""

    value: float
    origin: Origin


@dataclass(frozen=True)
class ProductRate:
    """Rate of a card's products of one type.

    dense: TFLOP/s, or TOP/s of int8, by its data sheet and without sparsity. tensor: share of `dense` that cuBLASLt reaches;
    sparse: rate that cuSPARSELt's 2:4 products reach, over twice cuBLASLt's.
    """

    dense: float
    tensor: Share
    sparse: Share

    @property
    def reached(self) -> float:
        return self.dense * self.tensor.value


# Assumed for cards that nobody published times of: the medians of the fits. Power limits the tensor cores, except on GeForce
# cards, which sum in fp32 at half the rate: there the RTX 4090 stands for all.
_TENSOR, _SPARSE, _GEFORCE = (Share(value, Origin.ASSUMED) for value in (0.72, 0.85, 1.0))
# The same for int8, whose rate no card halves: the medians of the fits, and the RTX 4090's.
_INT8, _INT8_SPARSE, _INT8_GEFORCE = (Share(value, Origin.ASSUMED) for value in (0.66, 0.8, 0.8))


@dataclass(frozen=True, kw_only=True)
class SheetCard(Card):
    """A GPU whose data sheet is known. Products of NVIDIA's libraries are predicted for it.

    memory: GB. bandwidth: GB/s. dense, tensor, sparse: rate of fp16 products with fp32 sums, see `ProductRate`; int8,
    int8_tensor, int8_sparse: rate of int8 products with int32 sums. clock: GHz. l2: MB. l2_sourced: bytes of L2 a clock, all
    SMs together, None if no source gives them. The shares are fitted (`benchmarks/published` of commit b3835239), or taken
    from a card of the same kind. source: for int8 too.
    """

    memory: int
    bandwidth: float
    dense: float
    sms: int
    clock: float
    l2: int
    l2_sourced: int | None = None
    tensor: Share = _TENSOR
    sparse: Share = _SPARSE
    int8: float
    int8_tensor: Share = _INT8
    int8_sparse: Share = _INT8_SPARSE
    source: str

    def products(self, input_bits: int) -> ProductRate:
        """Returns the rate of products whose inputs have so many bits: 16 or 8."""
        if input_bits == 8:
            return ProductRate(self.int8, self.int8_tensor, self.int8_sparse)
        return ProductRate(self.dense, self.tensor, self.sparse)

    @property
    def bytes_a_clock(self) -> float:
        """Returns an SM's share of the bandwidth of DRAM, in bytes a clock."""
        return self.bandwidth / self.sms / self.clock

    def fma_of(self, input_bits: int) -> float:
        """Returns the dense multiply-adds an SM and clock of inputs of so many bits, by its data sheet."""
        return self.products(input_bits).dense * 1e3 / (2 * self.sms * self.clock)


@dataclass(frozen=True, kw_only=True)
class RatedCard(SheetCard):
    """A GPU with predictions of the plugin's kernels, which know its architecture."""

    @property
    def rates(self) -> SmRates:
        rates = architecture_of(self.sm).rates
        assert rates is not None, f"the table has no rates for sm{self.sm}"
        return rates

    @property
    def l2_bytes(self) -> int:
        return self.l2_sourced or self.sms * self.rates.l2_bytes

    @property
    def is_geforce(self) -> bool:
        """Returns True if its tensor cores sum in fp32 at half the rate of its architecture."""
        return self.fma_of(16) < 0.75 * self.rates.fma


@dataclass(frozen=True)
class Target:
    """One target of `--target`: an architecture, or a card of it. name: the name that was given."""

    name: str
    architecture: GpuArchitecture
    card: Card | None


# NVIDIA publishes no rate for the L2 of GA102, AD10x and GB20x: 32 bytes an SM and clock is assumed, less than on an
# A100. On Hopper (H800), mma.sync reaches 62.9 % of the data sheet's rate, and mma.sp 1.42 times mma.sync (Luo et al. 2024,
# arXiv 2402.13499).
ARCHITECTURES: tuple[GpuArchitecture, ...] = (
    GpuArchitecture(80, SmRates((164, 163), 1024)),
    GpuArchitecture(86, SmRates((100, 99), 512)),
    GpuArchitecture(87),
    GpuArchitecture(89, SmRates((100, 99), 512)),
    GpuArchitecture(90, SmRates((228, 227), 2048, mma=0.629, sparse=1.42)),
    GpuArchitecture(100),
    GpuArchitecture(120, SmRates((100, 99), 512)),
    GpuArchitecture(121),
)

_A100 = "NVIDIA A100 Tensor Core GPU Architecture (2020)"
_A100_80 = "NVIDIA A100 Tensor Core GPU datasheet (2021)"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture V2.0 (2021)"
_ADA = "NVIDIA Ada GPU Architecture V2.01 (2023)"
_L40S = "NVIDIA L40S datasheet (2023)"
_L4 = "NVIDIA L4 datasheet (2023)"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture (2022)"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet (2023)"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture V1.1 (2025)"
_H100_PCIE = "NVIDIA H100 PCIe GPU product brief (2022)"
_A40 = "NVIDIA A40 datasheet (2021)"
_B200 = "NVIDIA Blackwell Architecture Technical Brief (2024), B200 in HGX"
_GB10 = (
    "NVIDIA DGX Spark datasheet (2025), which gives 1 PFLOP/s of sparse fp4: an eighth is assumed for fp16"
)
_BLACKWELL_PRO = "NVIDIA RTX PRO Blackwell GPU Architecture V1.0 (2025)"
_A100_SXM = Share(0.75, Origin.FIT)
_H100_TENSOR, _H100_SPARSE = Share(0.76, Origin.FIT), Share(0.75, Origin.ASSUMED)  # 2:4: as the H100 PCIe
# int8: as the PCIe cards, by the ratio of both cards' 16-bit shares.
_A100_INT8, _A100_INT8_SPARSE = Share(0.6, Origin.ASSUMED), Share(1.04, Origin.ASSUMED)
_H100_INT8, _H100_INT8_SPARSE = Share(0.81, Origin.ASSUMED), Share(0.72, Origin.ASSUMED)
# The L2 of A100 and H100 gives 5120 bytes a clock (A100's paper; as many GB/s over the clock in doi
# 10.1016/j.ultsonch.2023.106546, table 3). Tensor cores of GeForce cards sum in fp32 at half their rate: the papers'
# "with FP32 Accumulate". Source of the cards' architectures: NVIDIA, "CUDA GPU compute capability"
# (developer.nvidia.com/cuda-gpus).
CARDS: tuple[Card, ...] = (
    RatedCard(
        "A100-40", 80, ("A100 40GB", "A100-SXM4-40GB", "A100-PCIE-40GB"), memory=40, bandwidth=1555, dense=312.0, int8=624.0,
        sms=108, clock=1.410, l2=40, l2_sourced=5120, tensor=_A100_SXM, int8_tensor=_A100_INT8,
        int8_sparse=_A100_INT8_SPARSE, source=_A100,
    ),
    RatedCard(
        "A100-80", 80, ("A100 80GB", "A100-SXM4-80GB"), memory=80, bandwidth=2039, dense=312.0, int8=624.0, sms=108,
        clock=1.410, l2=40, l2_sourced=5120, tensor=_A100_SXM, int8_tensor=_A100_INT8,
        int8_sparse=_A100_INT8_SPARSE, source=_A100_80,
    ),
    Card("A100", 80),
    RatedCard(
        "A100-80 PCIe", 80, ("A100 80GB PCIe",), memory=80, bandwidth=1935, dense=312.0, int8=624.0, sms=108, clock=1.410,
        l2=40, l2_sourced=5120, tensor=Share(0.71, Origin.FIT), sparse=Share(0.86, Origin.FIT),
        int8_tensor=Share(0.57, Origin.FIT), int8_sparse=Share(1.04, Origin.FIT), source=_A100_80,
    ),
    Card("A30", 80),
    Card("A800", 80),
    RatedCard(
        "A6000", 86, memory=48, bandwidth=768, dense=154.8, int8=309.7, sms=84, clock=1.800, l2=6, source=_GA102
    ),
    Card("A5500", 86),
    Card("A5000", 86),
    Card("A4500", 86),
    Card("A4000", 86),
    Card("A2000", 86, ("A2000 12GB",)),
    RatedCard(
        "A40", 86, memory=48, bandwidth=696, dense=149.7, int8=299.3, sms=84, clock=1.740, l2=6, source=f"{_A40}; {_GA102}"
    ),
    Card("A16", 86),
    Card("A10", 86),
    Card("A10G", 86),
    Card("A2", 86),
    RatedCard(
        "RTX 3090", 86, memory=24, bandwidth=936, dense=71.2, int8=284.0, sms=82, clock=1.695, l2=6, tensor=_GEFORCE,
        sparse=_GEFORCE, int8_tensor=_INT8_GEFORCE, source=_GA102
    ),
    Card("Jetson AGX Orin", 87, ("Orin",)),
    Card("Jetson Orin NX", 87),
    Card("Jetson Orin Nano", 87),
    Card("RTX 3090 Ti", 86),
    Card("RTX 3080 Ti", 86),
    Card("RTX 3080", 86),
    Card("RTX 3070 Ti", 86),
    Card("RTX 3070", 86),
    Card("RTX 3060 Ti", 86),
    Card("RTX 3060", 86),
    Card("RTX 3050", 86),
    RatedCard(
        "RTX 4090", 89, memory=24, bandwidth=1008, dense=165.2, int8=660.6, sms=128, clock=2.520, l2=72,
        tensor=Share(0.97, Origin.FIT), sparse=Share(1.0, Origin.FIT),
        int8_tensor=Share(0.8, Origin.FIT), int8_sparse=Share(0.8, Origin.FIT), source=_ADA
    ),
    Card("RTX 4080 Super", 89),
    Card("RTX 4080", 89),
    Card("RTX 4070 Ti", 89),
    Card("RTX 4070 Super", 89),
    Card("RTX 4070", 89),
    Card("RTX 4060 Ti", 89),
    Card("RTX 4060", 89),
    Card("RTX 4050", 89),
    Card("RTX 6000 Ada", 89, ("RTX 6000 Ada Generation",)),
    Card("RTX 5000 Ada", 89, ("RTX 5000 Ada Generation",)),
    Card("RTX 4500 Ada", 89, ("RTX 4500 Ada Generation",)),
    Card("RTX 4000 Ada", 89, ("RTX 4000 Ada Generation",)),
    Card("RTX 2000 Ada", 89, ("RTX 2000 Ada Generation",)),
    RatedCard(
        "L4", 89, memory=24, bandwidth=300, dense=121.0, int8=242.5, sms=58, clock=2.040, l2=48, source=f"{_L4}; {_ADA}"
    ),
    RatedCard(
        "L40S", 89, memory=48, bandwidth=864, dense=362.05, int8=733.0, sms=142, clock=2.520, l2=96,
        source=f"{_L40S}; {_ADA}"
    ),
    Card("L40", 89),
    RatedCard(
        "H100", 90, ("H100 80GB HBM3",), memory=80, bandwidth=3350, dense=989.4, int8=1978.9, sms=132, clock=1.830, l2=50,
        l2_sourced=5120, tensor=_H100_TENSOR, sparse=_H100_SPARSE,
        int8_tensor=_H100_INT8, int8_sparse=_H100_INT8_SPARSE, source=_H100,
    ),
    RatedCard(
        "H200", 90, memory=141, bandwidth=4800, dense=989.4, int8=1978.9, sms=132, clock=1.830, l2=50, l2_sourced=5120,
        tensor=_H100_TENSOR, sparse=_H100_SPARSE,
        int8_tensor=_H100_INT8, int8_sparse=_H100_INT8_SPARSE, source=f"{_H200}; {_H100}",
    ),
    RatedCard(
        "H100 PCIe", 90, memory=80, bandwidth=2039, dense=756.0, int8=1513.0, sms=114, clock=1.755, l2=50, l2_sourced=5120,
        tensor=Share(0.62, Origin.FIT), sparse=Share(0.75, Origin.FIT),
        int8_tensor=Share(0.66, Origin.FIT), int8_sparse=Share(0.72, Origin.FIT), source=f"{_H100_PCIE}; {_H100}",
    ),
    Card("H100 NVL", 90),
    Card("H800", 90),
    Card("GH200", 90, ("GH200 480GB",)),
    SheetCard(
        "B200", 100, memory=180, bandwidth=8000, dense=2250.0, int8=4500.0, sms=148, clock=1.965, l2=126,
        tensor=Share(0.69, Origin.FIT), sparse=Share(0.85, Origin.FIT), source=_B200,
    ),
    RatedCard(
        "RTX 5090", 120, memory=32, bandwidth=1792, dense=209.5, int8=838.0, sms=170, clock=2.407, l2=96,
        tensor=Share(1.0, Origin.OTHERS), sparse=_GEFORCE, int8_tensor=_INT8_GEFORCE,
        source=f"{_BLACKWELL}; 224 TFLOP/s by PyTorch 2.8, github.com/zzc0721/torch-performance-test-data, pull request 15",
    ),
    RatedCard(
        "RTX 5080", 120, memory=16, bandwidth=960, dense=112.6, int8=450.2, sms=84, clock=2.617, l2=64, tensor=_GEFORCE,
        sparse=_GEFORCE, int8_tensor=_INT8_GEFORCE, source=_BLACKWELL,
    ),
    Card("RTX 5070 Ti", 120),
    Card("RTX 5070", 120),
    Card("RTX 5060 Ti", 120),
    Card("RTX 5060", 120),
    Card("RTX 5050", 120),
    RatedCard(
        "RTX PRO 6000", 120, ("RTX PRO 6000 Blackwell Workstation Edition",), memory=96, bandwidth=1792, dense=503.8,
        int8=1007.6, sms=188, clock=2.617, l2=128, source=_BLACKWELL_PRO,
    ),
    Card("RTX PRO 6000 Server", 120, ("RTX PRO 6000 Blackwell Server Edition",)),
    Card("RTX PRO 5000", 120, ("RTX PRO 5000 Blackwell",)),
    Card("RTX PRO 4500", 120, ("RTX PRO 4500 Blackwell",)),
    Card("RTX PRO 4000", 120, ("RTX PRO 4000 Blackwell",)),
    SheetCard(
        "GB10", 121, ("DGX Spark",), memory=128, bandwidth=273, dense=125.0, int8=250.0, sms=48, clock=2.418, l2=24,
        tensor=Share(0.74, Origin.OTHERS),
        source=f"{_GB10}; 92 TFLOP/s by PyTorch 2.10, github.com/huggingface/kernels, pull request 283",
    ),
)  # fmt: skip

_BRANDS = re.compile(r"^(?:nvidia|geforce|tesla|quadro|rtx)+")
_ARCHITECTURE = re.compile(r"^(?:sm|compute)?(\d{2,3})$")
_OLD = re.compile(
    r"(?:sm|compute)?[5-7]\d|t4|v100\w*|p4|p40|p100\w*|titan\w*|(?:gtx)?1[06]\d0\w*|20[678]0\w*"
)


def architecture_of(sm: int) -> GpuArchitecture:
    return next(row for row in ARCHITECTURES if row.sm == sm)


def rated_cards() -> tuple[RatedCard, ...]:
    return tuple(card for card in CARDS if isinstance(card, RatedCard))


def card_named(name: str) -> Card | None:
    """Returns the card of a name in the spelling of a user or the driver, or None if the table has none."""
    plain = _plain(name)
    return next((card for card in CARDS if plain in map(_plain, (card.name, *card.aliases))), None)


def parse_targets(text: str) -> tuple[Target, ...]:
    """Parse a comma-separated list of architectures (`sm86`, `8.6`) and cards (`a6000`, `RTX 4090`).

    Raises UsageError, with the nearest cards, the architectures and the cards with predictions, for an unknown name, and for
    an empty list.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(
            "No target is given",
            f"The list {text!r} is empty.",
            f"Give a card, or {_architectures()}, as --target.",
        )
    return tuple(map(_target, names))


def parse_architectures(text: str) -> tuple[GpuArchitecture, ...]:
    """Returns the architectures of a list of targets, each once, in the order given. Errors: see `parse_targets`."""
    return tuple(dict.fromkeys(target.architecture for target in parse_targets(text)))


def local_architecture() -> GpuArchitecture | None:
    """Returns the architecture of this machine's GPU, or None without a GPU or if the table does not have it."""
    gpu = local_gpu()
    return architecture_of_gpu(gpu) if gpu else None


def architecture_of_gpu(gpu: Gpu) -> GpuArchitecture | None:
    return next((row for row in ARCHITECTURES if row.compute_capability == gpu.compute_capability), None)


def _target(name: str) -> Target:
    compute_capability = _ARCHITECTURE.match(re.sub(r"[^a-z0-9]", "", name.lower()))
    for row in ARCHITECTURES:
        if compute_capability and row.sm == int(compute_capability[1]):
            return Target(name, row, None)
    card = card_named(name)
    if card is None and _OLD.fullmatch(_plain(name)):
        raise UsageError(
            f"{name} has no 2:4 instruction",
            "Tensor cores multiply 2:4 since Ampere (sm80). Older GPUs, such as T4 and V100, multiply the zeros.",
            f"Give a newer card, or {_architectures()}, as --target.",
        )
    if card is None:
        names = {_plain(card.name): card.name for card in CARDS}
        near = [names[plain] for plain in get_close_matches(_plain(name), names)]
        predicted = ", ".join(card.name for card in rated_cards())
        raise UsageError(
            f"There is no target {name!r}",
            f"The table of cards has none of this name; its architectures are {_architectures()}.",
            f"Give {' or '.join((*near, 'an architecture'))} as --target. Predictions are for {predicted}.",
        )
    return Target(name, architecture_of(card.sm), card)


def _architectures() -> str:
    return ", ".join(row.name for row in ARCHITECTURES)


def _plain(name: str) -> str:
    """Returns a name without case, punctuation and brands: `a6000` for "NVIDIA RTX A6000"."""
    return _BRANDS.sub("", re.sub(r"[^a-z0-9]", "", name.lower()))
