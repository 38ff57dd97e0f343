// Max and average pooling.
#include <cmath>
#include <limits>

#include "xnnpack_operators.hpp"

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

/// Average pooling of `T` = int8_t, uint8_t: exact int32 sums, rounded once. Also windows (of any type) that
/// XNNPACK refuses: of 1x1, and with gaps between them.
template <typename T>
class WindowPool final : public BoundKernel {
 public:
  explicit WindowPool(const OperatorView& view)
      : BoundKernel(view, 1),
        p_(view.parameters()),
        maximum_(view.op.kind == OperatorKind::MaxPool2d),
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
        Sum sums[block];
        std::fill_n(sums, width, maximum_ ? std::numeric_limits<Sum>::lowest() : Sum{});
        for (size_t iy = ys.begin; iy < ys.end; ++iy) {
          for (size_t ix = xs.begin; ix < xs.end; ++ix) {
            const T* const pixel =
                input<T>() + ((image * in_shape_[1] + iy) * in_shape_[2] + ix) * channels + first;
            if (maximum_) {
              for (size_t c = 0; c < width; ++c) sums[c] = std::max<Sum>(sums[c], pixel[c]);
            } else {
              for (size_t c = 0; c < width; ++c) sums[c] += pixel[c];
            }
          }
        }
        store(sums, maximum_ ? 1 : ys.size() * xs.size(), width, result + first);
      }
    }
  }

  void store(const Sum* sums, size_t count, size_t width, T* result) const {
    if constexpr (quantised) {
      const double scale = in_.scale / static_cast<double>(count);
      const int32_t offset = static_cast<int32_t>(count) * in_.zero_point;
      for (size_t c = 0; c < width; ++c) result[c] = static_cast<T>(out_.stored(scale * (sums[c] - offset)));
    } else {
      const auto divisor = static_cast<float>(count);
      for (size_t c = 0; c < width; ++c)
        result[c] = std::min(std::max(sums[c] / divisor, p_.clamp_min), p_.clamp_max);
    }
  }

  const OperatorParameters p_;
  const bool maximum_;
  const Shape in_shape_, out_shape_;
  Affine in_, out_;
};

std::shared_ptr<Kernel> make_window_pool(const OperatorView& view) {
  if (view.type() == DataType::Float32) return std::make_shared<WindowPool<float>>(view);
  if (view.type() == DataType::Int8) return std::make_shared<WindowPool<int8_t>>(view);
  return std::make_shared<WindowPool<uint8_t>>(view);
}

/// XNNPACK's maximum does not requantise: where the sides differ, a table does it (and the clamp) behind it.
template <typename T>
std::shared_ptr<Kernel> make_max_8bit(const OperatorView& view) {
  const Affine in = view.affine(view.input(0)), out = view.clamped_output();
  const bool same = view.input(0).quantization == view.output().quantization;
  const Affine& bounds = same ? out : in;
  XnnOperator op = xnn_max_pool<T>(view.parameters(), view.input(0).shape, static_cast<T>(bounds.lowest),
                                   static_cast<T>(bounds.highest));
  if (!same) op.table = make_table(in, out, [](double real) { return real; });
  return make_xnn_kernel(view, 1, std::move(op));
}

}  // namespace

std::shared_ptr<Kernel> make_pool(const OperatorView& view) {
  view.require_same_types(1);
  const OperatorParameters& p = view.parameters();
  if (!view.is_float() && !view.is_8bit())
    view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  // A window of one element is its own maximum and average; XNNPACK refuses it.
  if (p.kernel_height * p.kernel_width == 1) return make_window_pool(view);
  // Releases after Debian 12's refuse windows with gaps between them, too.
  if (p.stride_height > p.kernel_height || p.stride_width > p.kernel_width) return make_window_pool(view);
  const Shape& x = view.input(0).shape;
  if (view.op.kind == OperatorKind::AveragePool2d)
    return view.is_float() ? make_xnn_kernel(view, 1, xnn_average_pool(p, x)) : make_window_pool(view);
  if (view.is_float()) return make_xnn_kernel(view, 1, xnn_max_pool<float>(p, x, p.clamp_min, p.clamp_max));
  return view.type() == DataType::Int8 ? make_max_8bit<int8_t>(view) : make_max_8bit<uint8_t>(view);
}

}  // namespace piqi
