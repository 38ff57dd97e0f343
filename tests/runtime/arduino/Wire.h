// An I2C bus with registers of 16 bits at one address; reading the mask/enable register ends the alert.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct I2cBus {
  uint16_t registers[256] = {};
  uint8_t present = 0x40, address = 0, pointer = 0, bytes[3] = {}, count = 0, next = 0;
  bool alert = false;

  void begin() {}
  void setClock(uint32_t) {}
  void beginTransmission(uint8_t to) { address = to, count = 0; }
  void write(uint8_t value) {
    if (count < 3) bytes[count++] = value;
  }
  uint8_t endTransmission() {
    if (address != present) return 2;
    pointer = bytes[0];
    if (count == 3) registers[pointer] = static_cast<uint16_t>(bytes[1] << 8 | bytes[2]);
    return 0;
  }
  uint8_t requestFrom(uint8_t from, uint8_t size) {
    if (from != present) return 0;
    if (pointer == 0x06) alert = false;
    next = 0;
    return size;
  }
  int read() { return next++ == 0 ? registers[pointer] >> 8 : registers[pointer] & 0xFF; }
};
extern I2cBus Wire;
