#include "piqi/recorder.hpp"

#include <algorithm>

namespace piqi {

void Recorder::add(const int64_t* row) {
  if (rows_.empty()) return;
  const std::lock_guard lock(mutex_);
  const size_t slot = committed_++ % (rows_.size() / width_);
  std::copy(row, row + width_, rows_.begin() + static_cast<std::ptrdiff_t>(slot * width_));
}

std::vector<int64_t> Recorder::rows() const {
  const std::lock_guard lock(mutex_);
  if (committed_ * width_ <= rows_.size())
    return {rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(committed_ * width_)};
  std::vector<int64_t> ordered = rows_;
  const size_t oldest = committed_ % (rows_.size() / width_) * width_;
  std::rotate(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(oldest), ordered.end());
  return ordered;
}

void Recorder::clear() {
  const std::lock_guard lock(mutex_);
  committed_ = 0;
}

}  // namespace piqi
