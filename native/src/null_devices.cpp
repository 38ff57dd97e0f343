// The devices of a board that has none: nothing is controlled, nothing is marked.
#include "piqi/governor.hpp"
#include "piqi/power_marker.hpp"

namespace piqi {
namespace {

class NullGovernor final : public Governor {
 public:
  bool request(size_t, size_t) override { return false; }
  bool controls(size_t) const override { return false; }
  size_t in_force(size_t) const override { return unknown; }
  void restore() noexcept override {}
  std::vector<std::string> warnings() const override { return {}; }
};

class NullMarker final : public PowerMarker {
 public:
  void mark(size_t) override {}
};

}  // namespace

std::shared_ptr<Governor> make_null_governor(std::vector<FrequencyDomain>) {
  return std::make_shared<NullGovernor>();
}

std::shared_ptr<PowerMarker> make_null_marker() {
  return std::make_shared<NullMarker>();
}

}  // namespace piqi
