// Times as Python gives them.
#pragma once

#include <chrono>
#include <string>

#include "piqi/error.hpp"

namespace piqi::bindings {

inline std::chrono::milliseconds milliseconds(const char* name, double seconds) {
  if (!(seconds >= 0 && seconds <= 1e6))
    throw PlanError(std::string(name) + " must be between 0 and 1e6, got " + std::to_string(seconds));
  return std::chrono::milliseconds(static_cast<int64_t>(1e3 * seconds));
}

}  // namespace piqi::bindings
