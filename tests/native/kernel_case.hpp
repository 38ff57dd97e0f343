// One operator under test: random tensors, their real values in double precision, and the comparison.
#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "piqi/kernel.hpp"

namespace piqi_test {

using piqi::DataType;
using piqi::OperatorKind;
using piqi::OperatorParameters;
using piqi::Shape;

constexpr DataType all_types[] = {DataType::Float32, DataType::Int8, DataType::UInt8};

/// 64-byte aligned; what lies behind the end is poison (NaN as float): a result that depends on it shows.
class Buffer {
 public:
  explicit Buffer(size_t size = 0) : storage_(size + piqi::extra_bytes + 64, 0xFF), size_(size) {}
  uint8_t* data() const {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    return const_cast<uint8_t*>(storage_.data()) + (64 - address % 64) % 64;
  }
  size_t size() const { return size_; }
  /// Nothing was written behind the end.
  bool is_intact() const {
    return std::all_of(data() + size_, data() + size_ + piqi::extra_bytes,
                       [](uint8_t byte) { return byte == 0xFF; });
  }

 private:
  std::vector<uint8_t> storage_;
  size_t size_;
};

/// Memory whose last readable byte is the last of the buffer's extra_bytes.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(const Buffer& contents) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t size = (contents.size() + 63) / 64 * 64;  // starts aligned, so the slack lies inside
    const size_t readable = (size + piqi::extra_bytes + page - 1) / page * page;
    mapped_ = readable + page;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(base_ != MAP_FAILED);
    auto* const bytes = static_cast<uint8_t*>(base_);
    REQUIRE(mprotect(bytes + readable, page, PROT_NONE) == 0);
    data_ = bytes + readable - piqi::extra_bytes - size;
    std::memcpy(data_, contents.data(), contents.size());
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  ~GuardedBuffer() { munmap(base_, mapped_); }
  uint8_t* data() const { return data_; }

 private:
  void* base_ = nullptr;
  size_t mapped_ = 0;
  uint8_t* data_ = nullptr;
};

struct Value {
  piqi::Tensor tensor;
  Buffer buffer;
  std::vector<double> real;

  double scale(size_t channel = 0) const {
    const std::vector<float>& scales = tensor.quantization.scales;
    return scales.empty() ? 1 : static_cast<double>(scales.size() == 1 ? scales[0] : scales[channel]);
  }
  /// The stored number: quantised integer or float.
  double stored(size_t i) const {
    const uint8_t* const bytes = buffer.data();
    if (tensor.type == DataType::Int8) return reinterpret_cast<const int8_t*>(bytes)[i];
    if (tensor.type == DataType::UInt8) return bytes[i];
    if (tensor.type == DataType::Int32) return reinterpret_cast<const int32_t*>(bytes)[i];
    return static_cast<double>(reinterpret_cast<const float*>(bytes)[i]);
  }
};

class KernelCase {
 public:
  explicit KernelCase(uint32_t seed) : seed_(seed), random_(seed) {}

  int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  size_t size(int low, int high) { return static_cast<size_t>(uniform(low, high)); }
  double uniform_real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }

  /// Random activations in about [-2, 2] with a random zero point.
  Value& input(const Shape& shape, DataType type) {
    const bool quantised = type == DataType::Int8 || type == DataType::UInt8;
    const auto scale = static_cast<float>(uniform_real(0.01, 0.02));
    return add(shape, type, quantised ? std::vector<float>{scale} : std::vector<float>{},
               zero_point(type, 40), 2);
  }

  /// Random weights of `channels` output channels: int8 with a scale for each (or one), uint8 with a zero
  /// point.
  Value& weights(const Shape& shape, DataType type, size_t channel_axis, bool per_channel) {
    std::vector<float> scales;
    if (type == DataType::UInt8) scales = {0.005f};
    if (type == DataType::Int8) {
      scales.resize(per_channel ? shape[channel_axis] : 1);
      for (float& scale : scales) scale = static_cast<float>(uniform_real(0.002, 0.01));
    }
    Value& value =
        add(shape, type, scales, type == DataType::UInt8 ? zero_point(type, 40) : 0, 1, channel_axis);
    return constant(value);
  }

  Value& bias(size_t channels, const Value& x, const Value& w) {
    if (x.tensor.type == DataType::Float32) return constant(add({channels}, DataType::Float32, {}, 0, 1));
    std::vector<float> scales(channels);
    for (size_t c = 0; c < channels; ++c) scales[c] = static_cast<float>(x.scale() * w.scale(c));
    return constant(add({channels}, DataType::Int32, scales, 0, 1, 0));
  }

  Value& constant(Value& value) {
    value.tensor.data = std::shared_ptr<const void>(value.buffer.data(), [](const void*) {});
    return value;
  }

  /// An output that is not compared.
  Value& output(const Shape& shape, DataType type) {
    return output(shape, type, std::vector<double>(piqi::element_count(shape), 4));
  }

  /// An output whose quantisation suits the expected values. Its number is that of the expectation.
  Value& output(const Shape& shape, DataType type, std::vector<double> expected) {
    double largest = 1e-3;
    for (double value : expected) largest = std::max(largest, std::abs(value));
    const bool quantised = type == DataType::Int8 || type == DataType::UInt8;
    return output_like(shape, type, quantised ? static_cast<float>(largest / 90) : 0, zero_point(type, 20),
                       std::move(expected));
  }

  Value& output_like(const Shape& shape, DataType type, float scale, int32_t zero,
                     std::vector<double> expected) {
    outputs_.push_back(std::make_unique<Value>());
    Value& value = *outputs_.back();
    value.tensor.name = "y" + std::to_string(outputs_.size());
    value.tensor.shape = shape;
    value.tensor.type = type;
    if (scale > 0) value.tensor.quantization = {{scale}, zero};
    value.buffer = Buffer(value.tensor.size_bytes());
    value.real = std::move(expected);
    REQUIRE(value.real.size() == piqi::element_count(shape));
    return value;
  }

  std::shared_ptr<piqi::Kernel> make(OperatorKind kind, const OperatorParameters& parameters = {}) {
    graph_ = std::make_unique<piqi::Graph>("test");
    piqi::Operator op;
    op.name = "op";
    op.kind = kind;
    op.parameters = parameters;
    bool any_variable = false;
    for (const auto& value : inputs_) {
      op.inputs.push_back(graph_->add_tensor(value->tensor));
      if (value->tensor.is_constant()) continue;
      graph_->add_input(op.inputs.back());
      any_variable = true;
    }
    REQUIRE(any_variable);
    for (const auto& value : outputs_) op.outputs.push_back(graph_->add_tensor(value->tensor));
    graph_->add_operator(op);
    for (const piqi::TensorId id : op.outputs) graph_->add_output(id);
    graph_->finish();
    return piqi::make_kernel(*graph_, graph_->operators().at(0));
  }

  std::vector<const void*> input_pointers() const {
    std::vector<const void*> pointers;
    for (const auto& value : inputs_)
      if (!value->tensor.is_constant()) pointers.push_back(value->buffer.data());
    return pointers;
  }
  std::vector<void*> output_pointers() const {
    std::vector<void*> pointers;
    for (const auto& value : outputs_) pointers.push_back(value->buffer.data());
    return pointers;
  }

  /// Makes and runs the kernel and compares every output: quantised ones within `steps`, floats within
  /// `tolerance` of the largest expected value.
  void check(OperatorKind kind, const OperatorParameters& parameters = {}, int steps = 1,
             double tolerance = 1e-5) {
    INFO(piqi::to_string(kind) << ", seed " << seed_ << ", " << describe());
    const auto kernel = make(kind, parameters);
    kernel->setup(input_pointers().data(), output_pointers().data(), nullptr);
    kernel->run(nullptr);
    compare(parameters, steps, tolerance);
  }

  void compare(const OperatorParameters& parameters, int steps, double tolerance = 1e-5) const {
    for (const auto& value : outputs_) {
      double worst = 0, bound = steps, largest = 1e-6;
      const bool is_float = value->tensor.type == DataType::Float32;
      for (double expected : value->real) largest = std::max(largest, std::abs(expected));
      if (is_float) bound = tolerance * largest;
      for (size_t i = 0; i < value->real.size(); ++i) {
        const double difference = std::abs(value->stored(i) - expected_stored(*value, i, parameters));
        worst = std::max(worst, std::isfinite(difference) ? difference : 1e30);
      }
      CHECK(value->buffer.is_intact());
      CHECK_MESSAGE(worst <= bound, value->tensor.name << " is off by " << worst << ", allowed " << bound);
    }
  }

  std::string describe() const {
    std::string text;
    for (const auto& value : inputs_)
      text += to_string(value->tensor.type) + to_string(value->tensor.shape) + " ";
    for (const auto& value : outputs_) text += "-> " + to_string(value->tensor.shape);
    return text;
  }

  const std::vector<std::unique_ptr<Value>>& inputs() const { return inputs_; }
  const std::vector<std::unique_ptr<Value>>& outputs() const { return outputs_; }

 private:
  static std::string to_string(DataType type) { return piqi::to_string(type); }
  static std::string to_string(const Shape& shape) { return piqi::to_string(shape); }

  int32_t zero_point(DataType type, int spread) {
    if (type == DataType::Int8) return uniform(-spread, spread);
    if (type == DataType::UInt8) return 128 + uniform(-spread, spread);
    return 0;
  }

  Value& add(const Shape& shape, DataType type, std::vector<float> scales, int32_t zero, double range,
             size_t channel_axis = npos_axis) {
    inputs_.push_back(std::make_unique<Value>());
    Value& value = *inputs_.back();
    value.tensor.name = "x" + std::to_string(inputs_.size());
    value.tensor.shape = shape;
    value.tensor.type = type;
    value.tensor.quantization = {std::move(scales), zero};
    value.buffer = Buffer(value.tensor.size_bytes());
    const size_t count = piqi::element_count(shape);
    value.real.resize(count);
    size_t below = 1;  // elements between two of the channel axis
    for (size_t axis = shape.size(); channel_axis != npos_axis && axis-- > channel_axis + 1;)
      below *= shape[axis];
    for (size_t i = 0; i < count; ++i) {
      uint8_t* const bytes = value.buffer.data();
      switch (type) {
        case DataType::Float32: {
          const auto x = static_cast<float>(uniform_real(-range, range));
          reinterpret_cast<float*>(bytes)[i] = x;
          break;
        }
        case DataType::Int8:
          reinterpret_cast<int8_t*>(bytes)[i] =
              static_cast<int8_t>(uniform(channel_axis == npos_axis ? -128 : -127, 127));
          break;
        case DataType::UInt8:
          bytes[i] = static_cast<uint8_t>(uniform(0, 255));
          break;
        case DataType::Int32:
          reinterpret_cast<int32_t*>(bytes)[i] = uniform(-5000, 5000);
          break;
      }
      const size_t channel = channel_axis == npos_axis ? 0 : i / below % shape[channel_axis];
      value.real[i] = value.scale(channel) * (value.stored(i) - zero);
    }
    return value;
  }

  static double expected_stored(const Value& value, size_t i, const OperatorParameters& p) {
    const double clamped =
        std::min(std::max(value.real[i], static_cast<double>(p.clamp_min)), static_cast<double>(p.clamp_max));
    if (value.tensor.type == DataType::Float32 || value.tensor.type == DataType::Int32) return clamped;
    const double lowest = value.tensor.type == DataType::Int8 ? -128 : 0;
    const double rounded = std::nearbyint(clamped / value.scale()) + value.tensor.quantization.zero_point;
    return std::min(std::max(rounded, lowest), lowest + 255);
  }

  static constexpr size_t npos_axis = piqi::npos;

  uint32_t seed_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<Value>> inputs_, outputs_;
  std::unique_ptr<piqi::Graph> graph_;
};

/// Real values by index, row-major.
inline double at(const Value& value, size_t n, size_t h, size_t w, size_t c) {
  const Shape& s = value.tensor.shape;
  return value.real[((n * s[1] + h) * s[2] + w) * s[3] + c];
}

}  // namespace piqi_test
