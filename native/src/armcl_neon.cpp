// Processors with NEON on the Arm Compute Library's functions; operators that it has none for run on our own
// kernels.
#if defined(PIQI_ARMCL)
#include <arm_compute/runtime/NEON/NEFunctions.h>
#include <arm_compute/runtime/Tensor.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "armcl_functions.hpp"
#include "armcl_memory.hpp"
#include "armcl_scheduler.hpp"
#include "piqi/backend.hpp"
#include "sequence_sub_graph.hpp"

namespace piqi {
namespace {

using namespace armcl;

struct Neon {
  static constexpr const char* name = "NEON";
  using Tensor = acl::Tensor;
  using ITensor = acl::ITensor;
  PIQI_ARMCL_FUNCTIONS(NE);

  /// Constants without padding stay where they are.
  static void fill(Tensor& tensor, const void* data) {
    if (is_dense(*tensor.info())) {
      acl::Status status = tensor.allocator()->import_memory(const_cast<void*>(data));
      status.throw_if_error();
      return;
    }
    tensor.allocator()->allocate();
    copy_in(data, tensor.buffer(), *tensor.info());
  }
  static void finish() {}
};

/// An operator on the library's functions. Operands that it pads are copied.
class NeonKernel final : public Kernel {
 public:
  NeonKernel(std::shared_ptr<const Graph> graph, const Operator& op, unsigned threads,
             const std::shared_ptr<ArenaPool>& arenas, std::shared_ptr<std::atomic<uint64_t>> copied_bytes)
      : graph_(std::move(graph)),
        view_{*graph_, op},
        threads_(threads),
        functions_(view_, acl::DataType::F32, make_memory_manager(arenas)),
        copied_bytes_(std::move(copied_bytes)) {
    const Worker worker(nullptr, threads_);
    std::vector<acl::Tensor*> inputs, outputs;
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      const bool constant = view_.has_input(i) && view_.input(i).is_constant();
      inputs.push_back(constant ? nullptr : add(inputs_, Functions<Neon>::input_shape(view_, i)));
      if (view_.has_input(i) && constant) constant_bytes_ += view_.input(i).size_bytes();
    }
    for (size_t i = 0; i < op.outputs.size(); ++i)
      outputs.push_back(add(outputs_, Functions<Neon>::output_shape(view_, i)));
    guarded(view_.label(), [&] {
      functions_.configure(inputs, outputs);
      for (std::vector<Operand>* operands : {&inputs_, &outputs_})
        for (Operand& operand : *operands) allocate(operand);
      functions_.prepare();
    });
  }

  void setup(const void* const* inputs, void* const* outputs, pthreadpool_t) override {
    // Inputs are only ever read.
    for (size_t i = 0; i < inputs_.size(); ++i) bind(inputs_[i], const_cast<void*>(inputs[i]));
    for (size_t i = 0; i < outputs_.size(); ++i) bind(outputs_[i], outputs[i]);
  }

  void run(pthreadpool_t pool) override {
    const auto threads = static_cast<unsigned>(pthreadpool_get_threads_count(pool));
    const Worker worker(pool, std::min(threads, threads_));
    guarded(view_.label(), [&] {
      for (const Operand& operand : inputs_)
        if (operand.padded) copy_in(operand.data, operand.tensor->buffer(), *operand.tensor->info());
      functions_.run();
      for (const Operand& operand : outputs_)
        if (operand.padded) copy_out(operand.tensor->buffer(), *operand.tensor->info(), operand.data);
    });
    if (copied_per_run_ > 0) copied_bytes_->fetch_add(copied_per_run_, std::memory_order_relaxed);
  }

  /// Packed weights are about as large as they were; the library does not tell.
  size_t memory_bytes() const override { return constant_bytes_ + padded_bytes_; }

 private:
  struct Operand {
    std::shared_ptr<acl::Tensor> tensor;
    bool padded = false;
    void* data = nullptr;  // the caller's
  };

  static acl::Tensor* add(std::vector<Operand>& operands, const Shape& shape) {
    operands.push_back({make_tensor<acl::Tensor>(info_of(shape, acl::DataType::F32))});
    return operands.back().tensor.get();
  }

  void allocate(Operand& operand) {
    operand.padded = !is_dense(*operand.tensor->info());
    if (!operand.padded) return;
    operand.tensor->allocator()->allocate();
    padded_bytes_ += operand.tensor->info()->total_size();
    copied_per_run_ += operand.tensor->info()->tensor_shape().total_size() * sizeof(float);
  }

  void bind(Operand& operand, void* data) const {
    if (operand.data == data) return;
    operand.data = data;
    if (operand.padded) return;
    guarded(view_.label(), [&] {
      acl::Status status = operand.tensor->allocator()->import_memory(data);
      status.throw_if_error();
    });
  }

  const std::shared_ptr<const Graph> graph_;
  const OperatorView view_;
  const unsigned threads_;
  Functions<Neon> functions_;
  const std::shared_ptr<std::atomic<uint64_t>> copied_bytes_;
  std::vector<Operand> inputs_, outputs_;
  size_t constant_bytes_ = 0, padded_bytes_ = 0, copied_per_run_ = 0;
};

class NeonBackend final : public VendorBackend {
 public:
  explicit NeonBackend(unsigned threads) : threads_(threads) { use_pool_scheduler(); }

  std::unique_ptr<PreparedSubGraph> prepare(const std::shared_ptr<const Graph>& graph,
                                            const SubGraph& sub_graph, KernelCache& cache) override {
    refuse_partition(sub_graph, "armcl_neon", "float32");
    const auto make = [&](const Operator& op) { return kernel(graph, op, cache); };
    return prepare_sequence(graph, sub_graph, make, cache.arenas());
  }

  std::string library() const override { return library_file(); }
  std::string version() const override { return library_version(); }
  uint64_t copied_bytes() const override { return *copied_bytes_; }
  std::vector<std::string> elsewhere() const override {
    const std::lock_guard lock(mutex_);
    return {elsewhere_.begin(), elsewhere_.end()};
  }

 private:
  /// Sub-graphs of many configurations share a kernel, as they do those of the KernelCache.
  OperatorSequence::Made kernel(const std::shared_ptr<const Graph>& graph, const Operator& op,
                                KernelCache& cache) {
    const std::lock_guard lock(mutex_);
    for (auto i = kernels_.begin(); i != kernels_.end();)
      i = i->second.expired() ? kernels_.erase(i) : std::next(i);
    // The address stays the graph's as long as the kernel lives, which holds it.
    std::weak_ptr<Kernel>& known = kernels_[{graph.get(), &op}];
    if (auto found = known.lock()) return {found};
    try {
      auto made = std::make_shared<NeonKernel>(graph, op, threads_, cache.arenas(), copied_bytes_);
      known = made;
      return {made};
    } catch (const NoFunctionError& error) {
      elsewhere_.insert(error.what());
      return {cache.get(*graph, op), true};
    }
  }

  const unsigned threads_;
  const std::shared_ptr<std::atomic<uint64_t>> copied_bytes_ = std::make_shared<std::atomic<uint64_t>>(0);
  mutable std::mutex mutex_;
  std::set<std::string> elsewhere_;
  std::map<std::pair<const Graph*, const Operator*>, std::weak_ptr<Kernel>> kernels_;
};

}  // namespace

std::shared_ptr<VendorBackend> make_armcl_neon_backend(size_t threads) {
  return guarded("armcl_neon", [&] { return std::make_shared<NeonBackend>(static_cast<unsigned>(threads)); });
}

}  // namespace piqi
#endif
