// Times of the last frames of one sub-graph, kept without allocating.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace piqi {

/// A ring of rows of `width` numbers. Any thread writes, any thread reads.
class Recorder {
 public:
  Recorder(size_t width, size_t capacity)
      : width_(width), capacity_(capacity), rows_(new int64_t[width * capacity]) {}

  void add(const int64_t* row);
  size_t width() const { return width_; }
  /// Oldest first, width() numbers each.
  std::vector<int64_t> rows() const;
  void clear();

 private:
  const size_t width_, capacity_;
  const std::unique_ptr<int64_t[]>
      rows_;  // not written before it is used: a page that is not touched costs nothing
  uint64_t committed_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace piqi
