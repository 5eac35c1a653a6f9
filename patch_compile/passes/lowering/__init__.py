"""The passes that compile linears as planned, in the order of their runs. Fusions run after GatherLinearsPass.

Which of them run depends on the model; RoundInputsPass changes only the graph that a hybrid of w8a8 is compared with.
"""

from patch_compile.passes.lowering.gather_linears import GatherLinearsPass
from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
from patch_compile.passes.lowering.normalize_linears import NormalizeLinearsPass
from patch_compile.passes.lowering.pack_linears import PackLinearsPass
from patch_compile.passes.lowering.round_inputs import RoundInputsPass
from patch_compile.passes.lowering.separate_transposes import SeparateTransposesPass
from patch_compile.passes.lowering.sink_casts import SinkCastsPass
from patch_compile.passes.lowering.split_linears import SplitLinearsPass
from patch_compile.passes.lowering.stack_joined import StackJoinedPass
from patch_compile.passes.lowering.substitute_linears import SubstituteLinearsPass

LOWERING = (
    NormalizeLinearsPass,
    SubstituteLinearsPass,
    SinkCastsPass,
    GatherLinearsPass,
    StackJoinedPass,
    PackLinearsPass,
    SplitLinearsPass,
    MaskLinearsPass,
    SeparateTransposesPass,
    RoundInputsPass,
)
