// What the kernels share: a view of an operator's tensors, 8-bit arithmetic, bound buffers, parallel loops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "piqi/aligned_buffer.hpp"
#include "piqi/kernel.hpp"

namespace piqi {

/// real = scale * (stored - zero_point), stored in [lowest, highest].
struct Affine {
  double scale = 1;
  int32_t zero_point = 0;
  int32_t lowest = 0, highest = 0;

  double real(int32_t stored) const { return scale * (stored - zero_point); }

  /// Nearest stored value, ties to even, saturating.
  int32_t stored(double real) const {
    // NaN takes the lower bound: std::max keeps its first argument when the comparison fails.
    const double offset =
        std::max<double>(lowest - zero_point, std::min<double>(real / scale, highest - zero_point));
    // Adding 1.5 * 2^52 leaves no bits for a fraction: the FPU rounds. Vectorises, unlike nearbyint().
    constexpr double shift = 6755399441055744.0;
    return static_cast<int32_t>((offset + shift) - shift) + zero_point;
  }
};

/// An operator with its tensors at hand.
struct OperatorView {
  const Graph& graph;
  const Operator& op;

  const OperatorParameters& parameters() const { return op.parameters; }
  size_t input_count() const { return op.inputs.size(); }
  const Tensor& input(size_t i) const { return graph.tensor(op.inputs.at(i)); }
  const Tensor& output(size_t i = 0) const { return graph.tensor(op.outputs.at(i)); }
  bool has_input(size_t i) const { return i < op.inputs.size() && op.inputs[i] != npos; }
  DataType type() const { return input(0).type; }
  bool is_float() const { return type() == DataType::Float32; }
  bool is_8bit() const { return type() == DataType::Int8 || type() == DataType::UInt8; }

  std::string label() const { return std::string(to_string(op.kind)) + " '" + op.name + "'"; }
  [[noreturn]] void unsupported(const std::string& why) const {
    throw UnsupportedError(label() + ": " + why);
  }
  /// Throws UnsupportedError unless the first `inputs` inputs and all outputs have the type of input 0.
  void require_same_types(size_t inputs) const;
  /// Quantisation of an 8-bit tensor. Throws UnsupportedError unless it has one scale and a fitting zero
  /// point.
  Affine affine(const Tensor& tensor) const;
  /// The operator's clamp as stored values of its output.
  Affine clamped_output() const;
};

/// A kernel that keeps the pointers it was set up with, and owns copies of constant operands.
class BoundKernel : public Kernel {
 public:
  void setup(const void* const* inputs, void* const* outputs, pthreadpool_t pool) override;
  size_t memory_bytes() const override;

 protected:
  /// The operator's first `operands` inputs are bound; those behind them (weights, bias) are the subclass's.
  BoundKernel(const OperatorView& view, size_t operands);

  template <typename T>
  const T* input(size_t i = 0) const {
    return static_cast<const T*>(inputs_[i]);
  }
  template <typename T>
  T* output(size_t i = 0) const {
    return static_cast<T*>(outputs_[i]);
  }
  const void* const* inputs() const { return inputs_.data(); }
  void* const* outputs() const { return outputs_.data(); }

 private:
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
  std::vector<size_t> variable_;  // positions in inputs_ that setup() fills
  std::vector<AlignedBuffer> constants_;
};

/// Below this many bytes of work, waking a pool costs more than it saves.
constexpr size_t parallel_bytes = 64 * 1024;

/// Calls body(begin, count) for tiles of [0, range), in the pool or (nullptr) here. Never allocates.
template <typename Body>
void parallel_for(pthreadpool_t pool, size_t range, size_t tile, const Body& body) {
  pthreadpool_parallelize_1d_tile_1d(
      pool,
      [](void* context, size_t begin, size_t count) { (*static_cast<const Body*>(context))(begin, count); },
      const_cast<Body*>(&body), range, std::max<size_t>(tile, 1), 0);
}

/// 256 stored outputs, indexed by the stored input's bits; empty: identity.
using LookupTable = std::vector<uint8_t>;

template <typename Function>
LookupTable make_table(const Affine& in, const Affine& out, const Function& function) {
  LookupTable table(256);
  for (int32_t stored = in.lowest; stored <= in.highest; ++stored) {
    table[static_cast<uint8_t>(stored)] = static_cast<uint8_t>(out.stored(function(in.real(stored))));
  }
  return table;
}

/// Table that changes `from`'s quantisation to `to`'s; empty where nothing changes (or nothing is quantised).
LookupTable requantization_table(const OperatorView& view, const Tensor& from, const Tensor& to);

void copy_through(const LookupTable& table, const uint8_t* source, uint8_t* destination, size_t size);

inline size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// One factory for each family of operators; make_kernel() chooses.
std::shared_ptr<Kernel> make_convolution(const OperatorView& view);
std::shared_ptr<Kernel> make_transpose_convolution(const OperatorView& view);
/// Of int8 with a weight scale for each channel.
std::shared_ptr<Kernel> make_exact_transpose_convolution(const OperatorView& view);
std::shared_ptr<Kernel> make_fully_connected(const OperatorView& view);
/// float32 [rows, depth] by the weights (input 1) [columns, depth]. nullptr without AVX-512: XNNPACK's turn.
std::shared_ptr<Kernel> make_pointwise(const OperatorView& view, size_t rows, size_t depth, size_t columns);
/// The same in int8 or uint8. nullptr without VNNI: XNNPACK's turn.
std::shared_ptr<Kernel> make_pointwise_int8(const OperatorView& view, size_t rows, size_t depth,
                                            size_t columns);
/// float32, 3x3, no strides, one output a channel. nullptr for others and without AVX-512: XNNPACK's turn.
std::shared_ptr<Kernel> make_depthwise(const OperatorView& view);
std::shared_ptr<Kernel> make_binary(const OperatorView& view);
std::shared_ptr<Kernel> make_unary(const OperatorView& view);
std::shared_ptr<Kernel> make_lookup(const OperatorView& view);
std::shared_ptr<Kernel> make_convert(const OperatorView& view);
std::shared_ptr<Kernel> make_pool(const OperatorView& view);
std::shared_ptr<Kernel> make_mean(const OperatorView& view);
std::shared_ptr<Kernel> make_block_copy(const OperatorView& view);  // Concat, Split, Reshape
std::shared_ptr<Kernel> make_gather(const OperatorView& view);      // StridedSlice, Pad, ResizeNearest
std::shared_ptr<Kernel> make_resize_bilinear(const OperatorView& view);
std::shared_ptr<Kernel> make_softmax(const OperatorView& view);
std::shared_ptr<Kernel> make_local_response_normalization(const OperatorView& view);

}  // namespace piqi
