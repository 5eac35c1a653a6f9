"""Options of the engine's builder other than shapes and targets, and the backends that lack some of them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from masklearn.base.durable import whole_file
from masklearn.base.option import Option
from patch_compile.engine.backend import Backend, BackendName
from patch_compile.errors import PatchCompileError, UsageError

if TYPE_CHECKING:
    import tensorrt

ENGINE = "Engine"
_engine = partial(Option, group=ENGINE)

# Backend → option that it lacks → (reason, fix) of the error.
_MISSING = {
    BackendName.TENSORRT_RTX: {
        "timing_cache": (
            "Its builder times nothing: kernels are chosen where the engine runs.",
            "Drop the option.",
        ),
        "hardware_compatible": (
            "Its engines run on the architectures that they are built for.",
            "Name several: --target sm86,sm89,sm120.",
        ),
    },
}


# fmt: off
@dataclass
class EngineSettings:
    """Options of the engine's builder, each declared once."""

    optimization_level: Annotated[int | None, _engine(
        "Effort of TensorRT to find fast kernels, 0 … 5.", unset="the backend's default", ge=0, le=5)] = None
    timing_cache: Annotated[Path | None, _engine(
        "File that keeps measured tactics for later builds (tensorrt).", "FILE")] = None
    weight_streaming: Annotated[bool, _engine("Let weights stay in host memory at run time.")] = False
    version_compatible: Annotated[bool, _engine("Let later versions of the backend run the engine.")] = False
    hardware_compatible: Annotated[bool, _engine(
        "Let any GPU from Ampere on run the engine (tensorrt; for tensorrt-rtx name several in `target`).")] = False
    embed_plugin: Annotated[bool, _engine(
        "Put the plugin into the engine, to deploy one file; see `trust` of run.")] = False
# fmt: on


class EngineOptions(EngineSettings):
    """Options of an engine build, which its backend checks and takes."""

    def check(self, name: BackendName) -> None:
        """Raise UsageError, naming the flag, for an option that the backend lacks."""
        missing = _MISSING.get(name, {})
        if name is BackendName.ONNX:
            missing = dict.fromkeys(
                self.__dataclass_fields__, ("It builds no engine.", "Choose another --backend.")
            )
        for option, (why, fix) in missing.items():
            if (asked := getattr(self, option)) is not None and asked is not False:
                raise UsageError(f"The backend {name} has no --{option.replace('_', '-')}", why, fix)

    def apply(self, backend: Backend, config: "tensorrt.IBuilderConfig") -> None:
        """Set the options on an IBuilderConfig.

        Raises PatchCompileError for a timing cache of another GPU or version.
        """
        trt = backend.trt
        if self.optimization_level is not None:
            config.builder_optimization_level = self.optimization_level
        if self.weight_streaming:
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if self.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # The engine runs with the library that is installed there. RTX has no lean runtime to embed.
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if self.hardware_compatible:
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
