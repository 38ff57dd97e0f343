// Max and average pooling.
#include <cmath>
#include <limits>

#include "kernel_xnnpack.hpp"

namespace piqi {
namespace {

/// The window's extent along one dimension, cut to the input.
struct Span {
  size_t begin, end;
  Span(size_t position, size_t stride, size_t pad, size_t kernel, size_t extent) {
    const size_t start = position * stride;
    begin = start > pad ? start - pad : 0;
    end = std::min(start + kernel > pad ? start + kernel - pad : 0, extent);
  }
  size_t size() const { return end > begin ? end - begin : 0; }
};

/// Average pooling of `T` = int8_t, uint8_t: exact int32 sums, rounded once. Also the 1x1 windows (of any
/// type) that XNNPACK refuses.
template <typename T>
class WindowPool final : public BoundKernel {
 public:
  explicit WindowPool(const OperatorView& view)
      : BoundKernel(view, 1),
        p_(view.parameters()),
        in_shape_(view.input(0).shape),
        out_shape_(view.output().shape) {
    if (quantised) {
      in_ = view.affine(view.input(0));
      out_ = view.clamped_output();
    }
  }

  void run(pthreadpool_t pool) override {
    const size_t work = element_count(out_shape_) * p_.kernel_height * p_.kernel_width;
    parallel_for(work < parallel_bytes ? nullptr : pool, out_shape_[0] * out_shape_[1], 1,
                 [&](size_t begin, size_t count) {
                   for (size_t row = begin; row < begin + count; ++row) compute_row(row);
                 });
  }

 private:
  static constexpr bool quantised = !std::is_same_v<T, float>;
  using Sum = std::conditional_t<quantised, int32_t, float>;
  static constexpr size_t block = 256;  // channels summed at a time, on the stack

  void compute_row(size_t row) {
    const size_t channels = out_shape_[3], image = row / out_shape_[1];
    const Span ys(row % out_shape_[1], p_.stride_height, p_.pad_top, p_.kernel_height, in_shape_[1]);
    for (size_t x = 0; x < out_shape_[2]; ++x) {
      const Span xs(x, p_.stride_width, p_.pad_left, p_.kernel_width, in_shape_[2]);
      T* const result = output<T>() + (row * out_shape_[2] + x) * channels;
      for (size_t first = 0; first < channels; first += block) {
        const size_t width = std::min(block, channels - first);
        Sum sums[block] = {};
        for (size_t iy = ys.begin; iy < ys.end; ++iy) {
          for (size_t ix = xs.begin; ix < xs.end; ++ix) {
            const T* const pixel =
                input<T>() + ((image * in_shape_[1] + iy) * in_shape_[2] + ix) * channels + first;
            for (size_t c = 0; c < width; ++c) sums[c] += pixel[c];
          }
        }
        store(sums, ys.size() * xs.size(), width, result + first);
      }
    }
  }

  void store(const Sum* sums, size_t count, size_t width, T* result) const {
    if constexpr (quantised) {
      const double scale = in_.scale / static_cast<double>(count);
      const int32_t offset = static_cast<int32_t>(count) * in_.zero_point;
      for (size_t c = 0; c < width; ++c) result[c] = static_cast<T>(out_.stored(scale * (sums[c] - offset)));
    } else {
      for (size_t c = 0; c < width; ++c) result[c] = std::min(std::max(sums[c], p_.clamp_min), p_.clamp_max);
    }
  }

  const OperatorParameters p_;
  const Shape in_shape_, out_shape_;
  Affine in_, out_;
};

std::shared_ptr<Kernel> make_window_pool(const OperatorView& view) {
  if (view.type() == DataType::Float32) return std::make_shared<WindowPool<float>>(view);
  if (view.type() == DataType::Int8) return std::make_shared<WindowPool<int8_t>>(view);
  return std::make_shared<WindowPool<uint8_t>>(view);
}

std::shared_ptr<Kernel> make_average_f32(const OperatorView& view) {
  const OperatorParameters& p = view.parameters();
  const Shape& x = view.input(0).shape;
  return make_xnn_kernel(
      view, 1,
      [&](xnn_operator_t* op) {
        return xnn_create_average_pooling2d_nhwc_f32(
            u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left), u32(p.kernel_height),
            u32(p.kernel_width), u32(p.stride_height), u32(p.stride_width), x[3], x[3], x[3], p.clamp_min,
            p.clamp_max, 0, op);
      },
      xnn_setup<float>(xnn_setup_average_pooling2d_nhwc_f32, x[0], x[1], x[2]));
}

template <typename T, typename Create, typename Setup>
std::shared_ptr<Kernel> make_max(const OperatorView& view, Create* create, Setup* setup, T lowest, T highest,
                                 LookupTable table) {
  const OperatorParameters& p = view.parameters();
  const Shape& x = view.input(0).shape;
  return make_xnn_kernel(
      view, 1,
      [&](xnn_operator_t* op) {
        return create(u32(p.pad_top), u32(p.pad_right), u32(p.pad_bottom), u32(p.pad_left),
                      u32(p.kernel_height), u32(p.kernel_width), u32(p.stride_height), u32(p.stride_width), 1,
                      1, x[3], x[3], x[3], lowest, highest, 0, op);
      },
      xnn_setup<T>(setup, x[0], x[1], x[2]), std::move(table));
}

}  // namespace

std::shared_ptr<Kernel> make_pool(const OperatorView& view) {
  view.require_same_types(1);
  const OperatorParameters& p = view.parameters();
  if (!view.is_float() && !view.is_8bit())
    view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  // A window of one element is its own maximum and average; XNNPACK refuses it.
  if (p.kernel_height * p.kernel_width == 1) return make_window_pool(view);
  if (view.op.kind == OperatorKind::AveragePool2d)
    return view.is_float() ? make_average_f32(view) : make_window_pool(view);
  if (view.is_float()) {
    return make_max<float>(view, xnn_create_max_pooling2d_nhwc_f32, xnn_setup_max_pooling2d_nhwc_f32,
                           p.clamp_min, p.clamp_max, {});
  }
  const Affine in = view.affine(view.input(0)), out = view.clamped_output();
  // XNNPACK's maximum does not requantise: where the sides differ, a table does it (and the clamp) behind it.
  const bool same = view.input(0).quantization == view.output().quantization;
  LookupTable table = same ? LookupTable{} : make_table(in, out, [](double real) { return real; });
  const int32_t lowest = same ? out.lowest : in.lowest, highest = same ? out.highest : in.highest;
  if (view.type() == DataType::Int8) {
    return make_max<int8_t>(view, xnn_create_max_pooling2d_nhwc_s8, xnn_setup_max_pooling2d_nhwc_s8,
                            static_cast<int8_t>(lowest), static_cast<int8_t>(highest), std::move(table));
  }
  return make_max<uint8_t>(view, xnn_create_max_pooling2d_nhwc_u8, xnn_setup_max_pooling2d_nhwc_u8,
                           static_cast<uint8_t>(lowest), static_cast<uint8_t>(highest), std::move(table));
}

}  // namespace piqi
