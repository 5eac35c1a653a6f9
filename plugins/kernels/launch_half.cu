#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kHalf, Group::kPatch, &launch_scalar<Half, 0, kPatchConfigCount>);

}  // namespace patch
