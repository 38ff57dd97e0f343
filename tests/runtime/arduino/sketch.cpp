// The power meter's sketch on the host: conversions and edges in a given order, its lines on standard output.
#include <string.h>

#include "../../../native/firmware/piqi_meter/piqi_meter.ino"

uint32_t now_us = 0;
int room = 1000;
void (*interrupts_of[64])() = {};
SerialPort Serial;
I2cBus Wire;

void convert(uint16_t raw) {
  Wire.registers[kPower] = raw;
  if (!Wire.alert) interrupts_of[kAlertPin]();
  Wire.alert = true;
}

int main(int count, char** arguments) {
  Wire.registers[kManufacturer] = 0x5449;
  Wire.registers[kDie] = count > 1 && strcmp(arguments[1], "INA226") == 0 ? 0x2260 : 0x2270;
  setup();
  printf("registers %x %x %x\n", Wire.registers[kConfiguration], Wire.registers[kCalibration],
         Wire.registers[kMaskEnable]);
  const uint32_t start = now_us;
  for (uint32_t i = 0; i < 6; ++i) {
    now_us = start + 1120 * i;
    convert(static_cast<uint16_t>(500 + i));
    if (i == 3) now_us += 2000;  // the loop was away: the register may be of a later conversion
    loop();
    now_us = start + 1120 * i + 400;
    if (i % 2 == 0) interrupts_of[kMarkerPin]();
    if (i == 4) room = 10;  // nobody reads
    loop();
    room = 1000;
  }
}
