#include "shape_rules.hpp"

#include <algorithm>
#include <string>

namespace piqi {
namespace {

class Checker {
 public:
  Checker(const Graph& graph, const Operator& op) : graph_(graph), op_(op), p_(op.parameters) {}

  void check() const {
    switch (op_.kind) {
      case OperatorKind::Conv2d:
      case OperatorKind::DepthwiseConv2d:
      case OperatorKind::TransposeConv2d:
        return convolution();
      case OperatorKind::FullyConnected:
        return fully_connected();
      case OperatorKind::Add:
      case OperatorKind::Subtract:
      case OperatorKind::Multiply:
        return binary();
      case OperatorKind::Concat:
        return concat();
      case OperatorKind::Split:
        return split();
      case OperatorKind::MaxPool2d:
      case OperatorKind::AveragePool2d:
        return pool();
      case OperatorKind::Mean:
        return mean();
      case OperatorKind::Pad:
        return pad();
      case OperatorKind::Reshape:
        arity(1, 1, 1);
        same_type(in(0));
        return require(element_count(in(0).shape) == element_count(out(0).shape),
                       "cannot reshape " + to_string(in(0).shape) + " to " + to_string(out(0).shape));
      case OperatorKind::ResizeNearest:
      case OperatorKind::ResizeBilinear:
        arity(1, 1, 1);
        rank(in(0), 4);
        rank(out(0), 4);
        return require(in(0).shape[0] == out(0).shape[0] && in(0).shape[3] == out(0).shape[3],
                       "batch and channels must not change");
      case OperatorKind::StridedSlice:
        return strided_slice();
      case OperatorKind::LocalResponseNormalization:
        require(p_.radius <= 1024, "radius " + std::to_string(p_.radius) + " is above 1024");
        return unary();
      case OperatorKind::Softmax:
      case OperatorKind::Logistic:
      case OperatorKind::Tanh:
      case OperatorKind::Clamp:
      case OperatorKind::LeakyRelu:
      case OperatorKind::HardSwish:
      case OperatorKind::Quantize:
      case OperatorKind::Dequantize:
        return unary();
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw GraphError(std::string(to_string(op_.kind)) + " '" + op_.name + "': " + what);
  }
  void require(bool condition, const std::string& what) const {
    if (!condition) fail(what);
  }
  const Tensor& in(size_t i) const { return graph_.tensor(op_.inputs[i]); }
  const Tensor& out(size_t i) const { return graph_.tensor(op_.outputs[i]); }

  void arity(size_t least, size_t most, size_t outputs) const {
    require(op_.inputs.size() >= least && op_.inputs.size() <= most && op_.outputs.size() == outputs,
            std::to_string(op_.inputs.size()) + " inputs and " + std::to_string(op_.outputs.size()) +
                " outputs are not what it takes");
    require(p_.clamp_min < p_.clamp_max, "clamp_min is not below clamp_max");
  }
  void rank(const Tensor& tensor, size_t rank) const {
    require(tensor.shape.size() == rank, "'" + tensor.name + "' has shape " + to_string(tensor.shape) +
                                             ", expected " + std::to_string(rank) + " dimensions");
  }
  void shape(const Tensor& tensor, const Shape& expected) const {
    require(tensor.shape == expected, "'" + tensor.name + "' has shape " + to_string(tensor.shape) +
                                          ", expected " + to_string(expected));
  }

  // Pads, kernels and strides of real networks are small; a bound keeps the arithmetic below from
  // overflowing.
  static constexpr size_t max_extent = size_t{1} << 20;

  size_t window(size_t input, size_t before, size_t after, size_t kernel, size_t stride,
                size_t dilation) const {
    for (size_t value : {before, after, kernel, stride, dilation})
      require(value <= max_extent, "parameter " + std::to_string(value) + " is too large");
    require(kernel > 0 && stride > 0 && dilation > 0, "kernel, stride and dilation must be positive");
    const size_t span = (kernel - 1) * dilation + 1;
    require(input + before + after >= span, "its window is larger than its padded input");
    return (input + before + after - span) / stride + 1;
  }

  void weights(const Tensor& w, size_t channels) const {
    require(w.is_constant(), "weights '" + w.name + "' are not constant");
    require(w.quantization.scales.size() <= 1 || w.quantization.scales.size() == channels,
            "'" + w.name + "' has " + std::to_string(w.quantization.scales.size()) + " scales for " +
                std::to_string(channels) + " channels");
    require(w.type == in(0).type && out(0).type == in(0).type, std::string("types ") + to_string(in(0).type) +
                                                                   " x " + to_string(w.type) + " -> " +
                                                                   to_string(out(0).type) + " do not fit");
    if (op_.inputs.size() == 3) {
      const Tensor& bias = in(2);
      require(bias.is_constant() && element_count(bias.shape) == channels,
              "bias '" + bias.name + "' " + to_string(bias.shape) + " does not fit " +
                  std::to_string(channels) + " channels");
      require(bias.type == (in(0).type == DataType::Float32 ? DataType::Float32 : DataType::Int32),
              "bias '" + bias.name + "' is " + to_string(bias.type));
    }
  }

  void convolution() const {
    arity(2, 3, 1);
    for (const Tensor* tensor : {&in(0), &in(1), &out(0)}) rank(*tensor, 4);
    const Shape& x = in(0).shape;
    const Shape& w = in(1).shape;
    const Shape& y = out(0).shape;
    const bool depthwise = op_.kind == OperatorKind::DepthwiseConv2d;
    const size_t channels = depthwise ? w[3] : w[0];
    weights(in(1), channels);
    if (op_.kind == OperatorKind::TransposeConv2d) {
      require(w[3] == x[3], "weights " + to_string(w) + " do not fit input " + to_string(x));
      // The output of a transposed convolution is the input of the forward one.
      shape(in(0), {y[0], window(y[1], p_.pad_top, p_.pad_bottom, w[1], p_.stride_height, 1),
                    window(y[2], p_.pad_left, p_.pad_right, w[2], p_.stride_width, 1), w[3]});
      return require(y[3] == channels, "output " + to_string(y) + " does not fit weights " + to_string(w));
    }
    if (depthwise) {
      require(w[0] == 1 && channels % x[3] == 0,
              "weights " + to_string(w) + " do not fit input " + to_string(x));
    } else {
      require(p_.groups > 0 && x[3] % p_.groups == 0 && channels % p_.groups == 0 && w[3] == x[3] / p_.groups,
              "weights " + to_string(w) + " in " + std::to_string(p_.groups) + " groups do not fit input " +
                  to_string(x));
    }
    shape(out(0),
          {x[0], window(x[1], p_.pad_top, p_.pad_bottom, w[1], p_.stride_height, p_.dilation_height),
           window(x[2], p_.pad_left, p_.pad_right, w[2], p_.stride_width, p_.dilation_width), channels});
  }

  void fully_connected() const {
    arity(2, 3, 1);
    rank(in(1), 2);
    weights(in(1), in(1).shape[0]);
    const size_t elements = element_count(in(0).shape);
    require(elements % in(1).shape[1] == 0,
            "input " + to_string(in(0).shape) + " does not fit weights " + to_string(in(1).shape));
    const size_t rows = elements / in(1).shape[1];
    require(!out(0).shape.empty() && out(0).shape.back() == in(1).shape[0] &&
                element_count(out(0).shape) == rows * in(1).shape[0],
            "output " + to_string(out(0).shape) + " does not fit weights " + to_string(in(1).shape));
  }

  void binary() const {
    arity(2, 2, 1);
    const Shape& a = in(0).shape;
    const Shape& b = in(1).shape;
    Shape expected(std::max(a.size(), b.size()));
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t x = i < a.size() ? a[a.size() - 1 - i] : 1;
      const size_t y = i < b.size() ? b[b.size() - 1 - i] : 1;
      require(x == y || x == 1 || y == 1, to_string(a) + " and " + to_string(b) + " do not broadcast");
      expected[expected.size() - 1 - i] = x == 1 ? y : x;
    }
    shape(out(0), expected);
    same_type(in(0));
    same_type(in(1));
  }

  void same_type(const Tensor& tensor) const {
    require(tensor.type == out(0).type, "'" + tensor.name + "' is " + to_string(tensor.type) + ", '" +
                                            out(0).name + "' is " + to_string(out(0).type));
  }

  void concat() const {
    arity(1, 1024, 1);
    require(p_.axis < out(0).shape.size(), "axis " + std::to_string(p_.axis) + " is out of range");
    size_t total = 0;
    for (size_t i = 0; i < op_.inputs.size(); ++i) {
      Shape expected = out(0).shape;
      rank(in(i), expected.size());
      expected[p_.axis] = in(i).shape[p_.axis];
      total += expected[p_.axis];
      shape(in(i), expected);
      same_type(in(i));
    }
    require(total == out(0).shape[p_.axis], "the inputs do not add up to " + to_string(out(0).shape));
  }

  void split() const {
    arity(1, 1, op_.outputs.size());
    require(p_.axis < in(0).shape.size(), "axis " + std::to_string(p_.axis) + " is out of range");
    size_t total = 0;
    for (size_t i = 0; i < op_.outputs.size(); ++i) {
      Shape expected = in(0).shape;
      rank(out(i), expected.size());
      expected[p_.axis] = out(i).shape[p_.axis];
      total += expected[p_.axis];
      shape(out(i), expected);
      require(out(i).type == in(0).type, "output '" + out(i).name + "' is of another type");
    }
    require(total == in(0).shape[p_.axis], "the outputs do not add up to " + to_string(in(0).shape));
  }

  void pool() const {
    arity(1, 1, 1);
    rank(in(0), 4);
    same_type(in(0));
    const Shape& x = in(0).shape;
    require(p_.pad_top < p_.kernel_height && p_.pad_bottom < p_.kernel_height &&
                p_.pad_left < p_.kernel_width && p_.pad_right < p_.kernel_width,
            "padding is not smaller than the kernel");
    shape(out(0), {x[0], window(x[1], p_.pad_top, p_.pad_bottom, p_.kernel_height, p_.stride_height, 1),
                   window(x[2], p_.pad_left, p_.pad_right, p_.kernel_width, p_.stride_width, 1), x[3]});
  }

  void mean() const {
    arity(1, 1, 1);
    same_type(in(0));
    Shape kept, dropped;
    for (size_t i = 0; i < in(0).shape.size(); ++i) {
      const bool reduced = std::find(p_.axes.begin(), p_.axes.end(), i) != p_.axes.end();
      kept.push_back(reduced ? 1 : in(0).shape[i]);
      if (!reduced) dropped.push_back(in(0).shape[i]);
    }
    for (size_t axis : p_.axes)
      require(axis < in(0).shape.size(), "axis " + std::to_string(axis) + " is out of range");
    require(out(0).shape == kept || out(0).shape == dropped,
            "output " + to_string(out(0).shape) + " does not fit input " + to_string(in(0).shape));
  }

  void pad() const {
    arity(1, 1, 1);
    same_type(in(0));
    const Shape& x = in(0).shape;
    require(p_.pad_before.size() == x.size() && p_.pad_after.size() == x.size(),
            "pad_before and pad_after need " + std::to_string(x.size()) + " entries");
    Shape expected = x;
    for (size_t i = 0; i < x.size(); ++i) {
      require(p_.pad_before[i] <= max_extent && p_.pad_after[i] <= max_extent, "padding is too large");
      expected[i] += p_.pad_before[i] + p_.pad_after[i];
    }
    shape(out(0), expected);
  }

  void strided_slice() const {
    arity(1, 1, 1);
    same_type(in(0));
    const Shape& x = in(0).shape;
    require(p_.begin.size() == x.size() && p_.size.size() == x.size() && p_.strides.size() == x.size(),
            "begin, size and strides need " + std::to_string(x.size()) + " entries");
    for (size_t i = 0; i < x.size(); ++i) {
      require(p_.strides[i] != 0 && p_.size[i] > 0 && p_.begin[i] < x[i] && p_.size[i] <= x[i],
              "slice of dimension " + std::to_string(i) + " is empty or out of range");
      const int64_t bound = static_cast<int64_t>(max_elements_in_slice);
      require(p_.strides[i] >= -bound && p_.strides[i] <= bound, "stride is too large");
      const int64_t last =
          static_cast<int64_t>(p_.begin[i]) + static_cast<int64_t>(p_.size[i] - 1) * p_.strides[i];
      require(last >= 0 && last < static_cast<int64_t>(x[i]),
              "slice of dimension " + std::to_string(i) + " ends outside of the input");
    }
    require(element_count(p_.size) == element_count(out(0).shape),
            "output " + to_string(out(0).shape) + " does not fit size " + to_string(p_.size));
  }
  static constexpr size_t max_elements_in_slice = size_t{1} << 31;

  void unary() const {
    arity(1, 1, 1);
    shape(out(0), in(0).shape);
    if (op_.kind == OperatorKind::Quantize) {
      require(out(0).type == DataType::Int8 || out(0).type == DataType::UInt8, "output is not quantised");
    } else if (op_.kind == OperatorKind::Dequantize) {
      require(out(0).type == DataType::Float32 && in(0).type != DataType::Float32,
              "does not turn a quantised tensor into float32");
    } else {
      same_type(in(0));
    }
  }

  const Graph& graph_;
  const Operator& op_;
  const OperatorParameters& p_;
};

}  // namespace

void check_shapes(const Graph& graph, const Operator& op) {
  Checker(graph, op).check();
}

}  // namespace piqi
