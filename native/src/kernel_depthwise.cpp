// Depthwise 3x3 convolutions without strides, in float32 on AVX-512.
//
// XNNPACK reads nine pixels for each output pixel. Here four neighbours share 18, and the vector of channels
// that is not full is masked. With strides there is too little to share: XNNPACK is as fast.
#include "kernel_avx512.hpp"
#include "kernel_support.hpp"

#ifdef PIQI_AVX512
namespace piqi {
namespace {

constexpr size_t block = 4;         // output pixels in a row that are computed together
constexpr size_t taps = 3 * 3;      // of the window
constexpr size_t group = taps + 1;  // vectors that belong to `lanes` channels: bias and weights

struct Geometry {
  size_t height, width, channels;  // of the input
  size_t out_height, out_width;
  size_t top, left;  // padding
  float lowest, highest;
};

/// Where the windows of `block` output pixels from (y, x) find their input: pixels of `image`, or zeros.
struct Taps {
  static constexpr size_t columns = block + 2;
  const float* pixels[3][columns];

  Taps(const Geometry& g, const float* image, const float* zeros, size_t y, size_t x) {
    // Positions left of or above the image wrap to huge numbers: outside, as those below and right of it.
    const size_t top = y - g.top, left = x - g.left;
    for (size_t row = 0; row < 3; ++row) {
      const bool inside = top + row < g.height;
      const float* const pixel = image + (inside ? (top + row) * g.width * g.channels : 0);
      for (size_t i = 0; i < columns; ++i)
        pixels[row][i] = inside && left + i < g.width ? pixel + (left + i) * g.channels : zeros;
    }
  }
};

/// All channels of `count` <= `block` output pixels in a row. Each sum is bias, then taps row by row: the
/// order does not depend on the pixel's place in the block.
PIQI_AVX512 void convolve(const Geometry& g, const Taps& taps, const float* packed, float* out,
                          size_t count) {
  const __m512 lowest = _mm512_set1_ps(g.lowest), highest = _mm512_set1_ps(g.highest);
  for (size_t c = 0; c < g.channels; c += lanes, packed += group * lanes) {
    const __mmask16 mask = first_lanes(g.channels - c);
    __m512 sums[block];
#pragma GCC unroll 16
    for (size_t i = 0; i < block; ++i) sums[i] = _mm512_load_ps(packed);
#pragma GCC unroll 16
    for (size_t row = 0; row < 3; ++row) {
#pragma GCC unroll 16
      for (size_t column = 0; column < Taps::columns; ++column) {
        const __m512 value = _mm512_maskz_loadu_ps(mask, taps.pixels[row][column] + c);
#pragma GCC unroll 16
        for (size_t i = 0; i < block; ++i) {
          if (column < i || column - i >= 3) continue;
          const float* const weights = packed + (1 + row * 3 + column - i) * lanes;
          sums[i] = _mm512_fmadd_ps(value, _mm512_load_ps(weights), sums[i]);
        }
      }
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < block; ++i)
      if (i < count) _mm512_mask_storeu_ps(out + i * g.channels + c, mask, clamp(sums[i], lowest, highest));
  }
}

class Depthwise : public BoundKernel {
 public:
  explicit Depthwise(const OperatorView& view)
      : BoundKernel(view, 1),
        batch_(view.input(0).shape[0]),
        packed_(round_up(view.input(0).shape[3], lanes) * group * sizeof(float)),
        zeros_(view.input(0).shape[3]) {
    const Shape &x = view.input(0).shape, &y = view.output().shape;
    const OperatorParameters& p = view.parameters();
    geometry_ = {x[1], x[2], x[3], y[1], y[2], p.pad_top, p.pad_left, p.clamp_min, p.clamp_max};
    const size_t channels = x[3];
    const auto* const weights = static_cast<const float*>(view.input(1).data.get());
    const auto* const bias =
        view.has_input(2) ? static_cast<const float*>(view.input(2).data.get()) : nullptr;
    float* const packed = reinterpret_cast<float*>(packed_.data());
    std::fill_n(packed, packed_.size_bytes() / sizeof(float), 0.0f);
    for (size_t c = 0; c < channels; ++c) {
      float* const first = packed + c / lanes * group * lanes + c % lanes;
      if (bias) *first = bias[c];
      for (size_t tap = 0; tap < taps; ++tap) first[(1 + tap) * lanes] = weights[tap * channels + c];
    }
  }

  void run(pthreadpool_t pool) override {
    const size_t rows = batch_ * geometry_.out_height;
    const size_t row_bytes = geometry_.width * geometry_.channels * sizeof(float);
    const size_t tile = std::max<size_t>(1, parallel_bytes / row_bytes);
    parallel_for(rows * row_bytes < 2 * parallel_bytes ? nullptr : pool, rows, tile,
                 [this](size_t begin, size_t count) {
                   for (size_t row = begin; row < begin + count; ++row) convolve_row(row);
                 });
  }

  size_t memory_bytes() const override {
    return BoundKernel::memory_bytes() + packed_.size_bytes() + zeros_.size() * sizeof(float);
  }

 private:
  void convolve_row(size_t row) const {
    const Geometry& g = geometry_;
    const float* const packed = reinterpret_cast<const float*>(packed_.data());
    const float* const image = input<float>() + row / g.out_height * g.height * g.width * g.channels;
    float* const out = output<float>() + row * g.out_width * g.channels;
    const size_t y = row % g.out_height;
    for (size_t x = 0; x < g.out_width; x += block)
      convolve(g, Taps(g, image, zeros_.data(), y, x), packed, out + x * g.channels,
               std::min(block, g.out_width - x));
  }

  Geometry geometry_;
  size_t batch_;
  AlignedBuffer packed_;
  std::vector<float> zeros_;  // a pixel of the padding
};

}  // namespace

std::shared_ptr<Kernel> make_depthwise(const OperatorView& view) {
  const OperatorParameters& p = view.parameters();
  const Shape &w = view.input(1).shape, &x = view.input(0).shape, &y = view.output().shape;
  const bool fits = w[1] == 3 && w[2] == 3 && y[3] == x[3] && p.stride_height == 1 && p.stride_width == 1 &&
                    p.dilation_height == 1 && p.dilation_width == 1;
  if (!fits || !has_avx512()) return nullptr;
  return std::make_shared<Depthwise>(view);
}

}  // namespace piqi
#else
namespace piqi {

std::shared_ptr<Kernel> make_depthwise(const OperatorView&) {
  return nullptr;
}

}  // namespace piqi
#endif
