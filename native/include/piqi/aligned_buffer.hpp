// Memory for tensors: aligned for vector loads, readable a little past its end (kernels over-read).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "piqi/kernel.hpp"

namespace piqi {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size_bytes)
      : data_(static_cast<uint8_t*>(::operator new (size_bytes + extra_bytes, std::align_val_t{alignment}))),
        size_bytes_(size_bytes) {
    // What a kernel reads past the end must be readable and initialised; its value never matters.
    std::memset(data_.get() + size_bytes, 0, extra_bytes);
  }
  /// Of someone else's memory, which is as aligned and as much longer.
  AlignedBuffer(std::shared_ptr<uint8_t> memory, size_t size_bytes) : size_bytes_(size_bytes) {
    uint8_t* data = memory.get();
    data_ = {data, Free{std::move(memory)}};
  }

  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size_bytes() const { return size_bytes_; }

  static constexpr size_t alignment = 64;

 private:
  struct Free {
    std::shared_ptr<uint8_t> owner;  // null: this buffer
    void operator()(uint8_t* data) const {
      if (!owner) ::operator delete (data, std::align_val_t{alignment});
    }
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_bytes_ = 0;
};

}  // namespace piqi
