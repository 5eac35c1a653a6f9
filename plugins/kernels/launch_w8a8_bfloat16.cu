#include "kernels/launch_rounded.cuh"

namespace patch {

[[maybe_unused]] static const bool known =
    add_launcher(Scalar::kBFloat16, Group::kW8A8, &launch_rounded<BFloat16, kFirstW8A8, kConfigCount>);

}  // namespace patch
