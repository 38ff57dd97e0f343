#include "piqi/channel.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "conversion.hpp"

namespace piqi {
namespace {

// How long a receiver looks out for a frame that is due, at most.
constexpr std::chrono::microseconds watch_time{60};
// From the alarm to a thread on an idle CPU; longer is a CPU that was not idle.
constexpr std::chrono::microseconds longest_wake_up{200};

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Channel::Clock::now().time_since_epoch())
      .count();
}

// [N, rows, columns] -> [N, columns, rows]; NHWC <-> NCHW with rows and columns chosen accordingly.
template <typename T>
void transpose(const void* from, void* to, size_t batch, size_t rows, size_t columns) {
  const T* source = static_cast<const T*>(from);
  T* target = static_cast<T*>(to);
  for (size_t n = 0; n < batch; ++n, source += rows * columns, target += rows * columns)
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < columns; ++c) target[c * rows + r] = source[r * columns + c];
}

AlignedBuffer make_buffer(size_t size_bytes, const Allocator& allocate) {
  std::shared_ptr<uint8_t> memory = allocate ? allocate() : nullptr;
  return memory ? AlignedBuffer(std::move(memory), size_bytes) : AlignedBuffer(size_bytes);
}

}  // namespace

/// Turns one format into another: first the data type (by a kernel), then the layout.
class Channel::Converter {
 public:
  Converter(const std::string& name, const Shape& shape, const Format& from, const Format& to,
            const Allocator& allocate)
      : shape_(shape), from_(from), to_(to) {
    const size_t size_bytes = element_count(shape) * size_of(to.type);
    if (from.layout != to.layout) {
      if (shape.size() != 4)
        throw GraphError("channel '" + name + "': shape " + to_string(shape) + " has no NCHW layout");
      transposed_ = make_buffer(size_bytes, allocate);
    }
    if (from.type == to.type && from.quantization == to.quantization) return;
    converted_ = make_buffer(size_bytes, from.layout == to.layout ? allocate : Allocator());
    kernel_ = make_conversion(name, shape, from, to);
  }

  const void* convert(const void* data, pthreadpool_t pool) {
    if (kernel_) {
      void* output = converted_.data();
      kernel_->setup(&data, &output, pool);
      kernel_->run(pool);
      data = output;
    }
    if (from_.layout == to_.layout) return data;
    const size_t pixels = shape_[1] * shape_[2];
    const size_t channels = shape_[3];
    const bool to_nchw = to_.layout == Layout::Nchw;
    const size_t rows = to_nchw ? pixels : channels;
    const size_t columns = to_nchw ? channels : pixels;
    if (size_of(to_.type) == 1)
      transpose<uint8_t>(data, transposed_.data(), shape_[0], rows, columns);
    else
      transpose<uint32_t>(data, transposed_.data(), shape_[0], rows, columns);
    return transposed_.data();
  }

  size_t memory_bytes() const { return converted_.size_bytes() + transposed_.size_bytes(); }

 private:
  const Shape shape_;
  const Format from_, to_;
  std::shared_ptr<Kernel> kernel_;
  AlignedBuffer converted_, transposed_;
};

Channel::Channel(const std::string& name, const Shape& shape, const Format& format, size_t capacity,
                 const Allocator& allocate)
    : name_(name), shape_(shape), format_(format), size_bytes_(element_count(shape) * size_of(format.type)) {
  for (size_t i = 0; i < capacity; ++i) slots_.push_back({make_buffer(size_bytes_, allocate), nullptr, 0});
}

size_t Channel::add_receiver(const Format& format, bool watches, const Allocator& allocate) {
  Receiver receiver;
  receiver.watches = watches;
  if (!(format == format_))
    receiver.converter = std::make_shared<Converter>(name_, shape_, format_, format, allocate);
  receivers_.push_back(std::move(receiver));
  return receivers_.size() - 1;
}

template <typename Condition>
void Channel::wait(std::unique_lock<std::mutex>& lock, Clock::time_point deadline, Condition condition) {
  const auto ready = [&] { return closed_ || condition(); };
  if (deadline == Clock::time_point::max())
    changed_.wait(lock, ready);
  else if (!changed_.wait_until(lock, deadline, ready))
    throw TimeoutError("channel '" + name_ + "' was not served in time");
  if (closed_) throw ClosedError("channel '" + name_ + "' is closed");
}

void* Channel::acquire(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  wait(lock, deadline, [&] {
    return std::all_of(receivers_.begin(), receivers_.end(),
                       [&](const Receiver& r) { return sent_ - r.taken < slots_.size(); });
  });
  return slots_[sent_ % slots_.size()].buffer.data();
}

void Channel::wait_for_frame(std::unique_lock<std::mutex>& lock, Receiver& receiver,
                             Clock::time_point deadline) {
  const auto here = [&] { return sent_ > receiver.taken; };
  const auto over = [&] { return closed_ || here(); };
  Clock::time_point expected;
  const auto announced = [&] { return receiver.watches && announced_ > receiver.taken && due_ != expected; };
  for (;;) {
    wait(lock, deadline, [&] { return here() || announced(); });
    if (here()) return;
    expected = due_;
    const Clock::time_point alarm = std::min(deadline, expected - receiver.late - watch_time / 2);
    const bool sleeps = alarm > Clock::now();
    if (changed_.wait_until(lock, alarm, over)) continue;
    if (sleeps)
      receiver.late += (std::min<Clock::duration>(Clock::now() - alarm, longest_wake_up) - receiver.late) / 4;
    if (due_ > expected) continue;  // corrected meanwhile
    lock.unlock();
    const Clock::time_point end = Clock::now() + watch_time;
    while (!over() && Clock::now() < end) std::this_thread::yield();
    lock.lock();
  }
}

void Channel::announce(Clock::time_point due, bool wake) {
  {
    const std::lock_guard lock(mutex_);
    announced_ = sent_ + 1;
    due_ = due;
  }
  if (wake) changed_.notify_all();
}

void Channel::publish() {
  put(nullptr);
}

void Channel::fail(std::exception_ptr error) {
  acquire();
  put(std::move(error));
}

void Channel::put(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw ClosedError("channel '" + name_ + "' is closed");
    Slot& slot = slots_[sent_ % slots_.size()];
    slot.error = std::move(error);
    slot.published_ns = now_ns();
    ++sent_;
  }
  changed_.notify_all();
}

Channel::Received Channel::receive(size_t receiver, pthreadpool_t pool, Clock::time_point deadline) {
  Receiver& self = receivers_[receiver];
  Received received;
  {
    std::unique_lock lock(mutex_);
    wait_for_frame(lock, self, deadline);
    const Slot& slot = slots_[self.taken % slots_.size()];
    received.error = slot.error;
    received.published_ns = slot.published_ns;
    if (!slot.error) received.data = slot.buffer.data();
  }
  received.received_ns = now_ns();
  if (received.data && self.converter) received.data = self.converter->convert(received.data, pool);
  return received;
}

void Channel::release(size_t receiver) {
  {
    const std::lock_guard lock(mutex_);
    Receiver& self = receivers_[receiver];
    // The last receiver to let go of an error frees it, so that a slot does not keep it alive.
    ++self.taken;
    const bool last = std::all_of(receivers_.begin(), receivers_.end(),
                                  [&](const Receiver& other) { return other.taken >= self.taken; });
    if (last) slots_[(self.taken - 1) % slots_.size()].error = nullptr;
  }
  changed_.notify_all();
}

void Channel::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

size_t Channel::memory_bytes() const {
  size_t total = slots_.size() * size_bytes_;
  for (const Receiver& receiver : receivers_)
    if (receiver.converter) total += receiver.converter->memory_bytes();
  return total;
}

}  // namespace piqi
