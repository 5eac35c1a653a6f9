"""Options of the engine's builder other than shapes and targets, and the backends that lack some of them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from masklearn.base.durable import whole_file
from masklearn.base.option import Option, listed
from patch_compile.engine.backend import Backend, BackendName
from patch_compile.errors import PatchCompileError, UsageError

if TYPE_CHECKING:
    import tensorrt

ENGINE = "Engine"
VERSIONS, HARDWARE = "versions", "hardware"
_engine = partial(Option, group=ENGINE)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if not {*names} <= {VERSIONS, HARDWARE}:
        raise ValueError(f"It takes {VERSIONS}, {HARDWARE}, or both.")
    return names


# fmt: off
@dataclass
class EngineSettings:
    """Options of the engine's builder, each declared once."""

    timing_cache: Annotated[Path | None, _engine(
        "File that keeps measured tactics for later builds (tensorrt).", "FILE")] = None
    compatible: Annotated[tuple[str, ...], _engine(
        "Let the engine also run with later versions of the backend (versions), on any GPU from Ampere on (hardware; not "
        "for tensorrt-rtx, whose `target` may name several), or both (versions,hardware).", "WHAT",
        parse=listed, check=_known)] = ()
    embed_plugin: Annotated[bool, _engine(
        "Put the plugin into the engine, to deploy one file; see `trust` of run.")] = False
# fmt: on


class EngineOptions(EngineSettings):
    """Options of an engine build, which its backend checks and takes."""

    def check(self, name: BackendName) -> None:
        """Raise UsageError, naming the flag, for an option that the backend lacks."""
        no_engine = "It builds no engine.", "Choose another --backend."
        no_timing = "Its builder times nothing: kernels are chosen where the engine runs.", "Drop the option."
        if name is BackendName.ONNX:
            missing = dict.fromkeys(self.__dataclass_fields__, no_engine)
        else:
            missing = {"timing_cache": no_timing} if name is BackendName.TENSORRT_RTX else {}
        for option, (why, fix) in missing.items():
            if getattr(self, option) not in (None, False, ()):
                raise UsageError(f"The backend {name} has no --{option.replace('_', '-')}", why, fix)
        if name is BackendName.TENSORRT_RTX and HARDWARE in self.compatible:
            raise UsageError(
                f"The backend {name} has no --compatible {HARDWARE}",
                "Its engines run on the architectures that they are built for.",
                "Name several: --target sm86,sm89,sm120.",
            )

    def apply(self, backend: Backend, config: "tensorrt.IBuilderConfig") -> None:
        """Set the options on an IBuilderConfig.

        Raises PatchCompileError for a timing cache of another GPU or version.
        """
        trt = backend.trt
        if VERSIONS in self.compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # The engine runs with the library that is installed there. RTX has no lean runtime to embed.
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if HARDWARE in self.compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if self.timing_cache is not None:
            known = self.timing_cache.read_bytes() if self.timing_cache.is_file() else b""
            if not config.set_timing_cache(config.create_timing_cache(known), False):
                raise PatchCompileError(
                    f"{backend.name} {backend.version} does not take the timing cache {self.timing_cache}",
                    "It was measured on another GPU or by another version.",
                    "Name a new file with --timing-cache.",
                )

    def keep_timings(self, config: "tensorrt.IBuilderConfig") -> None:
        """Write the timings of a finished build to the timing cache, atomically."""
        if self.timing_cache is None:
            return
        self.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.timing_cache) as part:
            part.write_bytes(config.get_timing_cache().serialize())
