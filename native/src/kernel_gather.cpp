// Strided slice, pad and nearest-neighbour resize: each output index comes from one input index (or is
// padding), independently in every dimension.
#include <cmath>
#include <cstring>

#include "kernel_support.hpp"

namespace piqi {
namespace {

constexpr ptrdiff_t padding = -1;

/// For one dimension of the output: the index in the input, or `padding`.
using IndexMap = std::vector<ptrdiff_t>;

class Gather final : public BoundKernel {
 public:
  Gather(const OperatorView& view, std::vector<IndexMap> maps, uint32_t pad_pattern)
      : BoundKernel(view, 1), table_(requantization_table(view, view.input(0), view.output())) {
    const Shape& shape = view.input(0).shape;
    const size_t element = size_of(view.type());
    size_t stride = element;
    size_t axis = maps.size();
    // Dimensions that are taken whole, from the last one inwards, move as one piece.
    while (axis > 0 && is_whole(maps[axis - 1], shape[axis - 1])) stride *= shape[--axis];
    if (axis == 0) {
      runs_ = {{0, 0, stride}};
      row_bytes_ = stride;
    } else {
      --axis;
      runs_ = to_runs(maps[axis], stride);
      row_bytes_ = maps[axis].size() * stride;
      stride *= shape[axis];
    }
    outer_.resize(axis);
    while (axis-- > 0) {
      for (const ptrdiff_t index : maps[axis]) {
        outer_[axis].push_back(index == padding ? padding : index * static_cast<ptrdiff_t>(stride));
      }
      rows_ *= maps[axis].size();
      stride *= shape[axis];
    }
    pad_row_ = AlignedBuffer(row_bytes_);
    for (size_t i = 0; i < row_bytes_; i += element) std::memcpy(pad_row_.data() + i, &pad_pattern, element);
  }

  void run(pthreadpool_t pool) override {
    const size_t tile = std::max<size_t>(1, parallel_bytes / 4 / row_bytes_);
    parallel_for(rows_ <= tile ? nullptr : pool, rows_, tile, [&](size_t begin, size_t count) {
      for (size_t row = begin; row < begin + count; ++row) copy_row(row);
    });
  }

  size_t memory_bytes() const override {
    size_t total =
        BoundKernel::memory_bytes() + table_.size() + pad_row_.size_bytes() + runs_.size() * sizeof(Run);
    for (const IndexMap& offsets : outer_) total += offsets.size() * sizeof(ptrdiff_t);
    return total;
  }

 private:
  struct Run {
    size_t target;     // byte in the output row
    ptrdiff_t source;  // byte relative to the input row, or `padding`
    size_t size;
  };

  static bool is_whole(const IndexMap& map, size_t extent) {
    if (map.size() != extent) return false;
    for (size_t i = 0; i < extent; ++i) {
      if (map[i] != static_cast<ptrdiff_t>(i)) return false;
    }
    return true;
  }

  static std::vector<Run> to_runs(const IndexMap& map, size_t stride) {
    std::vector<Run> runs;
    for (size_t i = 0; i < map.size(); ++i) {
      const bool pads = map[i] == padding;
      const bool continues =
          i > 0 && map[i] == (pads ? map[i - 1] : map[i - 1] + 1) && (pads || map[i - 1] != padding);
      if (continues) {
        runs.back().size += stride;
      } else {
        runs.push_back({i * stride, pads ? padding : map[i] * static_cast<ptrdiff_t>(stride), stride});
      }
    }
    return runs;
  }

  void copy_row(size_t row) {
    uint8_t* const target = output<uint8_t>() + row * row_bytes_;
    ptrdiff_t base = 0;
    for (size_t axis = outer_.size(), rest = row; axis-- > 0; rest /= outer_[axis].size()) {
      const ptrdiff_t offset = outer_[axis][rest % outer_[axis].size()];
      if (offset == padding) {
        std::memcpy(target, pad_row_.data(), row_bytes_);
        return;
      }
      base += offset;
    }
    const uint8_t* const source = input<uint8_t>() + base;
    for (const Run& run : runs_) {
      if (run.source == padding) {
        std::memcpy(target + run.target, pad_row_.data() + run.target, run.size);
      } else if (table_.empty()) {
        std::memcpy(target + run.target, source + run.source, run.size);
      } else {
        copy_through(table_, source + run.source, target + run.target, run.size);
      }
    }
  }

  std::vector<IndexMap> outer_;  // byte offsets instead of indices
  std::vector<Run> runs_;  // of one row: the innermost dimension that is not taken whole, and all behind it
  size_t rows_ = 1, row_bytes_ = 0;
  AlignedBuffer pad_row_;
  const LookupTable table_;
};

/// TensorFlow Lite's GetNearestNeighbor(), single precision included.
IndexMap nearest_map(size_t input, size_t output, const OperatorParameters& p) {
  const float scale = p.align_corners && output > 1
                          ? static_cast<float>(input - 1) / static_cast<float>(output - 1)
                          : static_cast<float>(input) / static_cast<float>(output);
  const float offset = p.half_pixel_centers ? 0.5f : 0.0f;
  IndexMap map(output);
  for (size_t i = 0; i < output; ++i) {
    const float position = (static_cast<float>(i) + offset) * scale;
    const auto index = static_cast<ptrdiff_t>(p.align_corners ? std::round(position) : std::floor(position));
    map[i] = std::min(index, static_cast<ptrdiff_t>(input) - 1);
  }
  return map;
}

IndexMap range_map(ptrdiff_t begin, ptrdiff_t step, size_t size) {
  IndexMap map(size);
  for (size_t i = 0; i < size; ++i) map[i] = begin + static_cast<ptrdiff_t>(i) * step;
  return map;
}

IndexMap padded_map(size_t before, size_t extent, size_t after) {
  IndexMap map(before + extent + after, padding);
  for (size_t i = 0; i < extent; ++i) map[before + i] = static_cast<ptrdiff_t>(i);
  return map;
}

uint32_t pad_pattern(const OperatorView& view) {
  if (view.op.kind != OperatorKind::Pad) return 0;
  const float value = view.parameters().pad_value;
  if (view.is_8bit()) return static_cast<uint8_t>(view.affine(view.output()).stored(value));
  uint32_t pattern = 0;
  if (view.is_float()) {
    std::memcpy(&pattern, &value, sizeof(pattern));
  } else {
    pattern = static_cast<uint32_t>(std::lround(value));
  }
  return pattern;
}

}  // namespace

std::shared_ptr<Kernel> make_gather(const OperatorView& view) {
  view.require_same_types(1);
  const OperatorParameters& p = view.parameters();
  const Shape &in = view.input(0).shape, &out = view.output().shape;
  std::vector<IndexMap> maps;
  for (size_t axis = 0; axis < in.size(); ++axis) {
    if (view.op.kind == OperatorKind::Pad) {
      maps.push_back(padded_map(p.pad_before[axis], in[axis], p.pad_after[axis]));
    } else if (view.op.kind == OperatorKind::StridedSlice) {
      maps.push_back(range_map(static_cast<ptrdiff_t>(p.begin[axis]), p.strides[axis], p.size[axis]));
    } else if (axis == 1 || axis == 2) {
      maps.push_back(nearest_map(in[axis], out[axis], p));
    } else {
      maps.push_back(range_map(0, 1, in[axis]));
    }
  }
  return std::make_shared<Gather>(view, std::move(maps), pad_pattern(view));
}

}  // namespace piqi
