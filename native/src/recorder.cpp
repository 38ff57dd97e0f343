#include "piqi/recorder.hpp"

#include <algorithm>

namespace piqi {

void Recorder::add(const int64_t* row) {
  if (capacity_ == 0) return;
  const std::lock_guard lock(mutex_);
  std::copy_n(row, width_, &rows_[committed_++ % capacity_ * width_]);
}

std::vector<int64_t> Recorder::rows() const {
  const std::lock_guard lock(mutex_);
  const size_t count = std::min<size_t>(committed_, capacity_);
  std::vector<int64_t> ordered(count * width_);
  for (size_t i = 0; i < count; ++i)
    std::copy_n(&rows_[(committed_ - count + i) % capacity_ * width_], width_, &ordered[i * width_]);
  return ordered;
}

void Recorder::clear() {
  const std::lock_guard lock(mutex_);
  committed_ = 0;
}

}  // namespace piqi
