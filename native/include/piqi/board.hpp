// The board as the executor needs to know it. Board files (configs/boards) are the only place that knows a
// board.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "piqi/error.hpp"
#include "piqi/governor.hpp"

namespace piqi {

enum class ProcessorKind { Cpu, Gpu, Npu };

struct Processor {
  char letter = '?';
  ProcessorKind kind = ProcessorKind::Cpu;
  std::string backend;    // name of the backend that prepares its sub-graphs
  std::vector<int> cpus;  // CPUs that its threads are pinned to (a G's or N's: those of its host)
  size_t threads = 1;
  char host = '\0';                 // the processor that feeds a G or N; '\0': none
  std::vector<uint64_t> freqs_khz;  // OPP table, rising; empty: a single, unnamed operating point
  std::string sysfs_path;           // below the governor's root; empty: its frequency cannot be set
  // Measured time until a change of frequency takes effect, [from * opp_count + to]; 0: not known. May be
  // empty.
  std::vector<uint64_t> delays_us = {};

  size_t opp_count() const { return freqs_khz.empty() ? 1 : freqs_khz.size(); }
};

/// Processors in the board file's order. Throws PlanError for a letter used twice or a host that is not
/// there.
class Board {
 public:
  Board(std::string name, std::vector<Processor> processors);

  const std::string& name() const { return name_; }
  const std::vector<Processor>& processors() const { return processors_; }
  size_t find(char letter) const;  // index; throws PlanError
  /// One domain for each processor whose frequency can be set, to build a governor from.
  const std::vector<FrequencyDomain>& frequency_domains() const { return domains_; }
  /// Index into frequency_domains(), or npos.
  size_t domain_of(size_t processor) const { return domain_of_.at(processor); }

 private:
  std::string name_;
  std::vector<Processor> processors_;
  std::vector<FrequencyDomain> domains_;
  std::vector<size_t> domain_of_;
};

}  // namespace piqi
