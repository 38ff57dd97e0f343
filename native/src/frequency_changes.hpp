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
/// at the frequency in force, over the end of the frame (docs/dvfs.md). Where frames overlap, other
/// sub-graphs run beside these steps, not between them: a processor that one sub-graph alone asks for goes
/// through that sub-graph's steps and begins them again; one that several ask for gets every change. What
/// steps take, it learns from the frames; nothing is skipped before it has seen some. Threads: each
/// sub-graph's calls ask() and took() for it.
class FrequencyChanges {
 public:
  FrequencyChanges(const Board& board, const CutGraph& cut, const Plan& plan,
                   std::shared_ptr<Governor> governor, bool frames_overlap);

  /// Throws DeviceError.
  void ask(size_t sub_graph, size_t step);
  /// How long a step took, from ask() to its end; of all steps of a frame, in order, after its last.
  void took(size_t sub_graph, size_t step, int64_t time_ns);

 private:
  struct Request {
    size_t domain, index;
    const Processor* processor;
    size_t step;           // of all sub-graphs' steps, in order
    size_t stay = npos;    // steps until the domain is asked for another index; npos: never, or unknown
    bool skipped = false;  // in the last frame
    int64_t unchanged_ns[2] = {0, 0};  // what the stay took in the last two frames that skipped the change
  };
  struct SubGraphSteps {
    size_t first;  // of all steps
    std::vector<std::vector<Request>> requests;
    // The steps that follow one another on its processors, again and again.
    size_t round_first = 0, round_count = 0;
    uint64_t frames = 0;

    size_t behind(size_t step, size_t i) const {
      return round_first + (step - round_first + i) % round_count;
    }
  };
  void find_stays(bool frames_overlap);
  bool pays(Request& request, const SubGraphSteps& steps);
  /// What the stay takes; 0: not known.
  int64_t stay_ns(const Request& request, const SubGraphSteps& steps,
                  const std::vector<std::atomic<int64_t>>& times_ns) const;

  const std::shared_ptr<Governor> governor_;
  std::vector<SubGraphSteps> sub_graphs_;
  std::vector<std::atomic<int64_t>> averages_ns_, latest_ns_;  // of all steps
};

}  // namespace piqi
