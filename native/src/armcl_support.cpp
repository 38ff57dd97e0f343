#if defined(PIQI_ARMCL)
#include "armcl_support.hpp"

#include <arm_compute/core/Version.h>
#include <arm_compute/runtime/Scheduler.h>
#include <dlfcn.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace piqi::armcl {
namespace {

// The offset of every innermost run of a tensor in the library's buffer, in the order of the dense tensor.
template <typename Visit>
void for_each_row(const acl::ITensorInfo& info, const Visit& visit) {
  const acl::TensorShape& shape = info.tensor_shape();
  const acl::Strides& strides = info.strides_in_bytes();
  const size_t rank = shape.num_dimensions(), rows = shape.total_size_upper(1);
  for (size_t row = 0; row < rows; ++row) {
    size_t offset = info.offset_first_element_in_bytes();
    for (size_t dimension = 1, rest = row; dimension < rank; rest /= shape[dimension++])
      offset += rest % shape[dimension] * strides[dimension];
    visit(row, offset);
  }
}

}  // namespace

acl::TensorInfo info_of(const Shape& shape, acl::DataType type) {
  if (shape.size() > acl::TensorShape::num_max_dimensions)
    throw UnsupportedError("the Arm Compute Library has no tensors of shape " + to_string(shape));
  acl::TensorShape reversed;
  reversed.set_num_dimensions(std::max<size_t>(shape.size(), 1));
  if (shape.empty()) reversed.set(0, 1);
  for (size_t i = 0; i < shape.size(); ++i) reversed.set(i, shape[shape.size() - 1 - i]);
  acl::TensorInfo info(reversed, 1, type);
  if (shape.size() == 4) info.set_data_layout(acl::DataLayout::NHWC);
  return info;
}

bool has_clamp(const OperatorParameters& p) {
  return !(std::isinf(p.clamp_min) && std::isinf(p.clamp_max));
}

acl::ActivationLayerInfo clamp_of(const OperatorParameters& p) {
  using Function = acl::ActivationLayerInfo::ActivationFunction;
  constexpr float largest = std::numeric_limits<float>::max();
  if (!has_clamp(p)) return {};
  if (p.clamp_min == 0)
    return std::isinf(p.clamp_max) ? acl::ActivationLayerInfo(Function::RELU)
                                   : acl::ActivationLayerInfo(Function::BOUNDED_RELU, p.clamp_max);
  return {Function::LU_BOUNDED_RELU, std::min(p.clamp_max, largest), std::max(p.clamp_min, -largest)};
}

bool is_dense(const acl::ITensorInfo& info) {
  return info.data_type() == acl::DataType::F32 && !info.has_padding();
}

void copy_in(const void* dense, uint8_t* buffer, const acl::ITensorInfo& info) {
  const auto* const source = static_cast<const float*>(dense);
  const size_t width = info.tensor_shape()[0];
  const bool half = info.data_type() == acl::DataType::F16;
  for_each_row(info, [&](size_t row, size_t offset) {
    const float* const from = source + row * width;
    if (!half) {
      std::memcpy(buffer + offset, from, width * sizeof(float));
      return;
    }
    for (size_t i = 0; i < width; ++i) {
      const auto value = static_cast<__fp16>(from[i]);
      std::memcpy(buffer + offset + i * sizeof value, &value, sizeof value);
    }
  });
}

void copy_out(const uint8_t* buffer, const acl::ITensorInfo& info, void* dense) {
  auto* const target = static_cast<float*>(dense);
  const size_t width = info.tensor_shape()[0];
  const bool half = info.data_type() == acl::DataType::F16;
  for_each_row(info, [&](size_t row, size_t offset) {
    float* const to = target + row * width;
    if (!half) {
      std::memcpy(to, buffer + offset, width * sizeof(float));
      return;
    }
    for (size_t i = 0; i < width; ++i) {
      __fp16 value;
      std::memcpy(&value, buffer + offset + i * sizeof value, sizeof value);
      to[i] = static_cast<float>(value);
    }
  });
}

void refuse_partition(const SubGraph& sub_graph, const char* backend, const char* what) {
  if (sub_graph.partition)
    throw UnsupportedError(std::string(backend) + " computes in " + what +
                           "; it cannot run the partition of " + layer_range(sub_graph));
}

std::string library_file() {
  Dl_info info;
  // Any function of the library will do.
  return dladdr(reinterpret_cast<void*>(&acl::Scheduler::get), &info) != 0 && info.dli_fname
             ? info.dli_fname
             : "libarm_compute";
}

std::string library_version() {
  return acl::build_information();
}

}  // namespace piqi::armcl
#endif
