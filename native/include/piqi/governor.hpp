// Sets the frequencies of the board's processors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace piqi {

/// What a governor needs to know of one processor with DVFS.
struct FrequencyDomain {
  std::string processor;  // its letter: "L"
  // Below the root: "sys/devices/system/cpu/cpufreq/policy0", or a devfreq folder. A processor of several
  // clusters names them all, separated by spaces, and all are set together.
  std::string path;
  std::vector<uint64_t> freqs_khz;  // the OPP table, rising
};

/// Interface. request() is called before each layer from the thread that runs it, so implementations lock; a
/// request for the index in force costs a comparison and a look at the clock, and never allocates.
class Governor {
 public:
  virtual ~Governor() = default;
  static constexpr size_t unknown = static_cast<size_t>(-1);

  /// Asks that `domain` (index into the list given at construction) runs at its OPP `index`. Returns true if
  /// something was written. A domain that cannot be controlled answers false. Throws DeviceError when a write
  /// that worked before fails, unless the processor is gone.
  virtual bool request(size_t domain, size_t index) = 0;
  /// True if the domain can be controlled.
  virtual bool controls(size_t domain) const = 0;
  /// The OPP that was last asked for, by whomever; `unknown` before that and for what cannot be controlled.
  virtual size_t in_force(size_t domain) const = 0;
  /// Puts every domain back as it was found. Never throws; idempotent.
  virtual void restore() noexcept = 0;
  /// One line for each thing that does not work and why ("L: policy0/scaling_setspeed: permission denied").
  virtual std::vector<std::string> warnings() const = 0;
};

std::shared_ptr<Governor> make_null_governor(std::vector<FrequencyDomain> domains);

/// cpufreq (`userspace`, scaling_setspeed, kHz) and devfreq (`userspace`, userspace/set_freq, Hz) below
/// `root`
/// ("/" on a board). Reads back what it wrote, and once a second what nobody changed: a processor that runs
/// more than 2 % off (a thermal limit, a maximum that someone set, a file that lies) is a warning, counted,
/// and stays controlled, since the kernel applies the request when the limit goes. A missing file or
/// permission makes the domain uncontrolled, with one warning. One that goes while in use (its CPUs are taken
/// offline, its device is unbound, another program sets a governor) is a warning, counted, runs at the
/// frequency there is, is looked for at most ten times a second, and is taken again. Limits (min, max) are
/// left alone. What was found, governors and `userspace` speeds, is restored on destruction and at exit().
std::shared_ptr<Governor> make_sysfs_governor(std::vector<FrequencyDomain> domains,
                                              const std::string& root = "/");

}  // namespace piqi
