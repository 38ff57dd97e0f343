// Concat, split and reshape: blocks of bytes between tensors, requantised by a table where they differ.
#include <cstring>

#include "kernel_support.hpp"

namespace piqi {
namespace {

struct Block {
  size_t input = 0, output = 0;                // which tensors
  size_t rows = 0, row_bytes = 0;              // what moves
  size_t input_stride = 0, output_stride = 0;  // bytes from row to row
  size_t input_offset = 0, output_offset = 0;
  LookupTable table;  // empty: as it is
};

class BlockCopy final : public BoundKernel {
 public:
  BlockCopy(const OperatorView& view, std::vector<Block> blocks)
      : BoundKernel(view, view.input_count()), blocks_(std::move(blocks)) {}

  void run(pthreadpool_t pool) override {
    for (const Block& block : blocks_) copy(block, pool);
  }
  size_t memory_bytes() const override {
    size_t total = BoundKernel::memory_bytes();
    for (const Block& block : blocks_) total += block.table.size();
    return total;
  }

 private:
  static constexpr size_t tile_bytes = parallel_bytes / 2;

  void copy(const Block& block, pthreadpool_t pool) {
    const uint8_t* const source = input<uint8_t>(block.input) + block.input_offset;
    uint8_t* const target = output<uint8_t>(block.output) + block.output_offset;
    if (block.table.empty() && source == target && block.rows == 1) return;  // a reshape in place
    const auto move = [&](size_t row, size_t first, size_t size) {
      const uint8_t* const from = source + row * block.input_stride + first;
      uint8_t* const to = target + row * block.output_stride + first;
      if (block.table.empty()) {
        std::memcpy(to, from, size);
      } else {
        copy_through(block.table, from, to, size);
      }
    };
    pthreadpool_t const workers = block.rows * block.row_bytes < parallel_bytes ? nullptr : pool;
    if (block.row_bytes >= tile_bytes) {
      const size_t tiles = (block.row_bytes + tile_bytes - 1) / tile_bytes;
      parallel_for(workers, block.rows * tiles, 1, [&](size_t begin, size_t count) {
        for (size_t i = begin; i < begin + count; ++i) {
          const size_t first = i % tiles * tile_bytes;
          move(i / tiles, first, std::min(tile_bytes, block.row_bytes - first));
        }
      });
    } else {
      parallel_for(workers, block.rows, tile_bytes / block.row_bytes, [&](size_t begin, size_t count) {
        for (size_t row = begin; row < begin + count; ++row) move(row, 0, block.row_bytes);
      });
    }
  }

  const std::vector<Block> blocks_;
};

/// Bytes of the tensor from one index of the dimension before `axis` to the next.
size_t slab_bytes(const Tensor& tensor, size_t axis) {
  size_t bytes = size_of(tensor.type);
  for (size_t i = axis; i < tensor.shape.size(); ++i) bytes *= tensor.shape[i];
  return bytes;
}

}  // namespace

std::shared_ptr<Kernel> make_block_copy(const OperatorView& view) {
  view.require_same_types(view.input_count());
  std::vector<Block> blocks;
  if (view.op.kind == OperatorKind::Reshape) {
    const size_t size = view.input(0).size_bytes();
    blocks.push_back({0, 0, 1, size, 0, 0, 0, 0, requantization_table(view, view.input(0), view.output())});
    return std::make_shared<BlockCopy>(view, std::move(blocks));
  }
  const bool concat = view.op.kind == OperatorKind::Concat;
  const size_t axis = view.parameters().axis;
  const Tensor& whole = concat ? view.output() : view.input(0);
  const size_t whole_bytes = slab_bytes(whole, axis), rows = whole.size_bytes() / whole_bytes;
  size_t offset = 0;
  for (size_t i = 0; i < (concat ? view.input_count() : view.op.outputs.size()); ++i) {
    const Tensor& part = concat ? view.input(i) : view.output(i);
    const size_t bytes = slab_bytes(part, axis);
    if (concat) {
      blocks.push_back(
          {i, 0, rows, bytes, bytes, whole_bytes, 0, offset, requantization_table(view, part, whole)});
    } else {
      blocks.push_back(
          {0, i, rows, bytes, whole_bytes, bytes, offset, 0, requantization_table(view, whole, part)});
    }
    offset += bytes;
  }
  return std::make_shared<BlockCopy>(view, std::move(blocks));
}

}  // namespace piqi
