#include "tensorrt/registry.h"

#include <algorithm>
#include <string_view>

#include "tensorrt/abi.h"

namespace patch {
namespace {

using Creator = nvinfer1::IPluginCreatorV3One;

bool same(const nvinfer1::IPluginCreatorInterface& known, const Creator& creator) noexcept {
  if (std::string_view(known.getInterfaceInfo().kind) != creator.getInterfaceInfo().kind) return false;
  const auto& other = static_cast<const Creator&>(known);
  return std::string_view(other.getPluginName()) == creator.getPluginName() &&
         std::string_view(other.getPluginVersion()) == creator.getPluginVersion() &&
         std::string_view(other.getPluginNamespace()) == creator.getPluginNamespace();
}

// Searches the list of all creators, because getCreator logs an error if it finds none.
template <class Registry>
bool knows(const Registry& registry, const Creator& creator) noexcept {
  int32_t count = 0;
  auto* const* all = registry.getAllCreators(&count);
  return std::any_of(all, all + count, [&](const auto* known) { return same(*known, creator); });
}

}  // namespace

bool register_creator(Creator& creator) noexcept {
  return with_tables([&](auto tables) {
    auto* registry = loaded_object<typename decltype(tables)::Registry>("getPluginRegistry");
    return registry && !knows(*registry, creator) &&
           registry->registerCreator(creator, creator.getPluginNamespace());
  });
}

void deregister_creator(const Creator& creator) noexcept {
  with_tables([&](auto tables) {
    auto* registry = loaded_object<typename decltype(tables)::Registry>("getPluginRegistry");
    return registry && registry->deregisterCreator(creator);
  });
}

}  // namespace patch
