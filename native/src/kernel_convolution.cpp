// Convolutions and fully connected operators: XNNPACK, or loops of ours where they are faster; weights packed
// at creation.
#include <tuple>

#include "xnnpack_operators.hpp"

namespace piqi {
namespace {

struct Weights {
  const void* data;
  const void* bias;           // nullptr: none
  std::vector<float> scales;  // int8: one for each output channel; uint8: one
  Affine affine;              // uint8 only
};

Weights weights_of(const OperatorView& view, size_t channels) {
  const Tensor& tensor = view.input(1);
  Weights weights{tensor.data.get(), view.has_input(2) ? view.input(2).data.get() : nullptr, {}, {}};
  view.require_same_types(2);
  if (view.type() == DataType::UInt8) {
    weights.affine = view.affine(tensor);
    weights.scales = tensor.quantization.scales;
  } else if (view.type() == DataType::Int8) {
    if (tensor.quantization.zero_point != 0) {
      view.unsupported("int8 weights '" + tensor.name + "' need zero point 0, got " +
                       std::to_string(tensor.quantization.zero_point));
    }
    weights.scales = tensor.quantization.scales;
    if (weights.scales.size() == 1) weights.scales.resize(channels, weights.scales[0]);
  } else if (!view.is_float()) {
    view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
  return weights;
}

/// Calls create(geometry..., what the type asks for..., flags, op).
template <typename Function, typename Geometry, typename... Rest>
xnn_status call(Function* create, xnn_operator_t* op, const Geometry& geometry, Rest... rest) {
  return std::apply([&](auto... arguments) { return xnn_create_packed(create, op, arguments...); },
                    std::tuple_cat(geometry, std::make_tuple(rest...)));
}

template <typename Function, typename Geometry>
XnnCreate create_f32(Function* create, const OperatorView& view, Geometry geometry, uint32_t flags) {
  const Weights w = weights_of(view, 0);
  const OperatorParameters& p = view.parameters();
  return [=, &p](xnn_operator_t* op) {
    return call(create, op, geometry, static_cast<const float*>(w.data), static_cast<const float*>(w.bias),
                p.clamp_min, p.clamp_max, flags);
  };
}

/// `T` int8_t or uint8_t; `kernel_quantization`: what stands between the input's scale and the weights.
template <typename T, typename Function, typename Geometry, typename KernelQuantization>
XnnCreate create_q8(Function* create, const OperatorView& view, Geometry geometry, const Weights& weights,
                    KernelQuantization kernel_quantization, uint32_t flags) {
  const Affine in = view.affine(view.input(0)), out = view.clamped_output();
  return [=](xnn_operator_t* op) {
    const auto head =
        std::tuple_cat(geometry, std::make_tuple(static_cast<T>(in.zero_point), static_cast<float>(in.scale)),
                       kernel_quantization());
    return call(create, op, head, static_cast<const T*>(weights.data),
                static_cast<const int32_t*>(weights.bias), static_cast<T>(out.zero_point),
                static_cast<float>(out.scale), static_cast<T>(out.lowest), static_cast<T>(out.highest),
                flags);
  };
}

auto zero_point_and_scale(const Weights& weights) {
  return [zero_point = static_cast<uint8_t>(weights.affine.zero_point), scale = weights.scales[0]] {
    return std::make_tuple(zero_point, scale);
  };
}

/// Whether the loops of ours may take it: a clamp that XNNPACK would not refuse.
bool is_plain_float(const OperatorView& view) {
  if (!view.is_float()) return false;
  view.require_same_types(2);
  return view.parameters().clamp_min < view.parameters().clamp_max;
}

bool is_plain_8bit(const OperatorView& view, size_t channels) {
  if (!view.is_8bit()) return false;
  weights_of(view, channels);  // says what is wrong with them
  const Affine out = view.clamped_output();
  return out.lowest < out.highest;
}

/// A convolution of a `batch` of `height` x `width` images.
template <typename Geometry>
std::shared_ptr<Kernel> make_conv(const OperatorView& view, const Geometry& geometry, size_t channels,
                                  size_t batch, size_t height, size_t width, uint32_t flags) {
  const Weights weights = weights_of(view, channels);
  switch (view.type()) {
    case DataType::Float32:
      return make_xnn_kernel(
          view, 1,
          {create_f32(xnn_create_convolution2d_nhwc_f32, view, geometry, flags),
           xnn_setup<float>(PIQI_XNN_SETUP(convolution2d_nhwc_f32), batch, height, width)});
    case DataType::Int8: {
      // One scale is a special case of one for each channel; XNNPACK's inner loops are the same.
      const auto scales = [held = weights.scales] { return std::make_tuple(held.data()); };
      return make_xnn_kernel(
          view, 1,
          {create_q8<int8_t>(xnn_create_convolution2d_nhwc_qs8_qc8w, view, geometry, weights, scales, flags),
           xnn_setup<int8_t>(PIQI_XNN_SETUP(convolution2d_nhwc_qs8_qc8w), batch, height, width)});
    }
    default:
      return make_xnn_kernel(
          view, 1,
          {create_q8<uint8_t>(xnn_create_convolution2d_nhwc_qu8, view, geometry, weights,
                              zero_point_and_scale(weights), flags),
           xnn_setup<uint8_t>(PIQI_XNN_SETUP(convolution2d_nhwc_qu8), batch, height, width)});
  }
}

}  // namespace

std::shared_ptr<Kernel> make_convolution(const OperatorView& view) {
  const OperatorParameters& p = view.parameters();
  const Shape &x = view.input(0).shape, &w = view.input(1).shape, &y = view.output().shape;
  const bool depthwise = view.op.kind == OperatorKind::DepthwiseConv2d;
  const size_t groups = depthwise ? x[3] : p.groups;
  const bool padded = p.pad_top + p.pad_bottom + p.pad_left + p.pad_right > 0;
  const bool pointwise = !depthwise && groups == 1 && w[1] == 1 && w[2] == 1 && p.stride_height == 1 &&
                         p.stride_width == 1 && !padded;
  if (pointwise && is_plain_8bit(view, y[3])) {
    if (auto kernel = make_pointwise_int8(view, x[0] * x[1] * x[2], x[3], y[3])) return kernel;
  }
  if (is_plain_float(view)) {
    const auto kernel = depthwise   ? make_depthwise(view)
                        : pointwise ? make_pointwise(view, x[0] * x[1] * x[2], x[3], y[3])
                                    : nullptr;
    if (kernel) return kernel;
  }
  const auto geometry =
      std::make_tuple(u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left), u32(w[1]),
                      u32(w[2]), u32(p.stride_height), u32(p.stride_width), u32(p.dilation_height),
                      u32(p.dilation_width), u32(groups), x[3] / groups, y[3] / groups, x[3], y[3]);
  return make_conv(view, geometry, y[3], x[0], x[1], x[2], depthwise ? XNN_FLAG_DEPTHWISE_CONVOLUTION : 0);
}

std::shared_ptr<Kernel> make_fully_connected(const OperatorView& view) {
  const size_t outputs = view.input(1).shape[0], inputs = view.input(1).shape[1];
  const size_t batch = element_count(view.input(0).shape) / inputs;
  if (is_plain_8bit(view, outputs)) {
    if (auto kernel = make_pointwise_int8(view, batch, inputs, outputs)) return kernel;
  }
  if (view.type() == DataType::Int8) {
    // XNNPACK has no fully connected operator with a scale for each channel; a 1x1 convolution is the same.
    const auto geometry =
        std::make_tuple(0u, 0u, 0u, 0u, 1u, 1u, 1u, 1u, 1u, 1u, 1u, inputs, outputs, inputs, outputs);
    return make_conv(view, geometry, outputs, batch, 1, 1, 0);
  }
  if (is_plain_float(view)) {
    if (const auto kernel = make_pointwise(view, batch, inputs, outputs)) return kernel;
  }
  const auto geometry = std::make_tuple(inputs, outputs, inputs, outputs);
  const Weights weights = weights_of(view, outputs);
  if (view.is_float()) {
    return make_xnn_kernel(view, 1,
                           {create_f32(xnn_create_fully_connected_nc_f32, view, geometry, 0),
                            xnn_setup<float>(PIQI_XNN_SETUP(fully_connected_nc_f32), batch)});
  }
  return make_xnn_kernel(view, 1,
                         {create_q8<uint8_t>(xnn_create_fully_connected_nc_qu8, view, geometry, weights,
                                             zero_point_and_scale(weights), 0),
                          xnn_setup<uint8_t>(PIQI_XNN_SETUP(fully_connected_nc_qu8), batch)});
}

std::shared_ptr<Kernel> make_transpose_convolution(const OperatorView& view) {
  const OperatorParameters& p = view.parameters();
  const Shape &x = view.input(0).shape, &w = view.input(1).shape, &y = view.output().shape;
  const Weights weights = weights_of(view, y[3]);
  const bool per_channel = view.input(1).quantization.scales.size() > 1;
  if (view.type() == DataType::Int8 && per_channel) return make_exact_transpose_convolution(view);

  // The forward convolution may leave a rest at the bottom and right that no window reaches. XNNPACK wants
  // the size put as either padding cut off there or adjustment added.
  struct Edge {
    uint32_t padding, adjustment;
  };
  const auto edge = [](size_t input, size_t stride, size_t kernel, size_t pad, size_t output) {
    const size_t full = stride * (input - 1) + kernel, wanted = output + pad;
    return full >= wanted ? Edge{u32(full - wanted), 0} : Edge{0, u32(wanted - full)};
  };
  const Edge bottom = edge(x[1], p.stride_height, w[1], p.pad_top, y[1]);
  const Edge right = edge(x[2], p.stride_width, w[2], p.pad_left, y[2]);
  const auto geometry =
      std::make_tuple(u32(p.pad_top), right.padding, bottom.padding, u32(p.pad_left), u32(w[1]), u32(w[2]),
                      u32(p.stride_height), u32(p.stride_width), 1u, 1u, 1u, x[3], y[3], x[3], y[3]);
  const auto setup = [&](auto type, auto function) {
    return xnn_setup<decltype(type)>(function, x[0], x[1], x[2], bottom.adjustment, right.adjustment);
  };
  switch (view.type()) {
    case DataType::Float32:
      return make_xnn_kernel(view, 1,
                             {create_f32(xnn_create_deconvolution2d_nhwc_f32, view, geometry, 0),
                              setup(float{}, PIQI_XNN_SETUP(deconvolution2d_nhwc_f32))});
    case DataType::Int8: {
      const auto scale = [value = weights.scales[0]] { return std::make_tuple(value); };
      return make_xnn_kernel(
          view, 1,
          {create_q8<int8_t>(xnn_create_deconvolution2d_nhwc_qs8, view, geometry, weights, scale, 0),
           setup(int8_t{}, PIQI_XNN_SETUP(deconvolution2d_nhwc_qs8))});
    }
    default:
      return make_xnn_kernel(view, 1,
                             {create_q8<uint8_t>(xnn_create_deconvolution2d_nhwc_qu8, view, geometry, weights,
                                                 zero_point_and_scale(weights), 0),
                              setup(uint8_t{}, PIQI_XNN_SETUP(deconvolution2d_nhwc_qu8))});
  }
}

}  // namespace piqi
