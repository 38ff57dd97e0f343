// A bounded queue that carries one tensor, frame by frame, from a sender to its receivers.
#pragma once

#include <pthreadpool.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "piqi/aligned_buffer.hpp"
#include "piqi/graph.hpp"
#include "piqi/kernel.hpp"

namespace piqi {

enum class Layout { Nhwc, Nchw };

/// How one side of a channel keeps the tensor. Buffers are dense.
struct Format {
  DataType type = DataType::Float32;
  Quantization quantization;
  Layout layout = Layout::Nhwc;
  bool operator==(const Format& other) const {
    return type == other.type && quantization == other.quantization && layout == other.layout;
  }
};

/// As the network keeps a tensor.
inline Format format_of(const Tensor& tensor) {
  return {tensor.type, tensor.quantization, Layout::Nhwc};
}

/// Makes memory for a tensor that a processor reaches by itself, aligned and `extra_bytes` longer like an
/// AlignedBuffer's. It may give null: then any memory will do.
using Allocator = std::function<std::shared_ptr<uint8_t>()>;

/// Owns `capacity` buffers. The sender fills them in place and the receivers read them in place; a receiver
/// whose format differs reads a converted copy of its own. Instead of data a frame may carry an error. After
/// close() every waiting and every later acquire(), publish(), fail() and receive() throws ClosedError.
class Channel {
 public:
  using Clock = std::chrono::steady_clock;

  /// `allocate`: the sender's memory.
  Channel(const std::string& name, const Shape& shape, const Format& format, size_t capacity,
          const Allocator& allocate = {});

  /// Before use only. Returns the receiver's number. A receiver that `watches` wakes up shortly before an
  /// announced frame is due and looks out for it for some tens of microseconds, since waking up takes longer
  /// than the hand-over itself. Only for one that runs beside the sender, not on the same CPU. `allocate`:
  /// memory for its converted copy.
  size_t add_receiver(const Format& format, bool watches = false, const Allocator& allocate = {});

  /// Sender: waits for a free buffer, until `deadline`, then throws TimeoutError. Then publish() it, or
  /// fail() it.
  void* acquire(Clock::time_point deadline = Clock::time_point::max());
  void publish();
  /// Optional, from any thread: the next frame will be published at about this time. Once a receiver was
  /// woken by an announcement, it finds those that correct it by itself, and waking it costs the announcer
  /// its time.
  void announce(Clock::time_point due, bool wake);
  void fail(std::exception_ptr error);

  struct Received {
    const void* data = nullptr;  // null: `error` came in its place
    std::exception_ptr error;
    int64_t published_ns = 0;  // when the sender let go of it (steady clock)
    int64_t received_ns = 0;   // when the receiver had it, before conversion
  };
  /// Receiver: waits for the next frame, until `deadline`, then throws TimeoutError. Converts on `pool` if it
  /// has to. Each receive() that returns is followed by one release().
  Received receive(size_t receiver, pthreadpool_t pool,
                   Clock::time_point deadline = Clock::time_point::max());
  void release(size_t receiver);

  void close();

  const std::string& name() const { return name_; }
  size_t size_bytes() const { return size_bytes_; }
  size_t memory_bytes() const;

 private:
  struct Slot {
    AlignedBuffer buffer;
    std::exception_ptr error;
    int64_t published_ns = 0;
  };
  class Converter;
  struct Receiver {
    uint64_t taken = 0;  // frames released so far
    bool watches = false;
    std::chrono::nanoseconds late{50'000};  // how late it wakes up from a sleep, by experience
    std::shared_ptr<Converter> converter;   // null: reads in place
  };
  template <typename Condition>
  void wait(std::unique_lock<std::mutex>& lock, Clock::time_point deadline, Condition condition);
  void wait_for_frame(std::unique_lock<std::mutex>& lock, Receiver& receiver, Clock::time_point deadline);
  void put(std::exception_ptr error);

  const std::string name_;
  const Shape shape_;
  const Format format_;
  const size_t size_bytes_;
  std::vector<Slot> slots_;
  std::vector<Receiver> receivers_;
  std::atomic<uint64_t> sent_{0};  // these two are written under the mutex
  std::atomic<bool> closed_{false};
  uint64_t announced_ = 0;
  Clock::time_point due_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace piqi
