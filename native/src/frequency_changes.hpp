// The frequencies of a plan's steps: asked for where the change is worth it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "piqi/board.hpp"
#include "piqi/governor.hpp"
#include "piqi/graph_creator.hpp"
#include "piqi/plan.hpp"

namespace piqi {

/// Asks the governor before each step, but not for a change that takes effect too late: one whose delay
/// (Processor::delays_us) is not shorter than the steps until its processor is next asked for something else,
/// at the frequency in force, over the end of the frame (docs/dvfs.md). What steps take, it learns from the
/// frames; nothing is skipped before it has seen some. Threads: each sub-graph's calls ask() and took() for
/// it.
class FrequencyChanges {
 public:
  /// `judge`: false, every change is made; in a pipeline nobody knows what is asked for next.
  FrequencyChanges(const Board& board, const CutGraph& cut, const Plan& plan,
                   std::shared_ptr<Governor> governor, bool judge);

  /// Throws DeviceError.
  void ask(size_t sub_graph, size_t step);
  /// How long a step took, from ask() to its end; of all steps of a frame, in order, after its last.
  void took(size_t sub_graph, size_t step, int64_t time_ns);

 private:
  struct Request {
    size_t domain, index;
    const Processor* processor;
    size_t step;               // of all sub-graphs' steps, in order
    size_t stay;               // steps until the domain is asked for another index; npos: it never is
    bool skipped = false;      // in the last frame
    int64_t unchanged_ns = 0;  // what the stay takes where the change is skipped; 0: it never was
  };
  struct SubGraphSteps {
    size_t first;  // of all steps
    std::vector<std::vector<Request>> requests;
    uint64_t frames = 0;
  };
  void find_stays();
  bool pays(Request& request, uint64_t frames);

  const std::shared_ptr<Governor> governor_;
  const bool judge_;
  std::vector<SubGraphSteps> sub_graphs_;
  std::vector<std::atomic<int64_t>> averages_ns_;  // of all steps
};

}  // namespace piqi
