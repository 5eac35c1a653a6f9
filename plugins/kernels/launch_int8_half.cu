#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kHalf, Group::kInt8, &launch_scalar<Half, kFirstInt8, kFirstInt4>);

}  // namespace patch
