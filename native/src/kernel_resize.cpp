// Bilinear resize.
#include "kernel_xnnpack.hpp"

namespace piqi {

std::shared_ptr<Kernel> make_resize_bilinear(const OperatorView& view) {
  view.require_same_types(1);
  const OperatorParameters& p = view.parameters();
  if (p.align_corners && p.half_pixel_centers)
    view.unsupported("align_corners and half_pixel_centers exclude each other");
  const Shape &x = view.input(0).shape, &y = view.output().shape;
  const uint32_t flags = p.align_corners        ? XNN_FLAG_ALIGN_CORNERS
                         : p.half_pixel_centers ? 0
                                                : XNN_FLAG_TENSORFLOW_LEGACY_MODE;
  const auto make = [&](auto type, auto* create, auto* setup) {
    return make_xnn_kernel(
        view, 1, [&](xnn_operator_t* op) { return create(x[3], x[3], x[3], flags, op); },
        xnn_setup<decltype(type)>(setup, x[0], x[1], x[2], y[1], y[2]),
        requantization_table(view, view.input(0), view.output()));
  };
  switch (view.type()) {
    case DataType::Float32:
      return make(float{}, xnn_create_resize_bilinear2d_nhwc_f32, xnn_setup_resize_bilinear2d_nhwc_f32);
    case DataType::Int8:
      return make(int8_t{}, xnn_create_resize_bilinear2d_nhwc_s8, xnn_setup_resize_bilinear2d_nhwc_s8);
    case DataType::UInt8:
      return make(uint8_t{}, xnn_create_resize_bilinear2d_nhwc_u8, xnn_setup_resize_bilinear2d_nhwc_u8);
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

}  // namespace piqi
