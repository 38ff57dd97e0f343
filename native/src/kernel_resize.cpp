// Bilinear resize.
#include "xnnpack_operators.hpp"

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
  const auto make = [&](XnnOperator op) {
    op.table = requantization_table(view, view.input(0), view.output());
    return make_xnn_kernel(view, 1, std::move(op));
  };
  switch (view.type()) {
    case DataType::Float32:
      return make(xnn_resize_bilinear<float>(flags, x, y));
    case DataType::Int8:
      return make(xnn_resize_bilinear<int8_t>(flags, x, y));
    case DataType::UInt8:
      return make(xnn_resize_bilinear<uint8_t>(flags, x, y));
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

}  // namespace piqi
