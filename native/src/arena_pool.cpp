#include "piqi/arena_pool.hpp"

#include <algorithm>
#include <utility>

namespace piqi {

ArenaPool::Arena ArenaPool::take(size_t size_bytes, const uint8_t* last) {
  const std::lock_guard lock(mutex_);
  largest_ = std::max(largest_, size_bytes);
  auto found =
      std::find_if(free_.begin(), free_.end(), [&](const Arena& arena) { return arena->data() == last; });
  if (found == free_.end() || (*found)->size_bytes() < size_bytes)
    found = std::find_if(free_.begin(), free_.end(),
                         [&](const Arena& arena) { return arena->size_bytes() >= size_bytes; });
  Arena arena;
  if (found != free_.end()) {
    arena = std::move(*found);
    free_.erase(found);
    return arena;
  }
  // One that is too small for this would be too small again: it makes room for one that fits all.
  if (!free_.empty()) {
    total_ -= free_.back()->size_bytes();
    free_.pop_back();
  }
  arena = std::make_unique<AlignedBuffer>(largest_);
  total_ += largest_;
  return arena;
}

void ArenaPool::give_back(Arena arena) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(arena));
}

void ArenaPool::trim() {
  const std::lock_guard lock(mutex_);
  for (const Arena& arena : free_) total_ -= arena->size_bytes();
  free_.clear();
}

size_t ArenaPool::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return total_;
}

}  // namespace piqi
