#include "kernels/launch_kernels.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kHalf, Group::kInt4, &launch_scalar<Half, kFirstInt4, kFirstW8A8>);

}  // namespace patch
