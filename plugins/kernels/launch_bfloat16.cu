#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kPatch, &launch_scalar<BFloat16, 0, kPatchConfigCount>);

}  // namespace patch
