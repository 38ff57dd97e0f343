// cpufreq (Documentation/admin-guide/pm/cpufreq.rst) and devfreq
// (Documentation/ABI/testing/sysfs-class-devfreq) with the `userspace` governor.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>

#include "piqi/error.hpp"
#include "piqi/governor.hpp"
#include "sysfs_file.hpp"

namespace piqi {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char userspace[] = "userspace";
constexpr std::chrono::milliseconds search_interval{100};  // for a folder that is gone
constexpr std::chrono::seconds check_interval{1};          // of a frequency that nobody changes

/// What is answered for a CPU that is offline, a device that is unbound, and, in the files that were open,
/// when they are there again.
bool means_gone(int error) {
  return error == ENOENT || error == ENODEV || error == ENXIO || error == EBUSY;
}

/// One folder of sysfs: takes it over, sets its frequency, gives it back. Several domains may share it.
class Control {
 public:
  Control(std::string processor, std::string folder)
      : processor_(std::move(processor)), folder_(std::move(folder)) {
    is_cpu_ = access((folder_ + "/scaling_governor").c_str(), F_OK) == 0;
    governor_path_ = folder_ + (is_cpu_ ? "/scaling_governor" : "/governor");
    speed_path_ = folder_ + (is_cpu_ ? "/scaling_setspeed" : "/userspace/set_freq");
    hz_per_unit_ = is_cpu_ ? 1000 : 1;
    taken_ = take();
    if (!taken_) give_back();
  }
  ~Control() { restore(); }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  const std::string& folder() const { return folder_; }

  /// False for what is gone, too.
  bool taken() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return taken_;
  }
  /// Taken, or gone in the meantime: set() may work.
  bool usable() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return taken_ || gone_;
  }
  /// What was last asked for; 0: unknown.
  uint64_t freq_khz() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return freq_khz_;
  }

  bool set(uint64_t freq_khz) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (taken_ && freq_khz == freq_khz_ && Clock::now() < check_at_) return false;
    if (gone_ && !take_again()) return false;
    if (!taken_ || (freq_khz == freq_khz_ && still_in_force())) return false;
    if (!speed_.write(freq_khz * 1000 / hz_per_unit_)) {
      const int error = errno;
      std::string problem = describe(speed_path_, "write");
      freq_khz_ = 0;
      // EINVAL: another program has set a governor of its own; or, with Linux 4.4, the CPU is offline.
      const bool gone = means_gone(error) || (worked_ && error == EINVAL);
      if (worked_ && !gone) throw DeviceError(problem);
      problem_ = std::move(problem);
      if (gone) {
        lose();
        return false;
      }
      taken_ = false;
      give_back();
      return false;
    }
    worked_ = true;
    freq_khz_ = freq_khz;
    check_at_ = Clock::now() + check_interval;
    read_back();
    return true;
  }

  void restore() noexcept {
    std::lock_guard<std::mutex> lock(mutex_);
    taken_ = gone_ = false;
    give_back();
  }

  void add_warnings(std::vector<std::string>& texts) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (losses_ > 0)
      texts.push_back(problem_ + " (lost " + times(losses_) + (gone_ ? ")" : ", taken again)"));
    else if (!problem_.empty())
      texts.push_back(problem_);
    if (mismatches_ > 0)
      texts.push_back(processor_ + ": " + speed_path_ + ": asked for " + std::to_string(asked_khz_) +
                      " kHz, runs at " + std::to_string(got_khz_) + " kHz (" + times(mismatches_) + ")");
  }

 private:
  static std::string times(uint64_t count) {
    return std::to_string(count) + (count == 1 ? " time" : " times");
  }

  bool take() {
    governor_ = SysfsFile(governor_path_, O_RDWR);
    if (!governor_.is_open()) return note(governor_path_, "open");
    if (!governor_.read(found_governor_)) return note(governor_path_, "read");
    // What the hardware runs at. cpufreq's setspeed reads as that; devfreq's set_freq reads as what was
    // asked, and as nothing before anything was asked.
    if (!is_cpu_) actual_ = SysfsFile(folder_ + "/cur_freq", O_RDONLY);
    if (std::strcmp(found_governor_, userspace) == 0) {
      speed_ = SysfsFile(speed_path_, O_RDWR);
      found_speed_ = speed_.read_number();
      if (!found_speed_) found_speed_ = actual_.read_number();
    }
    held_ = true;
    return take_over();
  }

  /// With the governor's file open.
  bool take_over() {
    if (!governor_.write(userspace)) return note(governor_path_, "write 'userspace'");
    char now[sizeof(found_governor_)];
    if (!governor_.read(now)) return note(governor_path_, "read");
    if (std::strcmp(now, userspace) != 0) {
      problem_ = processor_ + ": " + governor_path_ + ": is '" + now + "' after writing 'userspace'";
      return false;
    }
    // devfreq has set_freq only while its governor is `userspace`.
    if (!speed_.is_open()) speed_ = SysfsFile(speed_path_, O_RDWR);
    if (!speed_.is_open()) return note(speed_path_, "open");
    return true;
  }

  void lose() {
    ++losses_;
    taken_ = false;
    gone_ = true;
    close_files();
  }

  /// What comes back does so with the kernel's governor and speed; what was found at first is still put back.
  bool take_again() {
    const Clock::time_point now = Clock::now();
    if (now < search_at_) return false;
    search_at_ = now + search_interval;
    governor_ = SysfsFile(governor_path_, O_RDWR);
    if (!is_cpu_) actual_ = SysfsFile(folder_ + "/cur_freq", O_RDONLY);
    taken_ = governor_.is_open() ? take_over() : note(governor_path_, "open");
    gone_ = !taken_;
    if (gone_) close_files();
    return taken_;
  }

  /// Looks once in a while: a CPU that was away, or another program, may have changed it. May lose() it.
  bool still_in_force() {
    check_at_ = Clock::now() + check_interval;
    char now[sizeof(found_governor_)];
    errno = 0;
    if (governor_.read(now) && std::strcmp(now, userspace) == 0) return read_back();
    problem_ = errno != 0 ? describe(governor_path_, "read")
                          : processor_ + ": " + governor_path_ + ": another program made it '" + now + "'";
    lose();
    freq_khz_ = 0;
    return !take_again();
  }

  void close_files() {
    governor_.reset();
    speed_.reset();
    actual_.reset();
  }

  /// False if it runs at another frequency.
  bool read_back() {
    const std::optional<uint64_t> speed = (actual_.is_open() ? actual_ : speed_).read_number();
    if (!speed) return true;
    const uint64_t got_khz = *speed * hz_per_unit_ / 1000;
    // Clock dividers do not hit every OPP exactly: what is within 2 % of it is that OPP.
    const uint64_t difference = got_khz > freq_khz_ ? got_khz - freq_khz_ : freq_khz_ - got_khz;
    if (difference * 50 <= freq_khz_) return true;
    ++mismatches_;
    asked_khz_ = freq_khz_;
    got_khz_ = got_khz;
    return false;
  }

  void give_back() noexcept {
    if (held_ && getpid() == owner_) {  // a forked child that exits leaves the board to its parent
      // Nothing can be done about a refusal here.
      if (!governor_.is_open()) governor_ = SysfsFile(governor_path_, O_RDWR);
      if (found_speed_ && speed_.is_open())
        (void)speed_.write(*found_speed_);
      else
        (void)governor_.write(found_governor_);
    }
    held_ = false;
    freq_khz_ = 0;
    close_files();
  }

  std::string describe(const std::string& path, const char* what) const {
    const int error = errno;
    return processor_ + ": " + path + ": " + what + ": " + std::strerror(error);
  }
  bool note(const std::string& path, const char* what) {
    problem_ = describe(path, what);
    return false;
  }

  const std::string processor_;
  const std::string folder_;
  const pid_t owner_ = getpid();
  bool is_cpu_ = false;
  std::string governor_path_;
  std::string speed_path_;
  uint64_t hz_per_unit_ = 1;

  mutable std::mutex mutex_;
  SysfsFile governor_;
  SysfsFile speed_;
  SysfsFile actual_;
  char found_governor_[32] = "";
  std::optional<uint64_t> found_speed_;
  bool held_ = false;   // something may have been written that has to be put back
  bool taken_ = false;  // set() works
  bool gone_ = false;   // it did
  bool worked_ = false;
  Clock::time_point check_at_, search_at_;  // when to look what it runs at, and whether it is there again
  uint64_t freq_khz_ = 0;                   // last asked for; 0: unknown
  std::string problem_;
  uint64_t losses_ = 0, mismatches_ = 0, asked_khz_ = 0, got_khz_ = 0;
};

/// Governors that are alive when the program calls exit(): their owners may never be destroyed (an
/// interpreter does not destroy everything), and the board must not stay at the last frequency.
class AtExit {
 public:
  static AtExit& instance() {
    static AtExit* const object = new AtExit;  // never destroyed: outlives every static that owns a governor
    return *object;
  }
  void add(Governor* governor) {
    std::lock_guard<std::mutex> lock(mutex_);
    governors_.push_back(governor);
  }
  void remove(Governor* governor) {
    std::lock_guard<std::mutex> lock(mutex_);
    governors_.erase(std::remove(governors_.begin(), governors_.end(), governor), governors_.end());
  }

 private:
  AtExit() {
    std::atexit([] {
      AtExit& self = instance();
      std::lock_guard<std::mutex> lock(self.mutex_);
      for (Governor* governor : self.governors_) governor->restore();
    });
  }

  std::mutex mutex_;
  std::vector<Governor*> governors_;
};

class SysfsGovernor final : public Governor {
 public:
  SysfsGovernor(std::vector<FrequencyDomain> domains, const std::string& root)
      : domains_(std::move(domains)) {
    for (const FrequencyDomain& domain : domains_) {
      std::vector<std::shared_ptr<Control>> controls;
      std::istringstream paths(domain.path);
      for (std::string path; paths >> path;) controls.push_back(control(domain.processor, root + "/" + path));
      controls_of_.push_back(std::move(controls));
      // All clusters of a processor or none: the others must not stay as they are for good.
      if (!this->controls(controls_of_.size() - 1))
        for (const auto& control : controls_of_.back()) control->restore();
    }
    AtExit::instance().add(this);
  }

  ~SysfsGovernor() override {
    restore();
    AtExit::instance().remove(this);
  }

  bool request(size_t domain, size_t index) override {
    if (domain >= domains_.size())
      throw DeviceError("frequency domain " + std::to_string(domain) + " of " +
                        std::to_string(domains_.size()));
    const auto& controls = controls_of_[domain];
    const auto usable = [](const auto& control) { return control->usable(); };
    if (controls.empty() || !std::all_of(controls.begin(), controls.end(), usable)) return false;
    const std::vector<uint64_t>& freqs_khz = domains_[domain].freqs_khz;
    if (index >= freqs_khz.size())
      throw DeviceError(domains_[domain].processor + ": frequency index " + std::to_string(index) +
                        " is outside its table of " + std::to_string(freqs_khz.size()));
    bool written = false;
    for (const auto& control : controls) written |= control->set(freqs_khz[index]);
    return written;
  }

  bool controls(size_t domain) const override {
    const auto& controls = controls_of_.at(domain);
    return !controls.empty() &&
           std::all_of(controls.begin(), controls.end(), [](const auto& c) { return c->taken(); });
  }

  size_t in_force(size_t domain) const override {
    const auto& controls = controls_of_.at(domain);
    if (controls.empty()) return unknown;
    const uint64_t freq_khz = controls.front()->freq_khz();
    for (const auto& control : controls)
      if (control->freq_khz() != freq_khz) return unknown;
    const std::vector<uint64_t>& freqs_khz = domains_[domain].freqs_khz;
    const auto found = std::find(freqs_khz.begin(), freqs_khz.end(), freq_khz);
    return found == freqs_khz.end() ? unknown : static_cast<size_t>(found - freqs_khz.begin());
  }

  void restore() noexcept override {
    for (const auto& control : all_) control->restore();
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> texts;
    for (const auto& control : all_) control->add_warnings(texts);
    return texts;
  }

 private:
  std::shared_ptr<Control> control(const std::string& processor, const std::string& folder) {
    const auto same = [&](const auto& control) { return control->folder() == folder; };
    const auto found = std::find_if(all_.begin(), all_.end(), same);
    if (found != all_.end()) return *found;
    all_.push_back(std::make_shared<Control>(processor, folder));
    return all_.back();
  }

  const std::vector<FrequencyDomain> domains_;
  std::vector<std::shared_ptr<Control>> all_;
  std::vector<std::vector<std::shared_ptr<Control>>> controls_of_;
};

}  // namespace

std::shared_ptr<Governor> make_sysfs_governor(std::vector<FrequencyDomain> domains, const std::string& root) {
  return std::make_shared<SysfsGovernor>(std::move(domains), root);
}

}  // namespace piqi
