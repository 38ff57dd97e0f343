// Element-wise operators: binary ones with broadcasting, unary ones on floats, 8-bit ones as lookup tables.
#include <cmath>

#include "kernel_xnnpack.hpp"

namespace piqi {
namespace {

template <typename T, typename Function>
XnnSetup binary_setup(Function* setup, const OperatorView& view) {
  return [setup, a = view.input(0).shape, b = view.input(1).shape](
             xnn_operator_t op, const void* const* inputs, void* const* outputs, pthreadpool_t pool) {
    return setup(op, a.size(), a.data(), b.size(), b.data(), static_cast<const T*>(inputs[0]),
                 static_cast<const T*>(inputs[1]), static_cast<T*>(outputs[0]), pool);
  };
}

template <typename Create, typename Setup>
std::shared_ptr<Kernel> binary_f32(const OperatorView& view, Create* create, Setup* setup) {
  const OperatorParameters& p = view.parameters();
  return make_xnn_kernel(
      view, 2, [&](xnn_operator_t* op) { return create(p.clamp_min, p.clamp_max, 0, op); },
      binary_setup<float>(setup, view));
}

template <typename T, typename Create, typename Setup>
std::shared_ptr<Kernel> binary_q8(const OperatorView& view, Create* create, Setup* setup) {
  const Affine a = view.affine(view.input(0)), b = view.affine(view.input(1)), out = view.clamped_output();
  return make_xnn_kernel(
      view, 2,
      [&](xnn_operator_t* op) {
        return create(static_cast<T>(a.zero_point), static_cast<float>(a.scale), static_cast<T>(b.zero_point),
                      static_cast<float>(b.scale), static_cast<T>(out.zero_point),
                      static_cast<float>(out.scale), static_cast<T>(out.lowest), static_cast<T>(out.highest),
                      0, op);
      },
      binary_setup<T>(setup, view));
}

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

template <typename Function, typename... Parameters>
XnnCreate unary_create(Function* create, Parameters... parameters) {
  return [=](xnn_operator_t* op) { return create(1, 1, 1, parameters..., 0, op); };
}

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
  const bool add = view.op.kind == OperatorKind::Add, subtract = view.op.kind == OperatorKind::Subtract;
  switch (view.type()) {
    case DataType::Float32:
      return add        ? binary_f32(view, xnn_create_add_nd_f32, xnn_setup_add_nd_f32)
             : subtract ? binary_f32(view, xnn_create_subtract_nd_f32, xnn_setup_subtract_nd_f32)
                        : binary_f32(view, xnn_create_multiply_nd_f32, xnn_setup_multiply_nd_f32);
    case DataType::Int8:
      return add        ? binary_q8<int8_t>(view, xnn_create_add_nd_qs8, xnn_setup_add_nd_qs8)
             : subtract ? binary_q8<int8_t>(view, xnn_create_subtract_nd_qs8, xnn_setup_subtract_nd_qs8)
                        : binary_q8<int8_t>(view, xnn_create_multiply_nd_qs8, xnn_setup_multiply_nd_qs8);
    case DataType::UInt8:
      return add        ? binary_q8<uint8_t>(view, xnn_create_add_nd_qu8, xnn_setup_add_nd_qu8)
             : subtract ? binary_q8<uint8_t>(view, xnn_create_subtract_nd_qu8, xnn_setup_subtract_nd_qu8)
                        : binary_q8<uint8_t>(view, xnn_create_multiply_nd_qu8, xnn_setup_multiply_nd_qu8);
    default:
      view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  }
}

std::shared_ptr<Kernel> make_unary(const OperatorView& view) {
  view.require_same_types(1);
  if (view.is_8bit()) return make_lookup(view);
  if (!view.is_float()) view.unsupported(std::string("cannot compute in ") + to_string(view.type()));
  const OperatorParameters& p = view.parameters();
  const size_t size = element_count(view.output().shape);
  switch (view.op.kind) {
    case OperatorKind::Logistic:
      return make_xnn_kernel(view, 1, unary_create(xnn_create_sigmoid_nc_f32),
                             xnn_setup<float>(xnn_setup_sigmoid_nc_f32, size));
    case OperatorKind::Clamp:
      return make_xnn_kernel(view, 1, unary_create(xnn_create_clamp_nc_f32, p.clamp_min, p.clamp_max),
                             xnn_setup<float>(xnn_setup_clamp_nc_f32, size));
    case OperatorKind::LeakyRelu:
      return make_xnn_kernel(view, 1, unary_create(xnn_create_leaky_relu_nc_f32, p.alpha),
                             xnn_setup<float>(xnn_setup_leaky_relu_nc_f32, size));
    case OperatorKind::HardSwish:
      return make_xnn_kernel(view, 1, unary_create(xnn_create_hardswish_nc_f32),
                             xnn_setup<float>(xnn_setup_hardswish_nc_f32, size));
    default:
      return std::make_shared<Tanh>(view);
  }
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
  const auto scale = static_cast<float>(q.scale);
  const bool is_signed = q.lowest < 0;
  const auto make = [&](auto stored, auto* create_to, auto* setup_to, auto* create_from, auto* setup_from) {
    using T = decltype(stored);
    const auto zero_point = static_cast<T>(q.zero_point);
    const XnnCreate create = [=](xnn_operator_t* op) {
      return quantize ? create_to(1, 1, 1, scale, zero_point, static_cast<T>(q.lowest),
                                  static_cast<T>(q.highest), 0, op)
                      : create_from(1, 1, 1, scale, zero_point, 0, op);
    };
    const XnnSetup setup = [=](xnn_operator_t op, const void* const* inputs, void* const* outputs,
                               pthreadpool_t pool) {
      return quantize
                 ? setup_to(op, size, static_cast<const float*>(inputs[0]), static_cast<T*>(outputs[0]), pool)
                 : setup_from(op, size, static_cast<const T*>(inputs[0]), static_cast<float*>(outputs[0]),
                              pool);
    };
    return make_xnn_kernel(view, 1, create, setup);
  };
  return is_signed ? make(int8_t{}, xnn_create_convert_nc_f32_qs8, xnn_setup_convert_nc_f32_qs8,
                          xnn_create_convert_nc_qs8_f32, xnn_setup_convert_nc_qs8_f32)
                   : make(uint8_t{}, xnn_create_convert_nc_f32_qu8, xnn_setup_convert_nc_f32_qu8,
                          xnn_create_convert_nc_qu8_f32, xnn_setup_convert_nc_qu8_f32);
}

}  // namespace piqi
