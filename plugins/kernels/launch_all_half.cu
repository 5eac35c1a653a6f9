#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kHalf, Group::kAll, &launch_scalar<Half, kPatchConfigCount, kFirstInt8>);

}  // namespace patch
