// As much of Arduino as the power meter's sketch uses, for compiling and running it on the host.
#pragma once

#include <stdint.h>
#include <stdio.h>

enum { INPUT, INPUT_PULLUP, CHANGE, FALLING };

extern uint32_t now_us;
extern int room;  // in the serial port
extern void (*interrupts_of[64])();

inline uint32_t micros() {
  return now_us;
}
inline void delay(uint32_t ms) {
  now_us += 1000 * ms;
}
inline void pinMode(int, int) {
}
inline int digitalPinToInterrupt(int pin) {
  return pin;
}
inline void attachInterrupt(int pin, void (*handler)(), int) {
  interrupts_of[pin] = handler;
}

struct SerialPort {
  void begin(uint32_t baud) { printf("baud %u\n", baud); }
  void println(const char* text) { printf("%s\n", text); }
  int availableForWrite() { return room; }
  void write(const char* data, size_t size) { fwrite(data, 1, size, stdout); }
};
extern SerialPort Serial;
