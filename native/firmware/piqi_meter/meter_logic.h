// What the power meter does apart from its hardware; compiled for the board and, in the tests, for the host.
// C++11, no heap, no floating point.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace piqi_meter {

// CRC-16/CCITT-FALSE: polynomial 0x1021, from 0xFFFF.
inline uint16_t checksum(const char* data, size_t size) {
  uint16_t crc = 0xFFFF;
  for (size_t i = 0; i < size; ++i) {
    crc ^= static_cast<uint16_t>(static_cast<uint8_t>(data[i]) << 8);
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<uint16_t>((crc & 0x8000) ? (crc << 1) ^ 0x1021 : crc << 1);
    }
  }
  return crc;
}

// Texas Instruments INA260 (SBOS656) and INA226 (SBOS547): the registers that both have.
enum Register : uint8_t {
  kConfiguration = 0x00,
  kPower = 0x03,
  kCalibration = 0x05,  // INA226 only
  kMaskEnable = 0x06,
  kManufacturer = 0xFE,
  kDie = 0xFF,
};

enum class Sensor : uint8_t { kNone, kIna260, kIna226 };

constexpr uint16_t kTexasInstruments = 0x5449;
constexpr uint16_t kAlertOnConversion = 0x0400;  // in the mask/enable register; reading it ends the alert
constexpr uint32_t kIna226CurrentLsbUa = 100;    // the least current that its calibration makes it tell apart
constexpr uint32_t kNoPower = 0xFFFFFFFF;

// By the manufacturer and die registers; the die's last four bits are its revision.
inline Sensor identify(uint16_t manufacturer, uint16_t die) {
  if (manufacturer != kTexasInstruments) return Sensor::kNone;
  if ((die & 0xFFF0) == 0x2270) return Sensor::kIna260;
  if ((die & 0xFFF0) == 0x2260) return Sensor::kIna226;
  return Sensor::kNone;
}

// Continuous current and voltage, 140 us each, averages of 4.
constexpr uint32_t kSamplePeriodUs = 4 * (140 + 140);
inline uint16_t configuration(Sensor sensor) {
  return sensor == Sensor::kIna260 ? 0x6207 : 0x4207;
}

// INA226: 0.00512 / (current LSB x shunt), of a 15-bit register; 0 for a shunt that cannot be had.
inline uint16_t calibration(uint32_t shunt_uohm) {
  if (shunt_uohm == 0) return 0;
  const uint64_t value = 5120000000ULL / (static_cast<uint64_t>(kIna226CurrentLsbUa) * shunt_uohm);
  return value > 0x7FFF ? 0 : static_cast<uint16_t>(value);
}

// The power register in tenths of a milliwatt: 10 mW a count, or 25 times the current LSB (W for A).
inline uint32_t power_tenth_mw(Sensor sensor, uint16_t raw) {
  if (sensor == Sensor::kIna260) return static_cast<uint32_t>(raw) * 100;
  return static_cast<uint32_t>(raw) * (25 * kIna226CurrentLsbUa / 100);
}

// Something that an interrupt saw: a conversion is ready, or the marker line changed.
struct Event {
  uint32_t sequence;
  uint32_t stamp_us;
  uint32_t marker;
  bool edge;
};

// Events in the order in which they happened, from interrupts (which do not interrupt each other) to the
// loop. Each takes a sequence number and an edge counts even if there is no room: the host sees what is lost
// by the gap.
template <uint16_t kSize>
class EventQueue {
  static_assert(kSize > 0 && (kSize & (kSize - 1)) == 0, "a power of two");

 public:
  void push(uint32_t stamp_us, bool edge) {
    const uint32_t sequence = sequence_;
    sequence_ = sequence + 1;
    if (edge) marker_ = marker_ + 1;
    const uint16_t head = head_;
    if (static_cast<uint16_t>(head - tail_) == kSize) return;
    Event& event = events_[head % kSize];
    event.sequence = sequence;
    event.stamp_us = stamp_us;
    event.marker = marker_;
    event.edge = edge;
    barrier();
    head_ = static_cast<uint16_t>(head + 1);
  }

  // False if there is none.
  bool pop(Event* event) {
    const uint16_t tail = tail_;
    if (tail == head_) return false;
    barrier();
    *event = events_[tail % kSize];
    barrier();
    tail_ = static_cast<uint16_t>(tail + 1);
    return true;
  }

  // Whether a conversion is among what waits.
  bool has_sample() const {
    for (uint16_t i = tail_; i != head_; ++i) {
      if (!events_[i % kSize].edge) return true;
    }
    return false;
  }

 private:
  static void barrier() {
    __asm__ __volatile__("" ::: "memory");
  }  // one core: order for the compiler is enough

  Event events_[kSize];
  volatile uint16_t head_ = 0;
  volatile uint16_t tail_ = 0;
  volatile uint32_t sequence_ = 0;
  volatile uint32_t marker_ = 0;
};

constexpr size_t kLineSize = 64;

inline size_t put_number(char* to, uint32_t value) {
  char digits[10];
  size_t count = 0;
  do {
    digits[count++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value > 0);
  for (size_t i = 0; i < count; ++i) to[i] = digits[count - 1 - i];
  return count;
}

// "sequence,stamp_us,marker,power,checksum\n" into `line` of kLineSize; returns its length. The power
// (kNoPower for an edge) is written in mW with one decimal place.
inline size_t format_line(const Event& event, uint32_t tenth_mw, char* line) {
  size_t size = put_number(line, event.sequence);
  line[size++] = ',';
  size += put_number(line + size, event.stamp_us);
  line[size++] = ',';
  size += put_number(line + size, event.marker);
  line[size++] = ',';
  if (tenth_mw != kNoPower) {
    size += put_number(line + size, tenth_mw / 10);
    line[size++] = '.';
    line[size++] = static_cast<char>('0' + tenth_mw % 10);
  }
  const uint16_t crc = checksum(line, size);
  line[size++] = ',';
  for (int shift = 12; shift >= 0; shift -= 4) line[size++] = "0123456789ABCDEF"[(crc >> shift) & 0xF];
  line[size++] = '\n';
  return size;
}

}  // namespace piqi_meter
