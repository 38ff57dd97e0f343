// Softmax and local response normalisation.
#include <cmath>

#include "xnnpack_operators.hpp"

namespace piqi {
namespace {

/// Rows of the last dimension, computed independently.
class RowKernel : public BoundKernel {
 public:
  void run(pthreadpool_t pool) override {
    const size_t tile = std::max<size_t>(1, 1024 / depth_);
    parallel_for(rows_ <= tile ? nullptr : pool, rows_, tile, [&](size_t begin, size_t count) {
      for (size_t row = begin; row < begin + count; ++row) compute(row * depth_);
    });
  }

 protected:
  explicit RowKernel(const OperatorView& view) : BoundKernel(view, 1) {
    const Shape& shape = view.input(0).shape;
    if (shape.empty()) view.unsupported("needs at least one dimension");
    depth_ = shape.back();
    rows_ = element_count(shape) / depth_;
  }
  virtual void compute(size_t first) = 0;

  size_t rows_ = 0, depth_ = 0;
};

/// For any beta; XNNPACK has beta = 1.
class FloatSoftmax final : public RowKernel {
 public:
  explicit FloatSoftmax(const OperatorView& view) : RowKernel(view), beta_(view.parameters().beta) {}

 private:
  void compute(size_t first) override {
    const float* const x = input<float>() + first;
    float* const y = output<float>() + first;
    float highest = beta_ * x[0];
    for (size_t i = 1; i < depth_; ++i) highest = std::max(highest, beta_ * x[i]);
    double sum = 0;
    for (size_t i = 0; i < depth_; ++i) sum += y[i] = std::exp(beta_ * x[i] - highest);
    const auto factor = static_cast<float>(1 / sum);
    for (size_t i = 0; i < depth_; ++i) y[i] *= factor;
  }

  const float beta_;
};

template <typename T>
class QuantizedSoftmax final : public RowKernel {
 public:
  explicit QuantizedSoftmax(const OperatorView& view) : RowKernel(view), out_(view.affine(view.output())) {
    const double scale = view.affine(view.input(0)).scale * view.parameters().beta;
    if (scale < 0) view.unsupported("negative beta");
    for (int32_t below = 0; below < 256; ++below) exponentials_.push_back(std::exp(-scale * below));
  }
  size_t memory_bytes() const override {
    return BoundKernel::memory_bytes() + exponentials_.size() * sizeof(double);
  }

 private:
  void compute(size_t first) override {
    const T* const x = input<T>() + first;
    T* const y = output<T>() + first;
    const int32_t highest = *std::max_element(x, x + depth_);
    double sum = 0;
    for (size_t i = 0; i < depth_; ++i) sum += exponentials_[static_cast<size_t>(highest - x[i])];
    for (size_t i = 0; i < depth_; ++i) {
      y[i] = static_cast<T>(out_.stored(exponentials_[static_cast<size_t>(highest - x[i])] / sum));
    }
  }

  const Affine out_;
  std::vector<double> exponentials_;  // [steps below the row's maximum]
};

template <typename T>
class LocalResponseNormalization final : public RowKernel {
 public:
  explicit LocalResponseNormalization(const OperatorView& view) : RowKernel(view), p_(view.parameters()) {
    if (p_.radius > max_radius) view.unsupported("radius " + std::to_string(p_.radius) + " is too large");
    if (quantised) {
      in_ = view.affine(view.input(0));
      out_ = view.affine(view.output());
    }
  }

 private:
  static constexpr bool quantised = !std::is_same_v<T, float>;
  static constexpr size_t block = 256, max_radius = 1024;

  float real(T value) const {
    if constexpr (quantised) return static_cast<float>(in_.real(value));
    return value;
  }

  void compute(size_t first) override {
    for (size_t begin = 0; begin < depth_; begin += block) {
      normalize(input<T>() + first, output<T>() + first, begin, std::min(block, depth_ - begin));
    }
  }

  /// Channels [begin, begin + width) of a row: simple loops over arrays, which the compiler vectorises.
  void normalize(const T* x, T* y, size_t begin, size_t width) const {
    float squares[block + 2 * max_radius];  // of the channels from `begin - radius`; 0 outside of the row
    for (size_t i = 0; i < width + 2 * p_.radius; ++i) {
      const size_t shifted = begin + i;  // the channel + radius, which cannot be negative
      const bool inside = shifted >= p_.radius && shifted - p_.radius < depth_;
      const float value = inside ? real(x[shifted - p_.radius]) : 0;
      squares[i] = value * value;
    }
    float sums[block] = {};
    for (size_t d = 0; d <= 2 * p_.radius; ++d) {
      for (size_t c = 0; c < width; ++c) sums[c] += squares[c + d];
    }
    for (size_t c = 0; c < width; ++c) sums[c] = p_.bias + p_.alpha * sums[c];
    // The exponents of the published networks go without the cost of pow().
    if (p_.beta == 0.75f) {
      for (size_t c = 0; c < width; ++c) sums[c] = 1 / (std::sqrt(sums[c]) * std::sqrt(std::sqrt(sums[c])));
    } else if (p_.beta == 0.5f) {
      for (size_t c = 0; c < width; ++c) sums[c] = 1 / std::sqrt(sums[c]);
    } else {
      for (size_t c = 0; c < width; ++c) sums[c] = std::pow(sums[c], -p_.beta);
    }
    for (size_t c = 0; c < width; ++c) {
      const float result = real(x[begin + c]) * sums[c];
      if constexpr (quantised) {
        y[begin + c] = static_cast<T>(out_.stored(result));
      } else {
        y[begin + c] = result;
      }
    }
  }

  const OperatorParameters p_;
  Affine in_, out_;
};

template <template <typename> class Quantised>
std::shared_ptr<Kernel> make_quantized(const OperatorView& view) {
  if (view.type() == DataType::Int8) return std::make_shared<Quantised<int8_t>>(view);
  if (view.type() == DataType::UInt8) return std::make_shared<Quantised<uint8_t>>(view);
  view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
}

}  // namespace

std::shared_ptr<Kernel> make_softmax(const OperatorView& view) {
  view.require_same_types(1);
  if (!view.is_float()) return make_quantized<QuantizedSoftmax>(view);
  const Shape& x = view.input(0).shape;
  if (view.parameters().beta != 1 || x.empty()) return std::make_shared<FloatSoftmax>(view);
  return make_xnn_kernel(view, 1, xnn_softmax(element_count(x) / x.back(), x.back()));
}

std::shared_ptr<Kernel> make_local_response_normalization(const OperatorView& view) {
  view.require_same_types(1);
  if (view.is_float()) return std::make_shared<LocalResponseNormalization<float>>(view);
  return make_quantized<LocalResponseNormalization>(view);
}

}  // namespace piqi
