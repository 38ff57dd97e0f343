// XNNPACK's operators by the interface of 2022.
#include "xnnpack_operators.hpp"

#if !PIQI_XNNPACK_2024

namespace piqi {
namespace {

template <typename T, typename Create, typename Setup>
XnnOperator max_pool(Create* create, Setup* setup, const OperatorParameters& p, const Shape& x, T lowest,
                     T highest) {
  return {[=, &p, &x](xnn_operator_t* op) {
            return create(u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left),
                          u32(p.kernel_height), u32(p.kernel_width), u32(p.stride_height),
                          u32(p.stride_width), 1, 1, x[3], x[3], x[3], lowest, highest, 0, op);
          },
          xnn_setup<T>(setup, x[0], x[1], x[2])};
}

template <typename T, typename Create, typename Setup>
XnnOperator resize(Create* create, Setup* setup, uint32_t flags, const Shape& x, const Shape& y) {
  return {
      [=, channels = x[3]](xnn_operator_t* op) { return create(channels, channels, channels, flags, op); },
      xnn_setup<T>(setup, x[0], x[1], x[2], y[1], y[2])};
}

template <typename Create, typename Setup, typename... Parameters>
XnnOperator unary(Create* create, Setup* setup, size_t size, Parameters... parameters) {
  return {[=](xnn_operator_t* op) { return create(1, 1, 1, parameters..., 0, op); },
          xnn_setup<float>(setup, size)};
}

template <typename T, typename Create, typename Setup>
XnnOperator quantize(Create* create, Setup* setup, const Affine& to, size_t size) {
  return {[=](xnn_operator_t* op) {
            return create(1, 1, 1, static_cast<float>(to.scale), static_cast<T>(to.zero_point),
                          static_cast<T>(to.lowest), static_cast<T>(to.highest), 0, op);
          },
          [=](xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
            return setup(op, size, static_cast<const float*>(inputs[0]), static_cast<T*>(outputs[0]), pool);
          }};
}

template <typename T, typename Create, typename Setup>
XnnOperator dequantize(Create* create, Setup* setup, const Affine& from, size_t size) {
  return {[=](xnn_operator_t* op) {
            return create(1, 1, 1, static_cast<float>(from.scale), static_cast<T>(from.zero_point), 0, op);
          },
          [=](xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
            return setup(op, size, static_cast<const T*>(inputs[0]), static_cast<float*>(outputs[0]), pool);
          }};
}

template <typename T, typename Create, typename Setup>
XnnOperator binary(Create* create, Setup* setup, const OperatorView& view) {
  const auto bind = [setup, a = view.input(0).shape, b = view.input(1).shape](
                        xnn_operator_t op, const void* const* inputs, void* const* outputs,
                        pthreadpool_t pool) {
    return setup(op, a.size(), a.data(), b.size(), b.data(), static_cast<const T*>(inputs[0]),
                 static_cast<const T*>(inputs[1]), static_cast<T*>(outputs[0]), pool);
  };
  if constexpr (std::is_same_v<T, float>) {
    const OperatorParameters& p = view.parameters();
    return {[=, &p](xnn_operator_t* op) { return create(p.clamp_min, p.clamp_max, 0, op); }, bind};
  } else {
    const Affine a = view.affine(view.input(0)), b = view.affine(view.input(1)), out = view.clamped_output();
    return {[=](xnn_operator_t* op) {
              return create(static_cast<T>(a.zero_point), static_cast<float>(a.scale),
                            static_cast<T>(b.zero_point), static_cast<float>(b.scale),
                            static_cast<T>(out.zero_point), static_cast<float>(out.scale),
                            static_cast<T>(out.lowest), static_cast<T>(out.highest), 0, op);
            },
            bind};
  }
}

}  // namespace

XnnOperator xnn_average_pool(const OperatorParameters& p, const Shape& x) {
  return {[&p, &x](xnn_operator_t* op) {
            return xnn_create_average_pooling2d_nhwc_f32(
                u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left), u32(p.kernel_height),
                u32(p.kernel_width), u32(p.stride_height), u32(p.stride_width), x[3], x[3], x[3], p.clamp_min,
                p.clamp_max, 0, op);
          },
          xnn_setup<float>(xnn_setup_average_pooling2d_nhwc_f32, x[0], x[1], x[2])};
}

template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, float lowest, float highest) {
  return max_pool<float>(xnn_create_max_pooling2d_nhwc_f32, xnn_setup_max_pooling2d_nhwc_f32, p, x, lowest,
                         highest);
}
template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, int8_t lowest, int8_t highest) {
  return max_pool<int8_t>(xnn_create_max_pooling2d_nhwc_s8, xnn_setup_max_pooling2d_nhwc_s8, p, x, lowest,
                          highest);
}
template <>
XnnOperator xnn_max_pool(const OperatorParameters& p, const Shape& x, uint8_t lowest, uint8_t highest) {
  return max_pool<uint8_t>(xnn_create_max_pooling2d_nhwc_u8, xnn_setup_max_pooling2d_nhwc_u8, p, x, lowest,
                           highest);
}

std::optional<XnnOperator> xnn_global_average(const OperatorParameters& p, const Shape& x) {
  return XnnOperator{[&p, channels = x[3]](xnn_operator_t* op) {
                       return xnn_create_global_average_pooling_nwc_f32(channels, channels, channels,
                                                                        p.clamp_min, p.clamp_max, 0, op);
                     },
                     xnn_setup<float>(xnn_setup_global_average_pooling_nwc_f32, x[0], x[1] * x[2])};
}

template <>
XnnOperator xnn_resize_bilinear<float>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<float>(xnn_create_resize_bilinear2d_nhwc_f32, xnn_setup_resize_bilinear2d_nhwc_f32, flags, x,
                       y);
}
template <>
XnnOperator xnn_resize_bilinear<int8_t>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<int8_t>(xnn_create_resize_bilinear2d_nhwc_s8, xnn_setup_resize_bilinear2d_nhwc_s8, flags, x,
                        y);
}
template <>
XnnOperator xnn_resize_bilinear<uint8_t>(uint32_t flags, const Shape& x, const Shape& y) {
  return resize<uint8_t>(xnn_create_resize_bilinear2d_nhwc_u8, xnn_setup_resize_bilinear2d_nhwc_u8, flags, x,
                         y);
}

XnnOperator xnn_softmax(size_t rows, size_t depth) {
  return {[=](xnn_operator_t* op) { return xnn_create_softmax_nc_f32(depth, depth, depth, 0, op); },
          xnn_setup<float>(xnn_setup_softmax_nc_f32, rows)};
}

XnnOperator xnn_unary(OperatorKind kind, const OperatorParameters& p, size_t size) {
  switch (kind) {
    case OperatorKind::Logistic:
      return unary(xnn_create_sigmoid_nc_f32, xnn_setup_sigmoid_nc_f32, size);
    case OperatorKind::LeakyRelu:
      return unary(xnn_create_leaky_relu_nc_f32, xnn_setup_leaky_relu_nc_f32, size, p.alpha);
    case OperatorKind::HardSwish:
      return unary(xnn_create_hardswish_nc_f32, xnn_setup_hardswish_nc_f32, size);
    default:
      return unary(xnn_create_clamp_nc_f32, xnn_setup_clamp_nc_f32, size, p.clamp_min, p.clamp_max);
  }
}

template <>
XnnOperator xnn_quantize<int8_t>(const Affine& to, size_t size) {
  return quantize<int8_t>(xnn_create_convert_nc_f32_qs8, xnn_setup_convert_nc_f32_qs8, to, size);
}
template <>
XnnOperator xnn_quantize<uint8_t>(const Affine& to, size_t size) {
  return quantize<uint8_t>(xnn_create_convert_nc_f32_qu8, xnn_setup_convert_nc_f32_qu8, to, size);
}
template <>
XnnOperator xnn_dequantize<int8_t>(const Affine& from, size_t size) {
  return dequantize<int8_t>(xnn_create_convert_nc_qs8_f32, xnn_setup_convert_nc_qs8_f32, from, size);
}
template <>
XnnOperator xnn_dequantize<uint8_t>(const Affine& from, size_t size) {
  return dequantize<uint8_t>(xnn_create_convert_nc_qu8_f32, xnn_setup_convert_nc_qu8_f32, from, size);
}

XnnOperator xnn_binary(const OperatorView& view) {
  const bool add = view.op.kind == OperatorKind::Add, subtract = view.op.kind == OperatorKind::Subtract;
  switch (view.type()) {
    case DataType::Float32:
      return add        ? binary<float>(xnn_create_add_nd_f32, xnn_setup_add_nd_f32, view)
             : subtract ? binary<float>(xnn_create_subtract_nd_f32, xnn_setup_subtract_nd_f32, view)
                        : binary<float>(xnn_create_multiply_nd_f32, xnn_setup_multiply_nd_f32, view);
    case DataType::Int8:
      return add        ? binary<int8_t>(xnn_create_add_nd_qs8, xnn_setup_add_nd_qs8, view)
             : subtract ? binary<int8_t>(xnn_create_subtract_nd_qs8, xnn_setup_subtract_nd_qs8, view)
                        : binary<int8_t>(xnn_create_multiply_nd_qs8, xnn_setup_multiply_nd_qs8, view);
    case DataType::UInt8:
      return add        ? binary<uint8_t>(xnn_create_add_nd_qu8, xnn_setup_add_nd_qu8, view)
             : subtract ? binary<uint8_t>(xnn_create_subtract_nd_qu8, xnn_setup_subtract_nd_qu8, view)
                        : binary<uint8_t>(xnn_create_multiply_nd_qu8, xnn_setup_multiply_nd_qu8, view);
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

}  // namespace piqi

#endif
