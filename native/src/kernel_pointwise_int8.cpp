// Products of 8-bit matrices on AVX-512 with VNNI: 1x1 convolutions and fully connected operators.
//
// VNNI multiplies unsigned by signed bytes. int8 inputs are moved up by 128, which the bias makes up for;
// uint8 weights are moved down by 128, which a row's sum of inputs makes up for. Rounding is XNNPACK's: the
// exact sum as a float times a float, to nearest even.
#include "kernel_avx512.hpp"
#include "kernel_support.hpp"

#ifdef PIQI_AVX512
#define PIQI_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

#include <array>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>

namespace piqi {
namespace {

constexpr size_t panel_width = 3;  // vectors of 16 columns
/// Rows in the largest block of sums, by the panel's vectors: 32 registers hold the block, weights and
/// inputs.
constexpr size_t block_rows[panel_width + 1] = {0, 14, 12, 8};
constexpr size_t group = 4;  // inputs that one instruction adds up
constexpr size_t vector_bytes = 64;
constexpr size_t tile_bytes = 128 * 1024;
constexpr size_t parallel_products = 1024 * 1024;
constexpr int32_t offset = 128;

struct Block {
  size_t depth, columns;  // of the whole product
  float lowest, highest;  // of the output, its zero point taken off
  int32_t zero_point;
  int32_t row_factor;  // times the sum of a row's inputs
  __mmask16 last;      // columns of the panel's last vector
};

PIQI_VNNI __attribute__((noinline)) int32_t sum_bytes(const uint8_t* x, size_t size) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();
  size_t i = 0;
  for (; i + vector_bytes <= size; i += vector_bytes)
    sums = _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(x + i), ones);
  alignas(vector_bytes)
      int32_t parts[lanes];  // not _mm512_reduce_add: GCC 12 warns of what it leaves undefined
  _mm512_store_si512(parts, sums);
  int32_t total = std::accumulate(parts, parts + lanes, 0);
  for (; i < size; ++i) total += x[i];
  return total;
}

PIQI_VNNI __m512i load_group(const uint8_t* x) {
  float four;  // as a float it is broadcast from memory, as an int by way of a general register
  std::memcpy(&four, x, sizeof four);
  return _mm512_castps_si512(_mm512_set1_ps(four));
}

/// In place, which GCC 12 does not manage by itself: with the intrinsic it copies and spills half of the
/// sums.
PIQI_VNNI inline __attribute__((always_inline)) void add_products(__m512i& sums, __m512i x, __m512i weights) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(weights));
}

/// `Rows` x `Vectors` sums. The panel: bias, scales, then the weights of one group of inputs after the other.
template <size_t Rows, size_t Vectors, bool Signed>
PIQI_VNNI void multiply(const Block& block, const uint8_t* x, const uint8_t* panel, uint8_t* y) {
  int32_t moved[Rows];
  for (size_t row = 0; row < Rows; ++row)
    moved[row] = block.row_factor ? block.row_factor * sum_bytes(x + row * block.depth, block.depth) : 0;
  __m512i sums[Rows][Vectors];
#pragma GCC unroll 16
  for (size_t row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v)
      sums[row][v] =
          _mm512_add_epi32(_mm512_load_si512(panel + v * vector_bytes), _mm512_set1_epi32(moved[row]));
  }
  const uint8_t* const scales = panel + Vectors * vector_bytes;
  const __m512i top_bits = _mm512_set1_epi8(static_cast<char>(0x80));
  const size_t groups = part_count(block.depth, group);
  for (size_t g = 0; g < groups; ++g) {
    const uint8_t* const at = scales + (g + 1) * Vectors * vector_bytes;
    __m512i weights[Vectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v) weights[v] = _mm512_load_si512(at + v * vector_bytes);
#pragma GCC unroll 16
    for (size_t row = 0; row < Rows; ++row) {
      __m512i value = load_group(x + row * block.depth + g * group);
      if (Signed) value = _mm512_xor_si512(value, top_bits);
#pragma GCC unroll 16
      for (size_t v = 0; v < Vectors; ++v) add_products(sums[row][v], value, weights[v]);
    }
  }
  const __m512 lowest = _mm512_set1_ps(block.lowest), highest = _mm512_set1_ps(block.highest);
  const __m512i zero_point = _mm512_set1_epi32(block.zero_point);
#pragma GCC unroll 16
  for (size_t row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (size_t v = 0; v < Vectors; ++v) {
      const __m512 scale = _mm512_load_ps(scales + v * vector_bytes);
      const __m512 real =
          clamp(_mm512_mul_ps(_mm512_maskz_cvtepi32_ps(all_lanes, sums[row][v]), scale), lowest, highest);
      const __m512i stored = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(all_lanes, real), zero_point);
      const __mmask16 mask = v + 1 < Vectors ? all_lanes : block.last;
      _mm512_mask_cvtepi32_storeu_epi8(y + row * block.columns + v * lanes, mask, stored);
    }
  }
}

using Multiply = void (*)(const Block&, const uint8_t*, const uint8_t*, uint8_t*);

template <size_t Vectors, bool Signed, size_t... Rows>
constexpr std::array<Multiply, sizeof...(Rows)> functions_of(std::index_sequence<Rows...>) {
  return {multiply<Rows + 1, Vectors, Signed>...};
}

/// The function for a block of `rows` x `vectors`.
template <bool Signed>
Multiply function_of(size_t vectors, size_t rows) {
  static constexpr auto one = functions_of<1, Signed>(std::make_index_sequence<block_rows[1]>());
  static constexpr auto two = functions_of<2, Signed>(std::make_index_sequence<block_rows[2]>());
  static constexpr auto three = functions_of<3, Signed>(std::make_index_sequence<block_rows[3]>());
  return vectors == 1 ? one[rows - 1] : vectors == 2 ? two[rows - 1] : three[rows - 1];
}

/// `T`: int8_t, weights with zero point 0; or uint8_t.
template <typename T>
class PointwiseInt8 : public BoundKernel {
 public:
  PointwiseInt8(const OperatorView& view, size_t rows, size_t depth, size_t columns,
                const std::vector<float>& scales)
      : BoundKernel(view, 1),
        rows_(rows),
        depth_(depth),
        columns_(columns),
        vectors_(part_count(columns, lanes)),
        panels_(part_count(vectors_, panel_width)),
        tiles_(part_count(rows, std::max<size_t>(block_rows[1], tile_bytes / depth))),
        packed_(vectors_ * vector_bytes * (2 + part_count(depth, group))) {
    const Affine in = view.affine(view.input(0)), out = view.clamped_output();
    block_.depth = depth, block_.columns = columns;
    block_.zero_point = out.zero_point;
    block_.lowest = static_cast<float>(out.lowest - out.zero_point);
    block_.highest = static_cast<float>(out.highest - out.zero_point);
    const int32_t weights_zero = is_signed ? 0 : view.input(1).quantization.zero_point;
    block_.row_factor = is_signed ? 0 : offset - weights_zero;
    const auto* const weights = static_cast<const T*>(view.input(1).data.get());
    const auto* const bias =
        view.has_input(2) ? static_cast<const int32_t*>(view.input(2).data.get()) : nullptr;
    std::memset(packed_.data(), 0, packed_.size_bytes());
    for (size_t panel = 0; panel < panels_; ++panel) {
      const size_t first = part_begin(vectors_, panels_, panel);
      const size_t vectors = part_begin(vectors_, panels_, panel + 1) - first;
      uint8_t* const begin = packed_.data() + first * vector_bytes * (2 + part_count(depth, group));
      for (size_t c = first * lanes; c < std::min((first + vectors) * lanes, columns); ++c) {
        const size_t lane = c - first * lanes;
        int32_t sum = 0;
        for (size_t k = 0; k < depth; ++k) {
          const int32_t weight = weights[c * depth + k] - (is_signed ? 0 : offset);
          sum += weight;
          begin[(2 + k / group) * vectors * vector_bytes + lane * group + k % group] =
              static_cast<uint8_t>(weight);
        }
        // What the inputs' zero point and the moves by 128 add to every sum, taken off beforehand. Only the
        // whole has to fit 32 bits.
        const int64_t zero = in.zero_point + (is_signed ? offset : 0);
        const int64_t taken =
            zero * sum + int64_t{block_.row_factor} * in.zero_point * static_cast<int64_t>(depth);
        const auto first_sum = static_cast<uint32_t>((bias ? bias[c] : 0) - taken);
        std::memcpy(begin + lane * sizeof(int32_t), &first_sum, sizeof first_sum);
        std::memcpy(begin + vectors * vector_bytes + lane * sizeof(float), &scales[c], sizeof(float));
      }
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
  static constexpr bool is_signed = std::is_signed_v<T>;

  void multiply_tile(size_t tile, size_t panel) const {
    const size_t first = part_begin(vectors_, panels_, panel);
    const size_t vectors = part_begin(vectors_, panels_, panel + 1) - first;
    Block block = block_;
    block.last = first_lanes(columns_ - (first + vectors - 1) * lanes);
    const uint8_t* const weights = packed_.data() + first * vector_bytes * (2 + part_count(depth_, group));
    const size_t begin = part_begin(rows_, tiles_, tile);
    const size_t rows = part_begin(rows_, tiles_, tile + 1) - begin;
    const size_t blocks = part_count(rows, block_rows[vectors]);
    for (size_t i = 0; i < blocks; ++i) {
      const size_t row = part_begin(rows, blocks, i), count = part_begin(rows, blocks, i + 1) - row;
      function_of<is_signed>(vectors, count)(block, input<uint8_t>() + (begin + row) * depth_, weights,
                                             output<uint8_t>() + (begin + row) * columns_ + first * lanes);
    }
  }

  size_t rows_, depth_, columns_, vectors_, panels_, tiles_;
  Block block_{};
  AlignedBuffer packed_;
};

bool has_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace

std::shared_ptr<Kernel> make_pointwise_int8(const OperatorView& view, size_t rows, size_t depth,
                                            size_t columns) {
  constexpr float most = 256;  // XNNPACK's limit; it says what is wrong
  // Sums of more would not fit 32 bits in the worst case, moved inputs included.
  constexpr size_t deepest = 1 << 15;
  if (!has_vnni() || depth > deepest) return nullptr;
  const auto in = static_cast<float>(view.affine(view.input(0)).scale);
  const auto out = static_cast<float>(view.clamped_output().scale);
  std::vector<float> scales = view.input(1).quantization.scales;
  if (scales.size() == 1) scales.resize(columns, scales[0]);
  for (float& scale : scales) {
    scale = in * scale / out;
    if (!(scale < most)) return nullptr;
  }
  if (view.type() == DataType::Int8)
    return std::make_shared<PointwiseInt8<int8_t>>(view, rows, depth, columns, scales);
  return std::make_shared<PointwiseInt8<uint8_t>>(view, rows, depth, columns, scales);
}

}  // namespace piqi
#else
namespace piqi {

std::shared_ptr<Kernel> make_pointwise_int8(const OperatorView&, size_t, size_t, size_t) {
  return nullptr;
}

}  // namespace piqi
#endif
