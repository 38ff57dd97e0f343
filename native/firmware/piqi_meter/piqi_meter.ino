// Power meter: an INA260 or INA226 over I2C, a marker line, lines of text at 921600 baud
// (docs/power_meter.md).
#include <Arduino.h>
#include <Wire.h>

#include "meter_logic.h"

using namespace piqi_meter;

#if defined(ARDUINO_ARCH_ESP32)
#define IN_RAM IRAM_ATTR
constexpr int kMarkerPin = 27;
constexpr int kAlertPin = 26;
#else
#define IN_RAM
constexpr int kMarkerPin = 2;
constexpr int kAlertPin = 3;
#endif

constexpr uint8_t kAddress = 0x40;
constexpr uint32_t kShuntUohm = 10000;  // INA226 only; the INA260's is inside
constexpr uint32_t kBaud = 921600;

EventQueue<256> events;
Sensor sensor = Sensor::kNone;

void IN_RAM on_marker() {
  events.push(micros(), true);
}
void IN_RAM on_conversion() {
  events.push(micros(), false);
}

bool write_register(uint8_t address, uint16_t value) {
  Wire.beginTransmission(kAddress);
  Wire.write(address);
  Wire.write(static_cast<uint8_t>(value >> 8));
  Wire.write(static_cast<uint8_t>(value & 0xFF));
  return Wire.endTransmission() == 0;
}

bool read_register(uint8_t address, uint16_t* value) {
  Wire.beginTransmission(kAddress);
  Wire.write(address);
  if (Wire.endTransmission() != 0) return false;
  if (Wire.requestFrom(kAddress, static_cast<uint8_t>(2)) != 2) return false;
  const uint16_t high = static_cast<uint8_t>(Wire.read());
  *value = static_cast<uint16_t>(high << 8 | static_cast<uint8_t>(Wire.read()));
  return true;
}

bool start_sensor() {
  uint16_t manufacturer = 0, die = 0, flags = 0;
  if (!read_register(kManufacturer, &manufacturer) || !read_register(kDie, &die)) return false;
  sensor = identify(manufacturer, die);
  if (sensor == Sensor::kNone) return false;
  if (sensor == Sensor::kIna226) {
    const uint16_t value = calibration(kShuntUohm);
    if (value == 0 || !write_register(kCalibration, value)) return false;
  }
  return write_register(kMaskEnable, kAlertOnConversion) &&
         write_register(kConfiguration, configuration(sensor)) && read_register(kMaskEnable, &flags);
}

void setup() {
#if defined(ARDUINO_ARCH_ESP32)
  Serial.setTxBufferSize(1024);
#endif
  Serial.begin(kBaud);
  Wire.begin();
  Wire.setClock(400000);
  pinMode(kAlertPin, INPUT_PULLUP);
  pinMode(kMarkerPin, INPUT);
  attachInterrupt(digitalPinToInterrupt(kMarkerPin), on_marker, CHANGE);
  attachInterrupt(digitalPinToInterrupt(kAlertPin), on_conversion, FALLING);
  while (!start_sensor()) {
    Serial.println("# piqi-meter: no INA260 or INA226 at I2C address 0x40");
    delay(500);
  }
  Serial.println(sensor == Sensor::kIna260 ? "# piqi-meter 1 INA260" : "# piqi-meter 1 INA226");
}

void loop() {
  static uint32_t read_us = 0;
  Event event;
  if (!events.pop(&event)) {
    // An alert that was never cleared (a failed read, noise on I2C) would be the last one.
    if (micros() - read_us > 20000) {
      uint16_t flags;
      read_register(kMaskEnable, &flags);
      read_us = micros();
    }
    return;
  }
  uint32_t tenth_mw = kNoPower;
  if (!event.edge) {
    uint16_t raw = 0, flags = 0;
    // The register holds the latest conversion's power: no longer this one's.
    const bool late = events.has_sample() || micros() - event.stamp_us >= kSamplePeriodUs;
    const bool good = !late && read_register(kPower, &raw);
    read_register(kMaskEnable, &flags);
    read_us = micros();
    if (!good) return;  // the host sees the gap
    tenth_mw = power_tenth_mw(sensor, raw);
  }
  char line[kLineSize];
  const size_t size = format_line(event, tenth_mw, line);
  // Never waits: a host that does not read costs lines, not time.
  if (Serial.availableForWrite() >= static_cast<int>(size)) Serial.write(line, size);
}
