#include "kernel_xnnpack.hpp"

#include <cmath>
#include <cstdlib>

#include "thread_pool_checks.hpp"
#include "xnnpack_operators.hpp"

namespace piqi {
namespace {

// XNNPACK does not tell how much memory an operator holds; its allocator sees every request.
thread_local size_t allocated_bytes = 0;

void* allocate(void*, size_t size) {
  allocated_bytes += size;
  return std::malloc(size);
}

void* reallocate(void*, void* pointer, size_t size) {
  allocated_bytes += size;
  return std::realloc(pointer, size);
}

void* aligned_allocate(void*, size_t alignment, size_t size) {
  allocated_bytes += size;
  return std::aligned_alloc(alignment, round_up(size, alignment));
}

void deallocate(void*, void* pointer) {
  std::free(pointer);
}

struct DeleteOperator {
  void operator()(xnn_operator_t op) const { xnn_delete_operator(op); }
};

class XnnKernel final : public BoundKernel {
 public:
  XnnKernel(const OperatorView& view, size_t operands, XnnOperator parts)
      : BoundKernel(view, operands),
        label_(view.label()),
        parts_(std::move(parts)),
        output_bytes_(view.output().size_bytes()) {
    initialize_xnnpack();
    const size_t before = allocated_bytes;
    xnn_operator_t op = nullptr;
    check_xnnpack(parts_.create(&op), label_);
    op_.reset(op);
    held_bytes_ = allocated_bytes - before;
  }

  void setup(const void* const* inputs, void* const* outputs, pthreadpool_t pool) override {
    BoundKernel::setup(inputs, outputs, pool);
    const size_t before = allocated_bytes;
    check_xnnpack(parts_.setup(op_.get(), BoundKernel::inputs(), BoundKernel::outputs(), pool), label_);
    held_bytes_ += allocated_bytes - before;
  }

  void run(pthreadpool_t pool) override {
    check_xnnpack(xnn_run_operator(op_.get(), pool), label_);
    if (!parts_.table.empty()) {
      rework<uint8_t>(
          pool, [&](uint8_t* values, size_t count) { copy_through(parts_.table, values, values, count); });
    } else if (std::isfinite(parts_.clamp_min) || std::isfinite(parts_.clamp_max)) {
      rework<float>(pool, [&](float* values, size_t count) {
        for (size_t i = 0; i < count; ++i)
          values[i] = std::min(std::max(values[i], parts_.clamp_min), parts_.clamp_max);
      });
    }
  }

  size_t memory_bytes() const override {
    return BoundKernel::memory_bytes() + held_bytes_ + parts_.table.size();
  }

 private:
  template <typename T, typename Function>
  void rework(pthreadpool_t pool, const Function& function) const {
    const size_t count = output_bytes_ / sizeof(T);
    parallel_for(output_bytes_ < parallel_bytes ? nullptr : pool, count, parallel_bytes / 4,
                 [&](size_t begin, size_t size) { function(output<T>() + begin, size); });
  }

  const std::string label_;
  const XnnOperator parts_;
  const size_t output_bytes_;
  std::unique_ptr<xnn_operator, DeleteOperator> op_;
  size_t held_bytes_ = 0;
};

}  // namespace

void initialize_xnnpack() {
  static const xnn_status status = [] {
    static const xnn_allocator allocator = {nullptr,    allocate,         reallocate,
                                            deallocate, aligned_allocate, deallocate};
    return xnn_initialize(&allocator);
  }();
  if (status != xnn_status_success) {
    throw BackendError("XNNPACK cannot be initialised: status " + std::to_string(status));
  }
}

bool pool_is_interposed() {
  static const bool interposed = [] {
    initialize_xnnpack();
    xnn_operator_t op = nullptr;
    float value = 0;
    const XnnOperator softmax = xnn_softmax(1, 1);
    const void* input = &value;
    void* output = &value;
    check_xnnpack(softmax.create(&op), "softmax");
    const std::unique_ptr<xnn_operator, DeleteOperator> owner(op);
    check_xnnpack(softmax.setup(op, &input, &output, nullptr), "softmax");
    const uint64_t before = parallel_calls();
    check_xnnpack(xnn_run_operator(op, nullptr), "softmax");
    return parallel_calls() > before;
  }();
  return interposed;
}

void check_xnnpack(xnn_status status, const std::string& label) {
  switch (status) {
    case xnn_status_success:
      return;
    case xnn_status_invalid_parameter:
      throw UnsupportedError(label +
                             ": XNNPACK calls a parameter invalid (its clamp is empty, or a scale is)");
    case xnn_status_unsupported_parameter:
      throw UnsupportedError(label +
                             ": XNNPACK does not support its parameters (ratio of scales out of range)");
    case xnn_status_unsupported_hardware:
      throw UnsupportedError(label + ": XNNPACK does not support it on this processor");
    case xnn_status_out_of_memory:
      throw BackendError(label + ": XNNPACK is out of memory");
    default:
      throw BackendError(label + ": XNNPACK failed with status " + std::to_string(status));
  }
}

std::shared_ptr<Kernel> make_xnn_kernel(const OperatorView& view, size_t operands, XnnOperator op) {
  return std::make_shared<XnnKernel>(view, operands, std::move(op));
}

}  // namespace piqi
