// XNNPACK operators as kernels.
#pragma once

#include <xnnpack.h>

#include <functional>
#include <limits>

#include "kernel_support.hpp"

namespace piqi {

/// XNNPACK takes extents of windows as uint32_t.
inline uint32_t u32(size_t value) {
  return static_cast<uint32_t>(value);
}

/// Initialises XNNPACK once for the process; thread-safe. Throws BackendError.
void initialize_xnnpack();

/// Throws UnsupportedError (XNNPACK refuses the parameters) or BackendError, naming the operator.
void check_xnnpack(xnn_status status, const std::string& label);

/// Binds pointers: (operator, inputs, outputs, pool). Must not allocate.
using XnnSetup = std::function<xnn_status(xnn_operator_t, const void* const*, void* const*, pthreadpool_t)>;

/// Creates the operator: a function that takes the place to put it.
using XnnCreate = std::function<xnn_status(xnn_operator_t*)>;

/// What makes and binds an operator, and what XNNPACK lacks and is done to its output in place: 8-bit values
/// go through `table`, floats are clamped.
struct XnnOperator {
  XnnCreate create;
  XnnSetup setup;
  LookupTable table = {};
  float clamp_min = -std::numeric_limits<float>::infinity();
  float clamp_max = std::numeric_limits<float>::infinity();
};

/// Throws UnsupportedError, BackendError.
std::shared_ptr<Kernel> make_xnn_kernel(const OperatorView& view, size_t operands, XnnOperator op);

}  // namespace piqi
