// Mean over any axes.
#include "xnnpack_operators.hpp"

namespace piqi {
namespace {

/// Sums in double (floats) or int32 (8-bit: exact), rounded once.
template <typename T>
class Mean final : public BoundKernel {
 public:
  explicit Mean(const OperatorView& view) : BoundKernel(view, 1) {
    const Shape& shape = view.input(0).shape;
    std::vector<bool> reduced(shape.size());
    for (const size_t axis : view.parameters().axes) reduced.at(axis) = true;
    bases_ = {0}, steps_ = {0};
    size_t stride = 1;
    bool trailing = true;
    for (size_t axis = shape.size(); axis-- > 0;) {
      trailing = trailing && !reduced[axis];
      if (trailing) {
        inner_ *= shape[axis];
      } else {
        expand(reduced[axis] ? &steps_ : &bases_, shape[axis], stride);
      }
      stride *= shape[axis];
    }
    if (quantised) {
      if (steps_.size() >= size_t{1} << 23) view.unsupported("mean of more than 2^23 values");
      in_ = view.affine(view.input(0));
      out_ = view.affine(view.output());
    }
  }

  void run(pthreadpool_t pool) override {
    const size_t blocks = (inner_ + block - 1) / block;
    const size_t work = bases_.size() * inner_ * steps_.size() * sizeof(T);
    parallel_for(work < parallel_bytes ? nullptr : pool, bases_.size() * blocks, 1,
                 [&](size_t begin, size_t count) {
                   for (size_t i = begin; i < begin + count; ++i) compute(i / blocks, i % blocks * block);
                 });
  }

  size_t memory_bytes() const override {
    return BoundKernel::memory_bytes() + (bases_.size() + steps_.size()) * sizeof(size_t);
  }

 private:
  static constexpr bool quantised = !std::is_same_v<T, float>;
  using Sum = std::conditional_t<quantised, int32_t, double>;
  static constexpr size_t block = 256;

  /// Makes `offsets` those of one more, outer dimension, in row-major order.
  static void expand(std::vector<size_t>* offsets, size_t extent, size_t stride) {
    const size_t known = offsets->size();
    offsets->reserve(known * extent);
    for (size_t i = 1; i < extent; ++i) {
      for (size_t j = 0; j < known; ++j) offsets->push_back((*offsets)[j] + i * stride);
    }
  }

  void compute(size_t index, size_t first) {
    const size_t width = std::min(block, inner_ - first);
    const T* const source = input<T>() + bases_[index] + first;
    T* const result = output<T>() + index * inner_ + first;
    Sum sums[block] = {};
    for (const size_t step : steps_) {
      for (size_t i = 0; i < width; ++i) sums[i] += source[step + i];
    }
    const double count = static_cast<double>(steps_.size());
    for (size_t i = 0; i < width; ++i) {
      if constexpr (quantised) {
        result[i] = static_cast<T>(out_.stored(in_.scale * (sums[i] / count - in_.zero_point)));
      } else {
        result[i] = static_cast<T>(sums[i] / count);
      }
    }
  }

  std::vector<size_t> bases_;  // where in the input each run of `inner_` outputs begins
  std::vector<size_t> steps_;  // from there to each value that is averaged
  size_t inner_ = 1;
  Affine in_, out_;
};

}  // namespace

std::shared_ptr<Kernel> make_mean(const OperatorView& view) {
  view.require_same_types(1);
  const Shape& x = view.input(0).shape;
  std::vector<size_t> axes = view.parameters().axes;
  std::sort(axes.begin(), axes.end());
  if (view.is_float() && x.size() == 4 && axes == std::vector<size_t>{1, 2}) {
    if (auto op = xnn_global_average(view.parameters(), x)) return make_xnn_kernel(view, 1, std::move(*op));
  }
  switch (view.type()) {
    case DataType::Float32:
      return std::make_shared<Mean<float>>(view);
    case DataType::Int8:
      return std::make_shared<Mean<int8_t>>(view);
    case DataType::UInt8:
      return std::make_shared<Mean<uint8_t>>(view);
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

}  // namespace piqi
