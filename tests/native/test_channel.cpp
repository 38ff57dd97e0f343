// The bounded queue between sub-graphs: order, bounds, conversion, errors, and an end to every wait.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <stdexcept>
#include <thread>

#include "network.hpp"
#include "piqi/channel.hpp"

namespace piqi_test {

using piqi::Channel;
using piqi::ClosedError;
using piqi::DataType;
using piqi::Format;
using piqi::Layout;
using piqi::TimeoutError;
using namespace std::chrono_literals;

namespace {

const Format f32{};

void send(Channel& channel, int32_t value) {
  std::memcpy(channel.acquire(), &value, sizeof value);
  channel.publish();
}

int32_t value_of(const Channel::Received& received) {
  REQUIRE(received.data != nullptr);
  int32_t value = 0;
  std::memcpy(&value, received.data, sizeof value);
  return value;
}

int32_t take(Channel& channel, size_t receiver) {
  const int32_t value = value_of(channel.receive(receiver, nullptr));
  channel.release(receiver);
  return value;
}

Channel::Clock::time_point soon() {
  return Channel::Clock::now() + 20ms;
}

/// What one receiver of format `to` reads when `values` are sent as `from`.
template <typename To, typename From>
std::vector<To> converted(const Shape& shape, const std::vector<From>& values, const Format& from,
                          const Format& to) {
  Channel channel("t", shape, from, 1);
  channel.add_receiver(to);
  REQUIRE(channel.size_bytes() == values.size() * sizeof(From));
  std::memcpy(channel.acquire(), values.data(), channel.size_bytes());
  channel.publish();
  std::vector<To> result(piqi::element_count(shape));
  std::memcpy(result.data(), channel.receive(0, nullptr).data, result.size() * sizeof(To));
  return result;
}

}  // namespace

TEST_CASE("frames come in order, each receiver at its own pace, within the bound") {
  Channel channel("t", {1}, f32, 2);
  CHECK(channel.add_receiver(f32) == 0);
  CHECK(channel.add_receiver(f32) == 1);
  send(channel, 1);
  send(channel, 2);
  CHECK_THROWS_AS(channel.acquire(soon()), TimeoutError);  // both buffers are full
  CHECK(take(channel, 0) == 1);
  CHECK(take(channel, 0) == 2);
  CHECK_THROWS_AS(channel.acquire(soon()), TimeoutError);  // the other receiver still needs them
  CHECK(take(channel, 1) == 1);
  send(channel, 3);
  CHECK_THROWS_AS(channel.acquire(soon()), TimeoutError);
  CHECK(take(channel, 1) == 2);
  CHECK(take(channel, 1) == 3);
  CHECK(take(channel, 0) == 3);
  CHECK_CONTAINS(message<TimeoutError>([&] { channel.receive(0, nullptr, soon()); }), "channel 't'");
}

TEST_CASE("a buffer is not given back before it is released") {
  Channel channel("t", {1}, f32, 1);
  channel.add_receiver(f32);
  send(channel, 7);
  const Channel::Received held = channel.receive(0, nullptr);
  CHECK_THROWS_AS(channel.acquire(soon()), TimeoutError);
  CHECK(value_of(held) == 7);
  channel.release(0);
  CHECK(channel.acquire(soon()) == held.data);  // in place: no copy was made
}

TEST_CASE("an acquired buffer stays the same until it is published") {
  Channel channel("t", {1}, f32, 2);
  channel.add_receiver(f32);
  void* const first = channel.acquire();
  CHECK(channel.acquire() == first);
  channel.publish();
  CHECK(channel.acquire() != first);
}

TEST_CASE("times of publishing and of receiving are told") {
  Channel channel("t", {1}, f32, 1);
  channel.add_receiver(f32);
  const auto now = [] { return std::chrono::nanoseconds(Channel::Clock::now().time_since_epoch()).count(); };
  const int64_t before = now();
  send(channel, 1);
  const int64_t between = now();
  const Channel::Received received = channel.receive(0, nullptr);
  CHECK(before <= received.published_ns);
  CHECK(received.published_ns <= between);
  CHECK(between <= received.received_ns);
  CHECK(received.received_ns <= now());
}

TEST_CASE("an error takes a frame's place, reaches every receiver, and is let go of") {
  Channel channel("t", {1}, f32, 1);
  channel.add_receiver(f32);
  channel.add_receiver(f32);
  auto witness = std::make_shared<int>(0);
  struct Failure {
    std::shared_ptr<int> witness;
  };
  channel.acquire();
  channel.fail(std::make_exception_ptr(Failure{witness}));
  for (size_t receiver : {0, 1}) {
    const Channel::Received received = channel.receive(receiver, nullptr);
    CHECK(received.data == nullptr);
    CHECK_THROWS_AS(std::rethrow_exception(received.error), Failure);
    channel.release(receiver);
  }
  CHECK(witness.use_count() == 1);
  send(channel, 5);  // the channel goes on
  CHECK(take(channel, 0) == 5);
  CHECK(take(channel, 1) == 5);
}

TEST_CASE("close ends every wait and every later call") {
  Channel full("full", {1}, f32, 1), empty("empty", {1}, f32, 1);
  full.add_receiver(f32);
  for (int i = 0; i < 2; ++i) empty.add_receiver(f32);
  send(full, 1);
  std::atomic<int> closed{0}, waiting{0};
  const auto expect_closed = [&](auto wait) {
    return std::thread([&closed, &waiting, wait] {
      ++waiting;
      try {
        wait();
      } catch (const ClosedError&) {
        ++closed;
      }
    });
  };
  std::thread threads[] = {expect_closed([&] { full.acquire(); }),
                           expect_closed([&] { full.acquire(Channel::Clock::now() + 1h); }),
                           expect_closed([&] { empty.receive(0, nullptr); }),
                           expect_closed([&] { empty.receive(1, nullptr, Channel::Clock::now() + 1h); })};
  while (waiting < 4) std::this_thread::yield();
  std::this_thread::sleep_for(5ms);
  full.close();
  empty.close();
  for (std::thread& thread : threads) thread.join();
  CHECK(closed == 4);
  CHECK_CONTAINS(message<ClosedError>([&] { full.receive(0, nullptr); }), "channel 'full' is closed");
  CHECK_THROWS_AS(empty.acquire(), ClosedError);
  CHECK_THROWS_AS(empty.publish(), ClosedError);
  CHECK_THROWS_AS(empty.fail(std::make_exception_ptr(1)), ClosedError);
  full.release(0);  // who still holds a frame may let go of it
  full.close();
}

TEST_CASE("float32 and 8 bits: rounded to nearest, ties to even, saturated; and back without loss") {
  const Shape shape{2, 128};
  for (DataType type : {DataType::Int8, DataType::UInt8}) {
    const int zero = type == DataType::Int8 ? -3 : 125, lowest = type == DataType::Int8 ? -128 : 0;
    const float scale = 0.25f;
    const Format q8{type, {{scale}, zero}, Layout::Nhwc};
    std::vector<uint8_t> stored(256);
    std::vector<float> real(256);
    for (int i = 0; i < 256; ++i) {
      stored[static_cast<size_t>(i)] = static_cast<uint8_t>(lowest + i);
      real[static_cast<size_t>(i)] = scale * static_cast<float>(lowest + i - zero);
    }
    CHECK(converted<float>(shape, stored, q8, f32) == real);
    CHECK(converted<uint8_t>(shape, real, f32, q8) == stored);

    const std::vector<float> hard{0.124f, 0.126f, 0.125f, 0.375f, -0.125f, -0.375f, 1e9f, -1e9f};
    const std::vector<int> expected{0, 1, 0, 2, 0, -2, 1000, -1000};
    const auto result = converted<uint8_t>({8}, hard, f32, q8);
    for (size_t i = 0; i < hard.size(); ++i) {
      INFO(hard[i]);
      const int bounded = std::min(std::max(expected[i] + zero, lowest), lowest + 255);
      CHECK(result[i] == static_cast<uint8_t>(bounded));
    }
  }
}

TEST_CASE("from one 8-bit quantisation to another") {
  const Format from{DataType::Int8, {{0.5f}, 10}, Layout::Nhwc},
      to{DataType::Int8, {{1.0f}, -20}, Layout::Nhwc};
  const auto result = converted<int8_t>({1, 5}, std::vector<int8_t>{10, 12, 14, 127, -128}, from, to);
  CHECK(std::vector<int>(result.begin(), result.end()) == std::vector<int>{-20, -19, -18, 38, -89});
}

TEST_CASE("layouts: NHWC to NCHW and back, of either size, with a conversion on the way") {
  const size_t n = 2, h = 3, w = 4, c = 5;
  const Shape shape{n, h, w, c};
  std::vector<float> nhwc(n * h * w * c), nchw(nhwc.size());
  for (size_t b = 0; b < n; ++b)
    for (size_t y = 0; y < h; ++y)
      for (size_t x = 0; x < w; ++x)
        for (size_t k = 0; k < c; ++k)
          nhwc[((b * h + y) * w + x) * c + k] = nchw[((b * c + k) * h + y) * w + x] =
              static_cast<float>(b * 60 + y * 20 + x * 5 + k);
  const Format planar{DataType::Float32, {}, Layout::Nchw};
  CHECK(converted<float>(shape, nhwc, f32, planar) == nchw);
  CHECK(converted<float>(shape, nchw, planar, f32) == nhwc);
  CHECK(converted<float>(shape, nchw, planar, planar) == nchw);

  const std::vector<uint8_t> bytes_nhwc(nhwc.begin(), nhwc.end()), bytes_nchw(nchw.begin(), nchw.end());
  const Format u8{DataType::UInt8, {{1}, 0}, Layout::Nhwc},
      u8_planar{DataType::UInt8, {{1}, 0}, Layout::Nchw};
  CHECK(converted<uint8_t>(shape, bytes_nhwc, u8, u8_planar) == bytes_nchw);
  CHECK(converted<float>(shape, bytes_nchw, u8_planar, f32) == nhwc);
  CHECK(converted<uint8_t>(shape, nhwc, f32, u8_planar) == bytes_nchw);

  Channel flat("flat", {1, 5}, f32, 1);
  CHECK_CONTAINS(message<piqi::GraphError>([&] { flat.add_receiver(planar); }),
                 "'flat': shape [1, 5] has no NCHW");
}

TEST_CASE("each receiver reads in its own format; memory is counted") {
  const Format q8{DataType::Int8, {{0.5f}, 0}, Layout::Nhwc};
  Channel channel("t", {1, 4}, f32, 3);
  const size_t plain = channel.add_receiver(f32);
  CHECK(channel.memory_bytes() == 3 * 16);
  const size_t quantised = channel.add_receiver(q8);
  CHECK(channel.memory_bytes() == 3 * 16 + 4);
  const float values[4] = {0, 1, -1, 2};
  for (int frame = 0; frame < 5; ++frame) {
    std::memcpy(channel.acquire(), values, sizeof values);
    channel.publish();
    CHECK(std::memcmp(channel.receive(plain, nullptr).data, values, sizeof values) == 0);
    const auto* bytes = static_cast<const int8_t*>(channel.receive(quantised, nullptr).data);
    CHECK(std::vector<int>(bytes, bytes + 4) == std::vector<int>{0, 2, -2, 4});
    channel.release(plain);
    channel.release(quantised);
  }
}

TEST_CASE("announcements only say when to look: they deliver nothing, promise nothing and end") {
  Channel channel("t", {1}, f32, 1);
  channel.add_receiver(f32, true);
  const auto now = [] { return Channel::Clock::now(); };
  // Nothing comes: the deadline holds, whatever was announced.
  for (const auto due : {now() - 1h, now(), now() + 1h}) {
    channel.announce(due, true);
    const auto start = now();
    CHECK_THROWS_AS(channel.receive(0, nullptr, now() + 30ms), TimeoutError);
    CHECK(now() - start < 10min);
  }
  // It comes long before or after it was announced for, or unannounced.
  int32_t value = 0;
  for (const auto error : {-20ms, 0ms, 20ms}) {
    for (const bool wake : {true, false}) {
      ++value;
      std::thread sender([&] {
        std::this_thread::sleep_for(10ms);
        channel.announce(now() + 25ms + error, wake);
        std::this_thread::sleep_for(25ms);
        send(channel, value);
      });
      CHECK(take(channel, 0) == value);
      sender.join();
    }
  }
  std::thread closer([&] {
    channel.announce(now() + 1h, true);
    std::this_thread::sleep_for(20ms);
    channel.close();
  });
  CHECK_THROWS_AS(channel.receive(0, nullptr), ClosedError);
  closer.join();
}

TEST_CASE("a receiver does not burn its CPU for a frame that is late") {
  const auto cpu_time = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::nanoseconds(std::chrono::seconds(time.tv_sec)).count() + time.tv_nsec;
  };
  int64_t least = std::numeric_limits<int64_t>::max();  // a host that stops this CPU may be counted
  for (int i = 0; i < 3; ++i) {
    Channel channel("t", {1}, f32, 1);
    channel.add_receiver(f32, true);
    std::thread sender([&] {
      std::this_thread::sleep_for(5ms);
      for (int j = 0; j < 10; ++j) {  // ten corrections, none of them true
        channel.announce(Channel::Clock::now() + 1ms, j == 0);
        std::this_thread::sleep_for(20ms);
      }
      send(channel, 1);
    });
    const int64_t before = cpu_time();
    CHECK(take(channel, 0) == 1);
    least = std::min(least, cpu_time() - before);
    sender.join();
  }
  CHECK(least < 10'000'000);  // of 200 ms; it looks out for 60 us at a time
}

TEST_CASE("a sender and three receivers on threads of their own: nothing is lost, doubled or torn") {
  constexpr int frames = 3000;
  const Shape shape{1, 64};
  const Format q8{DataType::Int8, {{1.0f}, 0}, Layout::Nhwc};
  for (size_t capacity : {1, 3}) {
    Channel channel("t", shape, f32, capacity);
    channel.add_receiver(f32);
    channel.add_receiver(f32, true);
    channel.add_receiver(q8, true);
    std::atomic<int> wrong{0}, errors{0};
    const auto is_error = [](int frame) { return frame % 97 == 5; };
    std::vector<std::thread> receivers;
    for (size_t r = 0; r < 3; ++r)
      receivers.emplace_back([&, r] {
        for (int frame = 0; frame < frames; ++frame) {
          const Channel::Received received = channel.receive(r, nullptr);
          if (received.error) {
            ++errors;
            wrong += !is_error(frame);
          } else {
            const int expected = frame % 100;
            for (size_t i = 0; i < 64; ++i)
              wrong += r == 2 ? static_cast<const int8_t*>(received.data)[i] != expected
                              : static_cast<const float*>(received.data)[i] != static_cast<float>(expected);
          }
          channel.release(r);
        }
      });
    int sent_errors = 0;
    for (int frame = 0; frame < frames; ++frame) {
      channel.announce(Channel::Clock::now() + std::chrono::microseconds(frame % 50), frame % 3 == 0);
      auto* const buffer = static_cast<float*>(channel.acquire());
      if (is_error(frame)) {
        channel.fail(std::make_exception_ptr(std::runtime_error("frame")));
        ++sent_errors;
        continue;
      }
      std::fill(buffer, buffer + 64, static_cast<float>(frame % 100));
      channel.publish();
    }
    for (std::thread& receiver : receivers) receiver.join();
    CHECK(wrong == 0);
    CHECK(errors == 3 * sent_errors);
  }
}

TEST_CASE("memory of the ends' own is used where they give some") {
  const auto memory = [](int fill) {
    auto* bytes = static_cast<uint8_t*>(std::aligned_alloc(64, 256));
    std::memset(bytes, fill, 256);
    return std::shared_ptr<uint8_t>(bytes, std::free);
  };
  const std::shared_ptr<uint8_t> sent = memory(1), converted = memory(2);
  const Format int8{DataType::Int8, {{0.5F}, 0}, Layout::Nhwc};
  const Format int8_nchw{DataType::Int8, {{0.5F}, 0}, Layout::Nchw};
  const auto none = []() -> std::shared_ptr<uint8_t> { return nullptr; };
  {
    Channel channel("x", {1, 1, 1, 2}, f32, 1, [&] { return sent; });
    const size_t own = channel.add_receiver(int8, false, [&] { return converted; });
    const size_t other = channel.add_receiver(int8_nchw, false, [&] { return converted; });
    const size_t any = channel.add_receiver(int8, false, none);
    auto* data = static_cast<float*>(channel.acquire());
    CHECK(reinterpret_cast<uint8_t*>(data) == sent.get());
    data[0] = 1.5F;
    data[1] = -2.0F;
    channel.publish();
    for (size_t receiver : {own, other, any}) {
      const auto received = channel.receive(receiver, nullptr);
      CHECK((received.data == converted.get()) == (receiver != any));
      CHECK(static_cast<const int8_t*>(received.data)[0] == 3);
      CHECK(static_cast<const int8_t*>(received.data)[1] == -4);
      channel.release(receiver);
    }
    CHECK(sent.use_count() == 2);
  }
  CHECK(sent.use_count() == 1);
  CHECK(converted.use_count() == 1);
}

}  // namespace piqi_test
