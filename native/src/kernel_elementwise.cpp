// Element-wise operators: binary ones with broadcasting, unary ones on floats, 8-bit ones as lookup tables.
#include <cmath>

#include "xnnpack_operators.hpp"

namespace piqi {
namespace {

/// A function of each 8-bit value.
class Lookup final : public BoundKernel {
 public:
  Lookup(const OperatorView& view, LookupTable table)
      : BoundKernel(view, 1), size_(element_count(view.output().shape)), table_(std::move(table)) {}

  void run(pthreadpool_t pool) override {
    parallel_for(size_ < parallel_bytes ? nullptr : pool, size_, parallel_bytes / 4,
                 [&](size_t begin, size_t count) {
                   copy_through(table_, input<uint8_t>() + begin, output<uint8_t>() + begin, count);
                 });
  }
  size_t memory_bytes() const override { return BoundKernel::memory_bytes() + table_.size(); }

 private:
  const size_t size_;
  const LookupTable table_;
};

class Tanh final : public BoundKernel {
 public:
  explicit Tanh(const OperatorView& view) : BoundKernel(view, 1), size_(element_count(view.output().shape)) {}

  void run(pthreadpool_t pool) override {
    parallel_for(size_ < 1024 ? nullptr : pool, size_, 1024, [&](size_t begin, size_t count) {
      for (size_t i = begin; i < begin + count; ++i) output<float>()[i] = std::tanh(input<float>()[i]);
    });
  }

 private:
  const size_t size_;
};

double evaluate(const OperatorView& view, double x) {
  const OperatorParameters& p = view.parameters();
  switch (view.op.kind) {
    case OperatorKind::Logistic:
      return 1 / (1 + std::exp(-x));
    case OperatorKind::Tanh:
      return std::tanh(x);
    case OperatorKind::LeakyRelu:
      return x < 0 ? static_cast<double>(p.alpha) * x : x;
    case OperatorKind::HardSwish:
      return x * std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case OperatorKind::Clamp:
      return std::min<double>(std::max<double>(x, p.clamp_min), p.clamp_max);
    default:
      return x;
  }
}

}  // namespace

std::shared_ptr<Kernel> make_binary(const OperatorView& view) {
  view.require_same_types(2);
  return make_xnn_kernel(view, 2, xnn_binary(view));
}

std::shared_ptr<Kernel> make_unary(const OperatorView& view) {
  view.require_same_types(1);
  if (view.is_8bit()) return make_lookup(view);
  if (!view.is_float()) view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  if (view.op.kind == OperatorKind::Tanh) return std::make_shared<Tanh>(view);
  return make_xnn_kernel(view, 1,
                         xnn_unary(view.op.kind, view.parameters(), element_count(view.output().shape)));
}

std::shared_ptr<Kernel> make_lookup(const OperatorView& view) {
  const auto function = [&](double x) { return evaluate(view, x); };
  return std::make_shared<Lookup>(
      view, make_table(view.affine(view.input(0)), view.affine(view.output()), function));
}

std::shared_ptr<Kernel> make_convert(const OperatorView& view) {
  const Tensor &in = view.input(0), &out = view.output();
  const size_t size = element_count(out.shape);
  if (in.type != DataType::Float32 && out.type != DataType::Float32) return make_lookup(view);
  const bool quantize = in.type == DataType::Float32;
  if (quantize == (out.type == DataType::Float32)) view.unsupported("neither side is quantised");
  const Affine q = view.affine(quantize ? out : in);
  XnnOperator op = q.lowest < 0 ? quantize ? xnn_quantize<int8_t>(q, size) : xnn_dequantize<int8_t>(q, size)
                   : quantize ? xnn_quantize<uint8_t>(q, size)
                                : xnn_dequantize<uint8_t>(q, size);
  return make_xnn_kernel(view, 1, std::move(op));
}

}  // namespace piqi
