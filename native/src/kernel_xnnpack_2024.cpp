// XNNPACK's operators by the interface of 2024.
#include "xnnpack_operators.hpp"

#if PIQI_XNNPACK_2024

namespace piqi {
namespace {

template <typename T>
constexpr xnn_datatype datatype = std::is_same_v<T, float>    ? xnn_datatype_fp32
                                  : std::is_same_v<T, int8_t> ? xnn_datatype_qint8
                                                              : xnn_datatype_quint8;

xnn_quantization_params quantization(const Affine& affine) {
  return {affine.zero_point, static_cast<float>(affine.scale)};
}

template <typename T, typename Create, typename Binding>
XnnOperator max_pool(Create* create, Binding binding, const OperatorParameters& p, const Shape& x, T lowest,
                     T highest) {
  return {[=, &p](xnn_operator_t* op) {
            return create(u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left),
                          u32(p.kernel_height), u32(p.kernel_width), u32(p.stride_height),
                          u32(p.stride_width), 1, 1, lowest, highest, 0, op);
          },
          xnn_setup<T>(binding, x[0], x[1], x[2], x[3], x[3], x[3])};
}

template <typename T, typename Create, typename Binding>
XnnOperator resize(Create* create, Binding binding, uint32_t flags, const Shape& x, const Shape& y) {
  return {[=, height = y[1], width = y[2]](xnn_operator_t* op) { return create(height, width, flags, op); },
          xnn_setup<T>(binding, x[0], x[1], x[2], x[3], x[3], x[3])};
}

/// From `In` to `Out`; without quantisation where these are floats.
template <typename In, typename Out>
XnnOperator unary(xnn_unary_operator kind, size_t size, xnn_unary_params parameters = {},
                  xnn_quantization_params from = {}, xnn_quantization_params to = {}) {
  return {[=](xnn_operator_t* op) {
            return xnn_create_unary_elementwise_nc(kind, datatype<In>, datatype<Out>, &parameters, &from, &to,
                                                   0, op);
          },
          [size, known = std::make_shared<std::optional<pthreadpool_t>>()](
              xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
            if (*known != pool) {
              const xnn_status status = xnn_reshape_unary_elementwise_nc(op, size, 1, 1, 1, pool);
              if (status != xnn_status_success) return status;
              *known = pool;
            }
            return xnn_setup_unary_elementwise_nc(op, inputs[0], outputs[0]);
          }};
}

template <typename T>
XnnOperator binary(const OperatorView& view) {
  const xnn_binary_operator kind = view.op.kind == OperatorKind::Add        ? xnn_binary_add
                                   : view.op.kind == OperatorKind::Subtract ? xnn_binary_subtract
                                                                            : xnn_binary_multiply;
  XnnOperator result;
  xnn_quantization_params a{}, b{}, out{};
  if constexpr (std::is_same_v<T, float>) {
    result.clamp_min = view.parameters().clamp_min, result.clamp_max = view.parameters().clamp_max;
    if (result.clamp_min >= result.clamp_max) check_xnnpack(xnn_status_invalid_parameter, view.label());
  } else {
    const Affine whole = view.affine(view.output()), clamped = view.clamped_output();
    a = quantization(view.affine(view.input(0))), b = quantization(view.affine(view.input(1)));
    out = quantization(whole);
    if (clamped.lowest >= clamped.highest) check_xnnpack(xnn_status_invalid_parameter, view.label());
    if (clamped.lowest > whole.lowest || clamped.highest < whole.highest) {
      for (int32_t i = 0; i < 256; ++i) {
        const int32_t stored = static_cast<T>(i);
        result.table.push_back(
            static_cast<uint8_t>(std::min(std::max(stored, clamped.lowest), clamped.highest)));
      }
    }
  }
  result.create = [=](xnn_operator_t* op) {
    // The generation before refuses these ratios of scales, this one aborts at them.
    const bool multiply = kind == xnn_binary_multiply;
    const float least = multiply ? 0x1p-16f : 0x1p-10f;
    for (const float scale : {a.scale * (multiply ? b.scale : 1), b.scale * (multiply ? a.scale : 1)}) {
      const float ratio = scale / out.scale;
      if (!std::is_same_v<T, float> && !(ratio >= least && ratio < 0x1p+8f))
        return xnn_status_unsupported_parameter;
    }
    return xnn_create_binary_elementwise_nd(kind, datatype<T>, &a, &b, &out, 0, op);
  };
  result.setup = [x = view.input(0).shape, y = view.input(1).shape,
                  known = std::make_shared<std::optional<pthreadpool_t>>()](
                     xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
    if (*known != pool) {
      const xnn_status status =
          xnn_reshape_binary_elementwise_nd(op, x.size(), x.data(), y.size(), y.data(), pool);
      if (status != xnn_status_success) return status;
      *known = pool;
    }
    return xnn_setup_binary_elementwise_nd(op, inputs[0], inputs[1], outputs[0]);
  };
  return result;
}

}  // namespace

XnnOperator xnn_average_pool(const OperatorParameters& p, const Shape& x) {
  return {[&p](xnn_operator_t* op) {
            return xnn_create_average_pooling2d_nhwc_f32(
                u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left), u32(p.kernel_height),
                u32(p.kernel_width), u32(p.stride_height), u32(p.stride_width), p.clamp_min, p.clamp_max, 0,
                op);
          },
          xnn_setup<float>(PIQI_XNN_SETUP(average_pooling2d_nhwc_f32), x[0], x[1], x[2], x[3], x[3], x[3])};
}

template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, float lowest, float highest) {
  return max_pool(xnn_create_max_pooling2d_nhwc_f32, PIQI_XNN_SETUP(max_pooling2d_nhwc_f32), p, x, lowest,
                  highest);
}
template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, int8_t lowest, int8_t highest) {
  return max_pool(xnn_create_max_pooling2d_nhwc_s8, PIQI_XNN_SETUP(max_pooling2d_nhwc_s8), p, x, lowest,
                  highest);
}
template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, uint8_t lowest, uint8_t highest) {
  return max_pool(xnn_create_max_pooling2d_nhwc_u8, PIQI_XNN_SETUP(max_pooling2d_nhwc_u8), p, x, lowest,
                  highest);
}

std::optional<XnnOperator> xnn_global_average(const OperatorParameters&, const Shape&) {
  return std::nullopt;  // a reduction over any axes by now, as ours is
}

template <>
XnnOperator xnn_resize_bilinear<float>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<float>(xnn_create_resize_bilinear2d_nhwc_f32, PIQI_XNN_SETUP(resize_bilinear2d_nhwc_f32),
                       flags, x, y);
}
template <>
XnnOperator xnn_resize_bilinear<int8_t>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<int8_t>(xnn_create_resize_bilinear2d_nhwc_s8, PIQI_XNN_SETUP(resize_bilinear2d_nhwc_s8),
                        flags, x, y);
}
template <>
XnnOperator xnn_resize_bilinear<uint8_t>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<uint8_t>(xnn_create_resize_bilinear2d_nhwc_u8, PIQI_XNN_SETUP(resize_bilinear2d_nhwc_u8),
                         flags, x, y);
}

XnnOperator xnn_softmax(size_t rows, size_t depth) {
  return {[](xnn_operator_t* op) { return xnn_create_softmax_nc_f32(0, op); },
          xnn_setup<float>(PIQI_XNN_SETUP(softmax_nc_f32), depth, depth, depth, rows)};
}

XnnOperator xnn_unary(OperatorKind kind, const OperatorParameters& p, size_t size) {
  xnn_unary_params parameters{};
  switch (kind) {
    case OperatorKind::Logistic:
      return unary<float, float>(xnn_unary_sigmoid, size);
    case OperatorKind::LeakyRelu:
      parameters.leaky_relu.negative_slope = p.alpha;
      return unary<float, float>(xnn_unary_leaky_relu, size, parameters);
    case OperatorKind::HardSwish:
      return unary<float, float>(xnn_unary_hardswish, size);
    default:
      parameters.clamp.min = p.clamp_min, parameters.clamp.max = p.clamp_max;
      return unary<float, float>(xnn_unary_clamp, size, parameters);
  }
}

template <>
XnnOperator xnn_quantize<int8_t>(const Affine& to, size_t size) {
  return unary<float, int8_t>(xnn_unary_convert, size, {}, {}, quantization(to));
}
template <>
XnnOperator xnn_quantize<uint8_t>(const Affine& to, size_t size) {
  return unary<float, uint8_t>(xnn_unary_convert, size, {}, {}, quantization(to));
}
template <>
XnnOperator xnn_dequantize<int8_t>(const Affine& from, size_t size) {
  return unary<int8_t, float>(xnn_unary_convert, size, {}, quantization(from));
}
template <>
XnnOperator xnn_dequantize<uint8_t>(const Affine& from, size_t size) {
  return unary<uint8_t, float>(xnn_unary_convert, size, {}, quantization(from));
}

XnnOperator xnn_binary(const OperatorView& view) {
  switch (view.type()) {
    case DataType::Float32:
      return binary<float>(view);
    case DataType::Int8:
      return binary<int8_t>(view);
    case DataType::UInt8:
      return binary<uint8_t>(view);
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

}  // namespace piqi

#endif
