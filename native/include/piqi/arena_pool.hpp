// Working memory that sub-graphs share: those that do not run at the same time need it only once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "piqi/aligned_buffer.hpp"

namespace piqi {

/// Thread-safe. Once there are as many arenas as are in use at a time, nothing is allocated.
class ArenaPool {
 public:
  using Arena = std::unique_ptr<AlignedBuffer>;

  /// An arena of at least that size: the one whose memory begins at `last`, if it is free, so that what
  /// points into it may stay as it is. An address, since the arena it was may have gone and another have come
  /// in its place.
  Arena take(size_t size_bytes, const uint8_t* last);
  void give_back(Arena arena);
  /// Frees what is not in use.
  void trim();
  size_t memory_bytes() const;  // in use or free

 private:
  mutable std::mutex mutex_;
  std::vector<Arena> free_;
  size_t total_ = 0;
};

}  // namespace piqi
