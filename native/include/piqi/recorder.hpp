// Times of the last frames of one sub-graph, kept without allocating.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace piqi {

/// A ring of rows of `width` numbers. Any thread writes, any thread reads.
class Recorder {
 public:
  Recorder(size_t width, size_t capacity) : width_(width), rows_(width * capacity) {}

  void add(const int64_t* row);
  size_t width() const { return width_; }
  /// Oldest first, width() numbers each.
  std::vector<int64_t> rows() const;
  void clear();

 private:
  const size_t width_;
  std::vector<int64_t> rows_;
  uint64_t committed_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace piqi
