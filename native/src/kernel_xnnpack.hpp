// XNNPACK operators as kernels.
#pragma once

#include <xnnpack.h>

#include <functional>

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

/// `output_table`, if not empty, is applied to the 8-bit output in place, for operators that XNNPACK has only
/// with equal quantisation on both sides.
std::shared_ptr<Kernel> make_xnn_kernel(const OperatorView& view, size_t operands, const XnnCreate& create,
                                        XnnSetup setup, LookupTable output_table = {});

/// Setup of an operator with one input and one output: setup(op, sizes..., input, output, pool).
template <typename T, typename Function, typename... Sizes>
XnnSetup xnn_setup(Function* setup, Sizes... sizes) {
  return [setup, sizes...](xnn_operator_t op, const void* const* inputs, void* const* outputs,
                           pthreadpool_t pool) {
    return setup(op, sizes..., static_cast<const T*>(inputs[0]), static_cast<T*>(outputs[0]), pool);
  };
}

}  // namespace piqi
