// Products of float32 matrices on AVX-512: 1x1 convolutions and fully connected operators.
//
// XNNPACK's AVX-512 loop holds 7 rows x 1 vector of sums: eight loads for seven multiply-adds, so it waits
// for the load ports. 24 vectors of sums, two or three in a row, need 14 or 11 loads for 24 multiply-adds.
#include "kernel_avx512.hpp"
#include "kernel_support.hpp"

#ifdef PIQI_AVX512

#include <array>
#include <utility>

namespace piqi {
namespace {

constexpr size_t panel_width = 3;  // vectors; a panel of columns is as wide as a block of sums
/// Rows in the largest block of sums, by the panel's vectors: 32 registers hold the block, a row of weights
/// and some inputs.
constexpr size_t block_rows[panel_width + 1] = {0, 14, 12, 8};
/// Rows of the input that meet one panel after another: they stay in the L2 cache with the panel.
constexpr size_t tile_bytes = 128 * 1024;
/// Multiply-adds that are done before a pool is awake.
constexpr size_t parallel_products = 256 * 1024;

struct Block {
  size_t depth, columns;  // of the whole product
  float lowest, highest;
  __mmask16 last;  // columns of the panel's last vector
};

/// `Rows` x `Vectors` sums: bias (the panel's first row), then inputs in their order, then the clamp. The
/// order does not depend on where an element lies in its block.
template <size_t Rows, size_t Vectors>
PIQI_AVX512 void multiply(const Block& block, const float* x, const float* panel, float* y) {
  const size_t depth = block.depth;
  __m512 sums[Rows][Vectors];
#pragma GCC unroll 16
  for (size_t row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v) sums[row][v] = _mm512_load_ps(panel + v * lanes);
  }
  for (size_t k = 0; k < depth; ++k) {
    panel += Vectors * lanes;
    __m512 weights[Vectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v) weights[v] = _mm512_load_ps(panel + v * lanes);
#pragma GCC unroll 16
    for (size_t row = 0; row < Rows; ++row) {
      const __m512 value = _mm512_set1_ps(x[row * depth + k]);
#pragma GCC unroll 16
      for (size_t v = 0; v < Vectors; ++v) sums[row][v] = _mm512_fmadd_ps(value, weights[v], sums[row][v]);
    }
  }
  const __m512 lowest = _mm512_set1_ps(block.lowest), highest = _mm512_set1_ps(block.highest);
#pragma GCC unroll 16
  for (size_t row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v) {
      const __m512 clamped = clamp(sums[row][v], lowest, highest);
      const __mmask16 mask = v + 1 < Vectors ? all_lanes : block.last;
      _mm512_mask_storeu_ps(y + row * block.columns + v * lanes, mask, clamped);
    }
  }
}

using Multiply = void (*)(const Block&, const float*, const float*, float*);

template <size_t Vectors, size_t... Rows>
constexpr std::array<Multiply, sizeof...(Rows)> functions_of(std::index_sequence<Rows...>) {
  return {multiply<Rows + 1, Vectors>...};
}

/// The function for a block of `rows` x `vectors`.
Multiply function_of(size_t vectors, size_t rows) {
  static constexpr auto one = functions_of<1>(std::make_index_sequence<block_rows[1]>());
  static constexpr auto two = functions_of<2>(std::make_index_sequence<block_rows[2]>());
  static constexpr auto three = functions_of<3>(std::make_index_sequence<block_rows[3]>());
  return vectors == 1 ? one[rows - 1] : vectors == 2 ? two[rows - 1] : three[rows - 1];
}

class Pointwise : public BoundKernel {
 public:
  Pointwise(const OperatorView& view, size_t rows, size_t depth, size_t columns)
      : BoundKernel(view, 1),
        rows_(rows),
        depth_(depth),
        columns_(columns),
        vectors_(part_count(columns, lanes)),
        panels_(part_count(vectors_, panel_width)),
        tiles_(part_count(rows, std::max<size_t>(block_rows[1], tile_bytes / (depth * sizeof(float))))),
        lowest_(view.parameters().clamp_min),
        highest_(view.parameters().clamp_max),
        packed_(vectors_ * lanes * (depth + 1) * sizeof(float)) {
    const auto* const weights = static_cast<const float*>(view.input(1).data.get());
    const auto* const bias =
        view.has_input(2) ? static_cast<const float*>(view.input(2).data.get()) : nullptr;
    float* next = reinterpret_cast<float*>(packed_.data());
    for (size_t panel = 0; panel < panels_; ++panel) {
      const size_t begin = part_begin(vectors_, panels_, panel) * lanes;
      const size_t end = part_begin(vectors_, panels_, panel + 1) * lanes;
      for (size_t c = begin; c < end; ++c) *next++ = bias && c < columns ? bias[c] : 0;
      for (size_t k = 0; k < depth; ++k)
        for (size_t c = begin; c < end; ++c) *next++ = c < columns ? weights[c * depth + k] : 0;
    }
  }

  void run(pthreadpool_t pool) override {
    const bool small = rows_ * depth_ * columns_ < parallel_products;
    parallel_for(small ? nullptr : pool, tiles_ * panels_, 1, [this](size_t begin, size_t count) {
      for (size_t i = begin; i < begin + count; ++i) multiply_tile(i / panels_, i % panels_);
    });
  }

  size_t memory_bytes() const override { return BoundKernel::memory_bytes() + packed_.size_bytes(); }

 private:
  void multiply_tile(size_t tile, size_t panel) const {
    const size_t first = part_begin(vectors_, panels_, panel);
    const size_t vectors = part_begin(vectors_, panels_, panel + 1) - first;
    const __mmask16 last = first_lanes(columns_ - (first + vectors - 1) * lanes);
    const Block block{depth_, columns_, lowest_, highest_, last};
    const float* const weights =
        reinterpret_cast<const float*>(packed_.data()) + first * lanes * (depth_ + 1);
    const size_t begin = part_begin(rows_, tiles_, tile);
    const size_t rows = part_begin(rows_, tiles_, tile + 1) - begin;
    const size_t blocks = part_count(rows, block_rows[vectors]);
    for (size_t i = 0; i < blocks; ++i) {
      const size_t row = part_begin(rows, blocks, i), count = part_begin(rows, blocks, i + 1) - row;
      function_of(vectors, count)(block, input<float>() + (begin + row) * depth_, weights,
                                  output<float>() + (begin + row) * columns_ + first * lanes);
    }
  }

  size_t rows_, depth_, columns_, vectors_, panels_, tiles_;
  float lowest_, highest_;
  AlignedBuffer packed_;
};

}  // namespace

std::shared_ptr<Kernel> make_pointwise(const OperatorView& view, size_t rows, size_t depth, size_t columns) {
  if (!has_avx512()) return nullptr;
  return std::make_shared<Pointwise>(view, rows, depth, columns);
}

}  // namespace piqi
#else
namespace piqi {

std::shared_ptr<Kernel> make_pointwise(const OperatorView&, size_t, size_t, size_t) {
  return nullptr;
}

}  // namespace piqi
#endif
