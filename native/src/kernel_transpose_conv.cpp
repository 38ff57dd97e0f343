// Transposed convolution of int8 with a weight scale for each channel, which XNNPACK lacks: exact int32 sums.
#include "kernel_support.hpp"

namespace piqi {
namespace {

class ExactTransposeConvolution final : public BoundKernel {
 public:
  explicit ExactTransposeConvolution(const OperatorView& view)
      : BoundKernel(view, 1),
        p_(view.parameters()),
        in_(view.input(0).shape),
        out_(view.output().shape),
        kernel_height_(view.input(1).shape[1]),
        kernel_width_(view.input(1).shape[2]),
        weights_(view.input(1).data),
        bias_(view.has_input(2) ? view.input(2).data : nullptr),
        input_zero_point_(view.affine(view.input(0)).zero_point),
        output_(view.clamped_output()) {
    const double input_scale = view.affine(view.input(0)).scale;
    for (const float scale : view.input(1).quantization.scales)
      accumulator_scales_.push_back(input_scale * scale);
  }

  void run(pthreadpool_t pool) override {
    parallel_for(pool, out_[0] * out_[1], 1, [&](size_t begin, size_t count) {
      for (size_t row = begin; row < begin + count; ++row) compute_row(row / out_[1], row % out_[1]);
    });
  }

 private:
  void compute_row(size_t image, size_t y) {
    int8_t* result = output<int8_t>() + (image * out_[1] + y) * out_[2] * out_[3];
    for (size_t x = 0; x < out_[2]; ++x) {
      for (size_t channel = 0; channel < out_[3]; ++channel) {
        const int32_t sum = accumulate(image, y, x, channel);
        *result++ = static_cast<int8_t>(output_.stored(sum * accumulator_scales_[channel]));
      }
    }
  }

  int32_t accumulate(size_t image, size_t y, size_t x, size_t channel) const {
    const size_t depth = in_[3];
    const auto* const weights = static_cast<const int8_t*>(weights_.get());
    int32_t sum = bias_ ? static_cast<const int32_t*>(bias_.get())[channel] : 0;
    for (size_t ky = 0; ky < kernel_height_; ++ky) {
      size_t iy = 0;
      if (!source(y + p_.pad_top, ky, p_.stride_height, in_[1], &iy)) continue;
      for (size_t kx = 0; kx < kernel_width_; ++kx) {
        size_t ix = 0;
        if (!source(x + p_.pad_left, kx, p_.stride_width, in_[2], &ix)) continue;
        const int8_t* const pixel = input<int8_t>() + ((image * in_[1] + iy) * in_[2] + ix) * depth;
        const int8_t* const tap = weights + ((channel * kernel_height_ + ky) * kernel_width_ + kx) * depth;
        for (size_t c = 0; c < depth; ++c) sum += (pixel[c] - input_zero_point_) * tap[c];
      }
    }
    return sum;
  }

  /// The input index that reaches `position` of the padded output through kernel index `k`, if there is one.
  static bool source(size_t position, size_t k, size_t stride, size_t extent, size_t* index) {
    if (position < k || (position - k) % stride != 0) return false;
    *index = (position - k) / stride;
    return *index < extent;
  }

  const OperatorParameters p_;
  const Shape in_, out_;
  const size_t kernel_height_, kernel_width_;
  const std::shared_ptr<const void> weights_, bias_;  // the graph's own, not copies
  const int32_t input_zero_point_;
  const Affine output_;
  std::vector<double> accumulator_scales_;
};

}  // namespace

std::shared_ptr<Kernel> make_exact_transpose_convolution(const OperatorView& view) {
  return std::make_shared<ExactTransposeConvolution>(view);
}

}  // namespace piqi
