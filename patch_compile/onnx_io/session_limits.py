"""An ONNX Runtime session with a time limit for each run. Import it only where ONNX Runtime is needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort

from patch_compile.debug import TENSORS, tell, tensor_words
from patch_compile.onnx_io.time_limit import time_exceeded, time_limit

SILENT = 4  # log severity; errors are raised, so logging them too is not needed


class LimitedSession(ort.InferenceSession):  # type: ignore[misc]
    """A session that ends a run after the seconds of `time_limit`, once the operator that is running has ended.

    Its runs raise PatchCompileError in that case.
    """

    def __init__(
        self, path: Path, options: Any, providers: tuple[str, ...], disabled: list[str] | None = None
    ) -> None:
        """disabled: names of graph optimizers that are left out."""
        super().__init__(str(path), options, providers=list(providers), disabled_optimizers=disabled)
        self._limited_path = path

    @contextmanager
    def limited(self) -> Iterator[Any]:
        """Yield the options of one run in the block, which is limited and logs nothing."""
        options, seconds = ort.RunOptions(), time_limit()
        options.log_severity_level = SILENT
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield options
        except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
            if options.terminate:
                raise time_exceeded(self._limited_path, seconds) from error
            raise
        finally:
            timer.cancel()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """See `InferenceSession`. run_options: the options that `limited` yields; None limits this run."""
        if run_options is not None:
            return super().run(output_names, input_feed, run_options)
        with self.limited() as options:
            made = super().run(output_names, input_feed, options)
        names = output_names or [output.name for output in self.get_outputs()]
        tensors = (*input_feed.items(), *zip(names, made, strict=True))
        tell(TENSORS, (f"{self._limited_path.name}: {tensor_words(*named)}" for named in tensors))
        return made

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """See `run`."""
        if run_options is not None:
            super().run_with_iobinding(iobinding, run_options)
            return
        with self.limited() as options:
            super().run_with_iobinding(iobinding, options)
