#if defined(PIQI_ARMCL)
#include "armcl_sequence.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>

namespace piqi::armcl {
namespace {

uint64_t next_owner() {
  // Not those of other sequences, which share the kernels of the KernelCache.
  static std::atomic<uint64_t> last{uint64_t{1} << 32};
  return ++last;
}

struct Life {
  TensorId tensor;
  size_t first, last;  // operators that make and last read it
  size_t size, offset;
};

size_t room_of(const Tensor& tensor) {
  const size_t alignment = AlignedBuffer::alignment;
  return (tensor.size_bytes() + extra_bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

Placement place(const Graph& graph, const std::vector<const Operator*>& operators,
                const std::vector<TensorId>& external) {
  const auto is_external = [&](TensorId id) {
    return std::find(external.begin(), external.end(), id) != external.end();
  };
  std::vector<Life> lives;
  std::vector<size_t> life_of(graph.tensors().size(), npos);
  for (size_t i = 0; i < operators.size(); ++i) {
    for (TensorId id : operators[i]->outputs) {
      if (is_external(id)) continue;
      life_of[id] = lives.size();
      lives.push_back({id, i, i, room_of(graph.tensor(id)), 0});
    }
    for (TensorId id : operators[i]->inputs)
      if (id != npos && life_of[id] != npos) lives[life_of[id]].last = i;
  }
  // Largest first, each at the lowest offset that is free as long as it lives.
  std::stable_sort(lives.begin(), lives.end(), [](const Life& a, const Life& b) { return a.size > b.size; });
  Placement placement;
  for (auto life = lives.begin(); life != lives.end(); ++life) {
    std::vector<const Life*> beside;
    for (auto other = lives.begin(); other != life; ++other)
      if (other->first <= life->last && life->first <= other->last) beside.push_back(&*other);
    std::sort(beside.begin(), beside.end(),
              [](const Life* a, const Life* b) { return a->offset < b->offset; });
    for (const Life* other : beside) {
      if (life->offset + life->size <= other->offset) break;
      life->offset = std::max(life->offset, other->offset + other->size);
    }
    placement.size_bytes = std::max(placement.size_bytes, life->offset + life->size);
    placement.blocks.push_back({life->tensor, life->offset});
  }
  return placement;
}

std::vector<const Operator*> operators_of(const Graph& graph, const SubGraph& sub_graph) {
  std::vector<const Operator*> operators;
  for (const Step& step : sub_graph.steps)
    for (OperatorId id : step.operators) operators.push_back(&graph.operators()[id]);
  return operators;
}

KernelSequence::KernelSequence(std::shared_ptr<const Graph> graph, const SubGraph& sub_graph,
                               std::shared_ptr<ArenaPool> arenas, const Maker& make)
    : graph_(std::move(graph)),
      inputs_(sub_graph.receivers),
      outputs_(sub_graph.senders),
      data_(graph_->tensors().size()),
      arenas_(std::move(arenas)) {
  const std::vector<const Operator*> operators = operators_of(*graph_, sub_graph);
  for (const Operator* op : operators) {
    Node node{make(*op), next_owner(), {}, op->outputs, {}, {}};
    for (TensorId id : op->inputs)
      if (!graph_->tensor(id).is_constant()) node.inputs.push_back(id);
    node.input_data.resize(node.inputs.size());
    node.output_data.resize(node.outputs.size());
    nodes_.push_back(std::move(node));
  }
  size_t end = 0;
  for (const Step& step : sub_graph.steps) step_ends_.push_back(end += step.operators.size());
  placement_ = place(*graph_, operators, outputs_);
}

KernelSequence::~KernelSequence() {
  release();
}

Format KernelSequence::input_format(size_t i) const {
  const Tensor& tensor = graph_->tensor(inputs_.at(i));
  return {tensor.type, tensor.quantization, Layout::Nhwc};
}

Format KernelSequence::output_format(size_t i) const {
  const Tensor& tensor = graph_->tensor(outputs_.at(i));
  return {tensor.type, tensor.quantization, Layout::Nhwc};
}

void KernelSequence::bind(const void* const* inputs, void* const* outputs) {
  // Inputs are only ever read.
  for (size_t i = 0; i < inputs_.size(); ++i) data_[inputs_[i]] = const_cast<void*>(inputs[i]);
  for (size_t i = 0; i < outputs_.size(); ++i) data_[outputs_[i]] = outputs[i];
  if (!arena_ && placement_.size_bytes > 0) arena_ = arenas_->take(placement_.size_bytes, last_);
  if (arena_ && arena_->data() != last_) {
    last_ = arena_->data();
    for (const Placement::Block& block : placement_.blocks)
      data_[block.tensor] = arena_->data() + block.offset;
  }
  for (Node& node : nodes_) {
    for (size_t i = 0; i < node.inputs.size(); ++i)
      node.stale |= std::exchange(node.input_data[i], data_[node.inputs[i]]) != data_[node.inputs[i]];
    for (size_t i = 0; i < node.outputs.size(); ++i)
      node.stale |= std::exchange(node.output_data[i], data_[node.outputs[i]]) != data_[node.outputs[i]];
  }
}

void KernelSequence::run_step(size_t step, pthreadpool_t pool) {
  for (size_t i = step == 0 ? 0 : step_ends_[step - 1]; i < step_ends_[step]; ++i) run(nodes_[i], pool);
  if (shared_ && step + 1 == step_ends_.size()) release();
}

void KernelSequence::run(Node& node, pthreadpool_t pool) {
  Kernel& kernel = *node.made.kernel;
  const std::lock_guard lock(kernel.mutex);
  if (kernel.owner != node.owner || node.stale || node.pool != pool) {
    kernel.owner = 0;
    kernel.setup(node.input_data.data(), node.output_data.data(), pool);
    kernel.owner = node.owner;
    node.stale = false;
    node.pool = pool;
  }
  const auto start = measured_ ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
  kernel.run(pool);
  if (measured_) kernel_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
}

void KernelSequence::share_memory(bool shared) {
  shared_ = shared;
  if (shared) release();
}

void KernelSequence::release() {
  if (arena_) arenas_->give_back(std::move(arena_));
}

size_t KernelSequence::memory_bytes() const {
  // Kernels are shared: those who hold one count a part of it each.
  size_t total = 0;
  for (const Node& node : nodes_) {
    const std::shared_ptr<Kernel>& kernel = node.made.kernel;
    if (!node.made.cached) total += kernel->memory_bytes() / static_cast<size_t>(kernel.use_count());
  }
  return total;
}

}  // namespace piqi::armcl
#endif
