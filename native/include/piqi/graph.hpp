// The network: tensors (NHWC, dense, row-major), constant weights, operators in topological order, layers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "piqi/error.hpp"

namespace piqi {

enum class DataType { Float32, Int8, UInt8, Int32 };

size_t size_of(DataType type);
const char* to_string(DataType type);

using Shape = std::vector<size_t>;
size_t element_count(const Shape& shape);
std::string to_string(const Shape& shape);

/// real = scale * (stored - zero_point). `scales` has one entry, or one for each output channel of a weight
/// (then zero_point is 0); empty: not quantised.
struct Quantization {
  std::vector<float> scales;
  int32_t zero_point = 0;
  bool operator==(const Quantization& other) const {
    return scales == other.scales && zero_point == other.zero_point;
  }
};

using TensorId = size_t;
using OperatorId = size_t;
constexpr size_t npos = std::numeric_limits<size_t>::max();

struct Tensor {
  std::string name;
  Shape shape;
  DataType type = DataType::Float32;
  Quantization quantization;
  std::shared_ptr<const void>
      data;                    // constants only; may alias memory that someone else keeps (a mapped file)
  OperatorId producer = npos;  // npos: graph input or constant
  std::vector<OperatorId> consumers;

  bool is_constant() const { return data != nullptr; }
  size_t size_bytes() const { return element_count(shape) * size_of(type); }
};

/// Tensors an operator takes and its parameters are those of TensorFlow Lite, after folding: explicit
/// padding, fused activations as a clamp, slices as begin/size/stride.
enum class OperatorKind {
  Conv2d,           // x, weights [O, KH, KW, I/groups], optional bias [O]
  DepthwiseConv2d,  // x, weights [1, KH, KW, C * multiplier], optional bias
  TransposeConv2d,  // x, weights [O, KH, KW, I], optional bias; padding is that of the forward convolution
  FullyConnected,   // x (flattened to [N, I]), weights [O, I], optional bias
  Add,              // a, b; NumPy broadcasting; clamp
  Subtract,
  Multiply,
  Concat,  // axis
  Split,   // axis; the outputs' shapes give the sizes
  MaxPool2d,
  AveragePool2d,  // padding does not count
  Mean,           // axes
  Pad,            // pad_before, pad_after, pad_value
  Reshape,        // also squeeze, expand_dims, flatten
  Softmax,        // last axis; beta
  Logistic,
  Tanh,
  Clamp,      // relu, relu6, relu_n1_to_1
  LeakyRelu,  // alpha
  HardSwish,
  ResizeNearest,
  ResizeBilinear,
  Quantize,  // also requantise
  Dequantize,
  StridedSlice,                // begin, size, strides
  LocalResponseNormalization,  // radius, bias, alpha, beta: x / (bias + alpha * sum of squares) ^ beta
};

const char* to_string(OperatorKind kind);
OperatorKind operator_kind(const std::string& name);  // "conv2d", ...; throws UnsupportedError

struct OperatorParameters {
  size_t stride_height = 1, stride_width = 1;
  size_t dilation_height = 1, dilation_width = 1;
  size_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  size_t kernel_height = 0, kernel_width = 0;  // pools
  size_t groups = 1;                           // Conv2d
  float clamp_min = -std::numeric_limits<float>::infinity();
  float clamp_max = std::numeric_limits<float>::infinity();
  size_t axis = 0;           // Concat, Split
  std::vector<size_t> axes;  // Mean
  float alpha = 0, beta = 1, bias = 0;
  size_t radius = 0;
  bool align_corners = false, half_pixel_centers = false;
  std::vector<size_t> pad_before, pad_after;  // Pad
  float pad_value = 0;
  std::vector<size_t> begin, size;  // StridedSlice
  std::vector<int64_t> strides;
};

struct Operator {
  std::string name;
  OperatorKind kind;
  std::vector<TensorId> inputs;
  std::vector<TensorId> outputs;
  OperatorParameters parameters;
  size_t layer = 0;
};

/// Built once, then immutable: add tensors and operators in topological order, then call finish().
class Graph {
 public:
  explicit Graph(std::string name) : name_(std::move(name)) {}

  TensorId add_tensor(Tensor tensor);
  OperatorId add_operator(Operator op);
  void add_input(TensorId tensor);
  void add_output(TensorId tensor);
  /// Checks the whole: shapes fit the operators, layers rise along every edge, all is reachable. Throws
  /// GraphError.
  void finish();

  const std::string& name() const { return name_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<Operator>& operators() const { return operators_; }
  const Tensor& tensor(TensorId id) const { return tensors_.at(id); }
  TensorId find_tensor(const std::string& name) const;  // throws GraphError
  const std::vector<TensorId>& inputs() const { return inputs_; }
  const std::vector<TensorId>& outputs() const { return outputs_; }
  size_t layer_count() const { return layer_count_; }
  bool finished() const { return finished_; }

 private:
  std::string name_;
  std::vector<Tensor> tensors_;
  std::vector<Operator> operators_;
  std::unordered_map<std::string, TensorId> by_name_;
  std::vector<TensorId> inputs_, outputs_;
  size_t layer_count_ = 0;
  bool finished_ = false;
};

}  // namespace piqi
