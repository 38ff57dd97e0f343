#include "piqi/operator_sequence.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <utility>

namespace piqi {
namespace {

uint64_t next_owner() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

size_t aligned(size_t bytes) {
  // Kernels over-read: what lies behind a tensor must belong to the arena.
  return (bytes + extra_bytes + AlignedBuffer::alignment - 1) / AlignedBuffer::alignment *
         AlignedBuffer::alignment;
}

struct Block {
  TensorId tensor;
  size_t first, last;  // nodes that make and last read it
  size_t size, offset;
};

// Largest first, each at the lowest offset where no block that lives at the same time is in the way.
size_t place_blocks(std::vector<Block>& blocks) {
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& a, const Block& b) { return a.size > b.size; });
  size_t total = 0;
  std::vector<const Block*> placed;  // by offset
  for (Block& block : blocks) {
    block.offset = 0;
    for (const Block* other : placed) {
      if (other->last < block.first || block.last < other->first) continue;
      if (block.offset + block.size <= other->offset) break;
      block.offset = std::max(block.offset, other->offset + other->size);
    }
    total = std::max(total, block.offset + block.size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &block,
                                   [](const Block* a, const Block* b) { return a->offset < b->offset; }),
                  &block);
  }
  return total;
}

}  // namespace

std::vector<OperatorId> all_operators(const Graph& graph) {
  std::vector<OperatorId> operators(graph.operators().size());
  std::iota(operators.begin(), operators.end(), OperatorId{0});
  return operators;
}

OperatorSequence::OperatorSequence(const std::shared_ptr<const Graph>& graph,
                                   const std::vector<OperatorId>& operators, std::vector<TensorId> inputs,
                                   std::vector<TensorId> outputs, KernelCache& cache, bool keep_all)
    : OperatorSequence(
          graph, operators, std::move(inputs), std::move(outputs),
          [&](const Operator& op) {
            return Made{cache.get(*graph, op), true};
          },
          cache.arenas(), keep_all) {
}

OperatorSequence::OperatorSequence(std::shared_ptr<const Graph> graph,
                                   const std::vector<OperatorId>& operators, std::vector<TensorId> inputs,
                                   std::vector<TensorId> outputs, const Maker& make,
                                   std::shared_ptr<ArenaPool> arenas, bool keep_all)
    : graph_(std::move(graph)),
      inputs_(std::move(inputs)),
      outputs_(std::move(outputs)),
      arenas_(std::move(arenas)) {
  std::vector<bool> external(graph_->tensors().size());
  for (const auto& ids : {inputs_, outputs_})
    for (TensorId id : ids) external[id] = true;
  for (OperatorId id : operators) {
    const Operator& op = graph_->operators()[id];
    Node node;
    for (TensorId input : op.inputs)
      if (!graph_->tensor(input).is_constant()) node.inputs.push_back(input);
    node.outputs = op.outputs;
    for (const auto& ids : {node.inputs, node.outputs})
      for (TensorId tensor : ids) node.external = node.external || external[tensor];
    const bool alias =
        op.kind == OperatorKind::Reshape && !node.external && !keep_all &&
        graph_->tensor(op.inputs[0]).quantization == graph_->tensor(op.outputs[0]).quantization;
    if (!alias) {
      node.made = make(op);
      node.owner = next_owner();
    }
    nodes_.push_back(std::move(node));
  }
  place(keep_all);
}

OperatorSequence::~OperatorSequence() {
  release();
}

void OperatorSequence::place(bool keep_all) {
  // An aliased output is the tensor that its reshape reads.
  std::vector<TensorId> root(graph_->tensors().size());
  for (TensorId id = 0; id < root.size(); ++id) root[id] = id;
  for (const Node& node : nodes_)
    if (!node.made.kernel) root[node.outputs[0]] = root[node.inputs[0]];

  std::vector<size_t> block_of(root.size(), npos);
  std::vector<Block> blocks;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    for (TensorId output : nodes_[i].outputs) {
      if (root[output] != output) continue;
      block_of[output] = blocks.size();
      blocks.push_back(
          {output, i, keep_all ? nodes_.size() : i, aligned(graph_->tensor(output).size_bytes()), 0});
    }
    for (TensorId input : nodes_[i].inputs)
      if (block_of[root[input]] != npos && !keep_all) blocks[block_of[root[input]]].last = i;
  }
  for (TensorId id : outputs_) block_of[id] = npos;
  blocks.erase(std::remove_if(blocks.begin(), blocks.end(),
                              [&](const Block& block) { return block_of[block.tensor] == npos; }),
               blocks.end());
  arena_bytes_ = place_blocks(blocks);
  data_.assign(root.size(), nullptr);
  std::vector<size_t> offset_of(root.size(), npos);
  for (const Block& block : blocks) offset_of[block.tensor] = block.offset;
  for (TensorId id = 0; id < root.size(); ++id)
    if (offset_of[root[id]] != npos) offsets_.emplace_back(id, offset_of[root[id]]);
}

void OperatorSequence::move_to(AlignedBuffer& arena) {
  for (const auto& [tensor, offset] : offsets_) data_[tensor] = arena.data() + offset;
  last_ = arena.data();
}

void OperatorSequence::resolve(Node& node) {
  node.input_data.resize(node.inputs.size());
  node.output_data.resize(node.outputs.size());
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    node.stale = node.stale || node.input_data[i] != data_[node.inputs[i]];
    node.input_data[i] = data_[node.inputs[i]];
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    node.stale = node.stale || node.output_data[i] != data_[node.outputs[i]];
    node.output_data[i] = data_[node.outputs[i]];
  }
}

void OperatorSequence::bind(const void* const* inputs, void* const* outputs) {
  // Inputs are only ever read; one table of plain pointers keeps the nodes simple.
  for (size_t i = 0; i < inputs_.size(); ++i) data_[inputs_[i]] = const_cast<void*>(inputs[i]);
  for (size_t i = 0; i < outputs_.size(); ++i) data_[outputs_[i]] = outputs[i];
  if (!arena_ && arena_bytes_ > 0) arena_ = arenas_->take(arena_bytes_, last_);
  const bool moved = arena_ && arena_->data() != last_;
  if (moved) move_to(*arena_);
  for (Node& node : nodes_)
    if (node.external || moved) resolve(node);
}

void OperatorSequence::release() {
  if (arena_) arenas_->give_back(std::move(arena_));
}

void OperatorSequence::run(size_t begin, size_t end, pthreadpool_t pool) {
  for (size_t i = begin; i < end; ++i) {
    Node& node = nodes_[i];
    if (!node.made.kernel) continue;
    Kernel& kernel = *node.made.kernel;
    const std::lock_guard lock(kernel.mutex);
    if (kernel.owner != node.owner || node.stale || node.pool != pool) {
      kernel.owner = 0;
      kernel.setup(node.input_data.data(), node.output_data.data(), pool);
      kernel.owner = node.owner;
      node.stale = false;
      node.pool = pool;
    }
    if (!measure_) {
      kernel.run(pool);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    kernel.run(pool);
    kernel_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  }
}

const void* OperatorSequence::data(TensorId tensor) const {
  return data_.at(tensor);
}

size_t OperatorSequence::memory_bytes() const {
  size_t total = 0;
  for (const Node& node : nodes_) {
    const auto& [kernel, cached] = node.made;
    if (kernel && !cached) total += kernel->memory_bytes() / static_cast<size_t>(kernel.use_count());
  }
  return total;
}

int64_t OperatorSequence::take_kernel_ns() {
  return std::exchange(kernel_ns_, 0);
}

}  // namespace piqi
