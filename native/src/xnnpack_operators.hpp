// XNNPACK's operators in the two generations of its interface that distributions have.
//
// 2022 (Debian 12, Ubuntu 24.04): create and setup, a function for each operator and type.
// 2024 (Debian 13, Ubuntu 25.04): create, reshape and setup; one function for all unary operators and one for
// all binary ones, which no longer clamp; sizes that were given to create are given to reshape.
#pragma once

#include <optional>

#include "kernel_xnnpack.hpp"

#if defined(XNN_FLAG_KEEP_DIMS)  // its header has no version
#define PIQI_XNNPACK_2024 1
#else
#define PIQI_XNNPACK_2024 0
#endif

namespace piqi {

#if PIQI_XNNPACK_2024

template <typename Reshape, typename Setup>
struct XnnBinding {
  Reshape* reshape;
  Setup* setup;
};
#define PIQI_XNN_SETUP(name) \
  (XnnBinding<decltype(xnn_reshape_##name), decltype(xnn_setup_##name)>{xnn_reshape_##name, xnn_setup_##name})

/// What an operator was last reshaped for, and the memory that it works in.
struct XnnShape {
  std::optional<pthreadpool_t> pool;
  size_t workspace_bytes = 0;
  std::unique_ptr<AlignedBuffer> workspace;
};

/// Setup of an operator with one input and one output: reshape(op, sizes..., [workspace's size and
/// alignment,] [output's height and width,] pool), then setup(op, [workspace,] input, output).
template <typename T, typename Reshape, typename Setup, typename... Sizes>
XnnSetup xnn_setup(XnnBinding<Reshape, Setup> binding, Sizes... sizes) {
  return [binding, sizes..., shape = std::make_shared<XnnShape>()](
             xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
    constexpr bool works = std::is_invocable_v<Setup, xnn_operator_t, void*, const T*, T*>;
    if (shape->pool != pool) {
      size_t bytes = 0, alignment = 1, height, width;
      xnn_status status;
      if constexpr (std::is_invocable_v<Reshape, xnn_operator_t, Sizes..., pthreadpool_t>) {
        status = binding.reshape(op, sizes..., pool);
      } else if constexpr (!works) {
        status = binding.reshape(op, sizes..., &height, &width, pool);
      } else if constexpr (std::is_invocable_v<Reshape, xnn_operator_t, Sizes..., size_t*, size_t*,
                                               pthreadpool_t>) {
        status = binding.reshape(op, sizes..., &bytes, &alignment, pool);
      } else {
        status = binding.reshape(op, sizes..., &bytes, &alignment, &height, &width, pool);
      }
      if (status != xnn_status_success) return status;
      if (alignment > AlignedBuffer::alignment) return xnn_status_unsupported_parameter;
      if (bytes > shape->workspace_bytes) {
        shape->workspace = std::make_unique<AlignedBuffer>(bytes);
        shape->workspace_bytes = bytes;
      }
      shape->pool = pool;
    }
    const auto* const input = static_cast<const T*>(inputs[0]);
    auto* const output = static_cast<T*>(outputs[0]);
    if constexpr (works) {
      return binding.setup(op, shape->workspace ? shape->workspace->data() : nullptr, input, output);
    } else {
      return binding.setup(op, input, output);
    }
  };
}

#else

#define PIQI_XNN_SETUP(name) xnn_setup_##name
#define xnn_create_convolution2d_nhwc_qs8_qc8w xnn_create_convolution2d_nhwc_qc8
#define xnn_setup_convolution2d_nhwc_qs8_qc8w xnn_setup_convolution2d_nhwc_qc8

/// Setup of an operator with one input and one output: setup(op, sizes..., input, output, pool).
template <typename T, typename Function, typename... Sizes>
XnnSetup xnn_setup(Function* setup, Sizes... sizes) {
  return [setup, sizes...](xnn_operator_t op, const void* const* inputs, void* const* outputs,
                           pthreadpool_t pool) {
    return setup(op, sizes..., static_cast<const T*>(inputs[0]), static_cast<T*>(outputs[0]), pool);
  };
}

#endif

/// Calls create(arguments..., [caches,] op): between the two generations, and after them, operators with
/// weights can share them by caches, which are ours to keep.
template <typename Create, typename... Arguments>
xnn_status xnn_create_packed(Create* create, xnn_operator_t* op, Arguments... arguments) {
  if constexpr (std::is_invocable_v<Create, Arguments..., xnn_operator_t*>) {
    return create(arguments..., op);
  } else if constexpr (std::is_invocable_v<Create, Arguments..., std::nullptr_t, xnn_operator_t*>) {
    return create(arguments..., nullptr, op);
  } else {
    return create(arguments..., nullptr, nullptr, op);
  }
}

// What follows has the same meaning in both. `x`, `y`: input's and output's shape, NHWC.

XnnOperator xnn_average_pool(const OperatorParameters& p, const Shape& x);
/// `T`: float, int8_t, uint8_t; results are clamped to [lowest, highest].
template <typename T>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, T lowest, T highest);
/// Mean over height and width; nothing where XNNPACK has no such operator.
std::optional<XnnOperator> xnn_global_average(const OperatorParameters& p, const Shape& x);
template <typename T>
XnnOperator xnn_resize_bilinear(uint32_t flags, const Shape& x, const Shape& y);
XnnOperator xnn_softmax(size_t rows, size_t depth);
/// Logistic, Clamp, LeakyRelu, HardSwish of `size` floats.
XnnOperator xnn_unary(OperatorKind kind, const OperatorParameters& p, size_t size);
/// `T`: int8_t, uint8_t.
template <typename T>
XnnOperator xnn_quantize(const Affine& to, size_t size);
template <typename T>
XnnOperator xnn_dequantize(const Affine& from, size_t size);
/// Add, Subtract or Multiply, with broadcasting, in the type of the operands.
XnnOperator xnn_binary(const OperatorView& view);

}  // namespace piqi
