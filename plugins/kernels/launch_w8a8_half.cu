#include "kernels/launch_rounded.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kHalf, Group::kW8A8, &launch_rounded<Half, kFirstW8A8, kConfigCount>);

}  // namespace patch
