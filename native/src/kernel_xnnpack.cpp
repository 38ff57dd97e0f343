#include "kernel_xnnpack.hpp"

#include <cstdlib>
#include <mutex>

#include "thread_pool_checks.hpp"

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
  XnnKernel(const OperatorView& view, size_t operands, const XnnCreate& create, XnnSetup setup,
            LookupTable table)
      : BoundKernel(view, operands),
        label_(view.label()),
        setup_(std::move(setup)),
        table_(std::move(table)),
        output_bytes_(view.output().size_bytes()) {
    initialize_xnnpack();
    const size_t before = allocated_bytes;
    xnn_operator_t op = nullptr;
    check_xnnpack(create(&op), label_);
    op_.reset(op);
    held_bytes_ = allocated_bytes - before;
  }

  void setup(const void* const* inputs, void* const* outputs, pthreadpool_t pool) override {
    BoundKernel::setup(inputs, outputs, pool);
    const size_t before = allocated_bytes;
    check_xnnpack(setup_(op_.get(), BoundKernel::inputs(), BoundKernel::outputs(), pool), label_);
    held_bytes_ += allocated_bytes - before;
  }

  void run(pthreadpool_t pool) override {
    check_xnnpack(xnn_run_operator(op_.get(), pool), label_);
    if (table_.empty()) return;
    uint8_t* const bytes = output<uint8_t>();
    parallel_for(
        output_bytes_ < parallel_bytes ? nullptr : pool, output_bytes_, parallel_bytes / 4,
        [&](size_t begin, size_t count) { copy_through(table_, bytes + begin, bytes + begin, count); });
  }

  size_t memory_bytes() const override { return BoundKernel::memory_bytes() + held_bytes_ + table_.size(); }

 private:
  const std::string label_;
  const XnnSetup setup_;
  const LookupTable table_;
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
    check_xnnpack(xnn_create_clamp_nc_f32(1, 1, 1, 0.0f, 1.0f, 0, &op), "clamp");
    const std::unique_ptr<xnn_operator, DeleteOperator> owner(op);
    check_xnnpack(xnn_setup_clamp_nc_f32(op, 1, &value, &value, nullptr), "clamp");
    const uint64_t before = parallel_calls();
    check_xnnpack(xnn_run_operator(op, nullptr), "clamp");
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

std::shared_ptr<Kernel> make_xnn_kernel(const OperatorView& view, size_t operands, const XnnCreate& create,
                                        XnnSetup setup, LookupTable output_table) {
  return std::make_shared<XnnKernel>(view, operands, create, std::move(setup), std::move(output_table));
}

}  // namespace piqi
