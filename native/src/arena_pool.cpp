#include "piqi/arena_pool.hpp"

#include <utility>

namespace piqi {

ArenaPool::Arena ArenaPool::take(size_t size_bytes, const uint8_t* last) {
  const std::lock_guard lock(mutex_);
  Arena* chosen = nullptr;
  for (Arena& arena : free_) {
    if (arena->size_bytes() < size_bytes) continue;
    if (!chosen || arena->size_bytes() < (*chosen)->size_bytes()) chosen = &arena;
    if (arena->data() != last) continue;
    chosen = &arena;
    break;
  }
  if (!chosen && !free_.empty()) {  // what is free is too small and makes room
    total_ -= free_.back()->size_bytes();
    free_.pop_back();
  }
  if (!chosen) {
    Arena made = std::make_unique<AlignedBuffer>(size_bytes);
    total_ += size_bytes;
    return made;
  }
  std::swap(*chosen, free_.back());
  Arena taken = std::move(free_.back());
  free_.pop_back();
  return taken;
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
