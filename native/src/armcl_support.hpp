// What the backends on the Arm Compute Library share: our shapes and parameters in the library's terms,
// copies of tensors that it pads, its errors as ours.
#pragma once

#include <arm_compute/core/Error.h>
#include <arm_compute/core/ITensor.h>
#include <arm_compute/core/TensorInfo.h>
#include <arm_compute/core/Types.h>

#include <string>
#include <utility>

#include "kernel_support.hpp"
#include "piqi/graph_creator.hpp"

namespace piqi::armcl {

namespace acl = arm_compute;

/// A tensor of this shape (outermost dimension first), unpadded, with its innermost dimension first as the
/// library has it; NHWC where it has four dimensions. Throws UnsupportedError for more than six.
acl::TensorInfo info_of(const Shape& shape, acl::DataType type);

/// The clamp of an operator; not enabled where it has none.
acl::ActivationLayerInfo clamp_of(const OperatorParameters& parameters);

/// Whether the operator ends in a clamp.
bool has_clamp(const OperatorParameters& parameters);

/// A dense float32 tensor into the library's buffer for `info`, and out of it: by strides, and converted
/// where it keeps float16.
void copy_in(const void* dense, uint8_t* buffer, const acl::ITensorInfo& info);
void copy_out(const uint8_t* buffer, const acl::ITensorInfo& info, void* dense);

/// Whether the library keeps the tensor as we do: float32 without padding.
bool is_dense(const acl::ITensorInfo& info);

/// Throws UnsupportedError for a sub-graph that is a partition; `backend` computes in `what`.
void refuse_partition(const SubGraph& sub_graph, const char* backend, const char* what);

/// "libarm_compute.so.20": the file of the library that was loaded.
std::string library_file();
/// "arm_compute_version=v20.08 ..." as the library words it.
std::string library_version();

/// Calls function() and turns what the library throws into a BackendError that begins with `where`.
template <typename Function>
auto guarded(const std::string& where, Function&& function) {
  try {
    return std::forward<Function>(function)();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw BackendError(where + ": Arm Compute Library: " + error.what());
  }
}

}  // namespace piqi::armcl
