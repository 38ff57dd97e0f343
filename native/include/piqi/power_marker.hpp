// Tells a power meter where a layer begins.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace piqi {

/// Interface. mark() is called as each layer begins, from the thread that runs it; it never allocates.
class PowerMarker {
 public:
  virtual ~PowerMarker() = default;
  virtual void mark(size_t layer) = 0;
};

std::shared_ptr<PowerMarker> make_null_marker();

/// A line of a GPIO character device ("/dev/gpiochip1") that toggles at each mark, through the kernel's uAPI
/// v2 (GPIO_V2_GET_LINE_IOCTL), or v1 where that is all there is. Starts low. Throws DeviceError naming the
/// device and the line.
std::shared_ptr<PowerMarker> make_gpio_marker(const std::string& device, unsigned line);

/// The `value` file of an exported line of the older sysfs interface ("/sys/class/gpio/gpio39/value"), which
/// gets '1' and '0' in turn; starts low. Exports nothing: the DeviceError says how. May be a FIFO, which gets
/// a byte at each mark ('1' first) and nothing before; one that is full, since nobody reads it, is a
/// DeviceError.
std::shared_ptr<PowerMarker> make_sysfs_gpio_marker(const std::string& path);

}  // namespace piqi
