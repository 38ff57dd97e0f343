#if defined(PIQI_ARMCL)
#include "armcl_memory.hpp"

#include <arm_compute/runtime/IMemory.h>
#include <arm_compute/runtime/IMemoryManager.h>
#include <arm_compute/runtime/IMemoryPool.h>
#include <arm_compute/runtime/IMemoryRegion.h>
#include <arm_compute/runtime/IPoolManager.h>
#include <arm_compute/runtime/OffsetLifetimeManager.h>

#include <utility>
#include <vector>

namespace piqi::armcl {
namespace {

namespace acl = arm_compute;

/// Memory of someone else's.
class Region final : public acl::IMemoryRegion {
 public:
  Region(uint8_t* data, size_t size) : IMemoryRegion(size), data_(data) {}
  std::unique_ptr<acl::IMemoryRegion> extract_subregion(size_t offset, size_t size) override {
    return offset + size <= this->size() ? std::make_unique<Region>(data_ + offset, size) : nullptr;
  }
  void* buffer() override { return data_; }
  const void* buffer() const override { return data_; }

 private:
  uint8_t* const data_;
};

/// What a function asks for when a run begins, and gives back when it ends.
class ArenaMemory final : public acl::IMemoryPool {
 public:
  ArenaMemory(std::shared_ptr<ArenaPool> arenas, const acl::BlobInfo& needed)
      : arenas_(std::move(arenas)), needed_(needed) {}

  void acquire(acl::MemoryMappings& handles) override {
    arena_ = arenas_->take(needed_.size + needed_.alignment, last_);
    last_ = arena_->data();
    void* begin = arena_->data();
    size_t room = arena_->size_bytes();
    if (needed_.alignment > 1) std::align(needed_.alignment, needed_.size, begin, room);
    for (auto& [memory, offset] : handles)
      memory->set_owned_region(
          std::make_unique<Region>(static_cast<uint8_t*>(begin) + offset, needed_.size - offset));
  }
  void release(acl::MemoryMappings& handles) override {
    for (auto& handle : handles) handle.first->set_region(nullptr);
    arenas_->give_back(std::move(arena_));
  }
  acl::MappingType mapping_type() const override { return acl::MappingType::OFFSETS; }
  std::unique_ptr<acl::IMemoryPool> duplicate() override {
    return std::make_unique<ArenaMemory>(arenas_, needed_);
  }

 private:
  const std::shared_ptr<ArenaPool> arenas_;
  const acl::BlobInfo& needed_;  // known once the functions are configured
  ArenaPool::Arena arena_;
  const uint8_t* last_ = nullptr;
};

/// Functions may hold each other's groups: nested ones get a pool of their own.
class ArenaManager final : public acl::IMemoryManager, public acl::IPoolManager {
 public:
  explicit ArenaManager(std::shared_ptr<ArenaPool> arenas) : arenas_(std::move(arenas)) {}

  acl::ILifetimeManager* lifetime_manager() override { return &lifetimes_; }
  acl::IPoolManager* pool_manager() override { return this; }
  void populate(acl::IAllocator&, size_t) override {}
  void clear() override {}

  acl::IMemoryPool* lock_pool() override {
    if (free_.empty()) return pools_.emplace_back(make()).get();
    acl::IMemoryPool* const pool = free_.back();
    free_.pop_back();
    return pool;
  }
  void unlock_pool(acl::IMemoryPool* pool) override { free_.push_back(pool); }
  void register_pool(std::unique_ptr<acl::IMemoryPool>) override {}
  std::unique_ptr<acl::IMemoryPool> release_pool() override { return nullptr; }
  void clear_pools() override {}
  size_t num_pools() const override { return pools_.size(); }

 private:
  std::unique_ptr<acl::IMemoryPool> make() const {
    return std::make_unique<ArenaMemory>(arenas_, lifetimes_.info());
  }

  const std::shared_ptr<ArenaPool> arenas_;
  acl::OffsetLifetimeManager lifetimes_;
  std::vector<std::unique_ptr<acl::IMemoryPool>> pools_;
  std::vector<acl::IMemoryPool*> free_;
};

}  // namespace

std::shared_ptr<acl::IMemoryManager> make_memory_manager(std::shared_ptr<ArenaPool> arenas) {
  return std::make_shared<ArenaManager>(std::move(arenas));
}

}  // namespace piqi::armcl
#endif
