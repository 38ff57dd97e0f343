#include "kernel_support.hpp"

#include <cmath>
#include <cstring>

namespace piqi {

void OperatorView::require_same_types(size_t inputs) const {
  const auto check = [&](const Tensor& tensor) {
    if (tensor.type == type()) return;
    unsupported("tensor '" + tensor.name + "' is " + to_string(tensor.type) + ", expected " +
                to_string(type()) + " like '" + input(0).name + "'");
  };
  for (size_t i = 1; i < inputs; ++i) check(input(i));
  for (size_t i = 0; i < op.outputs.size(); ++i) check(output(i));
}

Affine OperatorView::affine(const Tensor& tensor) const {
  Affine result;
  if (tensor.type == DataType::Int8) {
    result.lowest = -128, result.highest = 127;
  } else if (tensor.type == DataType::UInt8) {
    result.lowest = 0, result.highest = 255;
  } else {
    unsupported("tensor '" + tensor.name + "' is " + to_string(tensor.type) + ", expected int8 or uint8");
  }
  const Quantization& q = tensor.quantization;
  if (q.scales.size() != 1 || !std::isnormal(q.scales[0]) || q.scales[0] <= 0) {
    unsupported("tensor '" + tensor.name + "' needs exactly one positive scale, got " +
                (q.scales.size() == 1 ? std::to_string(q.scales[0]) : std::to_string(q.scales.size())) +
                (q.scales.size() == 1 ? "" : " scales"));
  }
  if (q.zero_point < result.lowest || q.zero_point > result.highest) {
    unsupported("zero point " + std::to_string(q.zero_point) + " of tensor '" + tensor.name +
                "' does not fit " + to_string(tensor.type));
  }
  result.scale = q.scales[0];
  result.zero_point = q.zero_point;
  return result;
}

Affine OperatorView::clamped_output() const {
  Affine result = affine(output());
  const int32_t lowest = result.stored(parameters().clamp_min);
  const int32_t highest = result.stored(parameters().clamp_max);
  result.lowest = lowest, result.highest = highest;
  return result;
}

BoundKernel::BoundKernel(const OperatorView& view, size_t operands)
    : inputs_(operands), outputs_(view.op.outputs.size()) {
  for (size_t i = 0; i < operands; ++i) {
    const Tensor& tensor = view.input(i);
    if (!tensor.is_constant()) {
      variable_.push_back(i);
      continue;
    }
    // A copy, because the constant may lie at the end of a mapped file, where nothing may be read behind it.
    constants_.emplace_back(tensor.size_bytes());
    std::memcpy(constants_.back().data(), tensor.data.get(), tensor.size_bytes());
    inputs_[i] = constants_.back().data();
  }
}

void BoundKernel::setup(const void* const* inputs, void* const* outputs, pthreadpool_t) {
  for (size_t i = 0; i < variable_.size(); ++i) inputs_[variable_[i]] = inputs[i];
  std::copy_n(outputs, outputs_.size(), outputs_.begin());
}

size_t BoundKernel::memory_bytes() const {
  size_t total = 0;
  for (const AlignedBuffer& constant : constants_) total += constant.size_bytes();
  return total;
}

LookupTable requantization_table(const OperatorView& view, const Tensor& from, const Tensor& to) {
  if (from.type == DataType::Float32 || from.type == DataType::Int32) return {};
  if (from.quantization == to.quantization) return {};
  return make_table(view.affine(from), view.affine(to), [](double real) { return real; });
}

void copy_through(const LookupTable& table, const uint8_t* source, uint8_t* destination, size_t size) {
  for (size_t i = 0; i < size; ++i) destination[i] = table[source[i]];
}

}  // namespace piqi
