// The firmware's logic on the host, driven by standard input: one command a line, its result a line.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "../../native/firmware/piqi_meter/meter_logic.h"

using namespace piqi_meter;

int main() {
  EventQueue<8> queue;
  char command[16];
  uint32_t a, b, c, d;
  while (std::scanf("%15s", command) == 1) {
    if (std::strcmp(command, "line") == 0) {
      if (std::scanf("%" SCNu32 "%" SCNu32 "%" SCNu32 "%" SCNu32, &a, &b, &c, &d) != 4) return 1;
      char line[kLineSize];
      const Event event = {a, b, c, d == kNoPower};
      std::fwrite(line, 1, format_line(event, d, line), stdout);
    } else if (std::strcmp(command, "power") == 0) {  // manufacturer, die, raw
      if (std::scanf("%" SCNx32 "%" SCNx32 "%" SCNu32, &a, &b, &c) != 3) return 1;
      const Sensor sensor = identify(static_cast<uint16_t>(a), static_cast<uint16_t>(b));
      if (sensor == Sensor::kNone) {
        std::puts("none");
      } else {
        std::printf("%x %" PRIu32 "\n", configuration(sensor),
                    power_tenth_mw(sensor, static_cast<uint16_t>(c)));
      }
    } else if (std::strcmp(command, "calibration") == 0) {  // shunt in uohm
      if (std::scanf("%" SCNu32, &a) != 1) return 1;
      std::printf("%u\n", calibration(a));
    } else if (std::strcmp(command, "push") == 0) {  // stamp, whether it is an edge
      if (std::scanf("%" SCNu32 "%" SCNu32, &a, &b) != 2) return 1;
      queue.push(a, b != 0);
      std::puts(queue.has_sample() ? "sample" : "-");
    } else if (std::strcmp(command, "pop") == 0) {
      Event event;
      if (queue.pop(&event)) {
        std::printf("%" PRIu32 " %" PRIu32 " %" PRIu32 " %d\n", event.sequence, event.stamp_us, event.marker,
                    event.edge);
      } else {
        std::puts("empty");
      }
    } else {
      return 1;
    }
  }
}
