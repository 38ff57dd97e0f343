#include "frequency_changes.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace piqi {
namespace {

// What changes are worth is not judged before; the first frame is slower than any other.
constexpr uint64_t learning_frames = 4;

// What was found out without a change is found out anew: what was in the way then may be over.
constexpr uint64_t remembered_frames = 256;

size_t step_count(const CutGraph& cut) {
  size_t count = 0;
  for (const SubGraph& sub_graph : cut.sub_graphs) count += sub_graph.steps.size();
  return count;
}

}  // namespace

FrequencyChanges::FrequencyChanges(const Board& board, const CutGraph& cut, const Plan& plan,
                                   std::shared_ptr<Governor> governor, bool frames_overlap)
    : governor_(std::move(governor)), averages_ns_(step_count(cut)), latest_ns_(step_count(cut)) {
  size_t number = 0;
  for (const SubGraph& sub_graph : cut.sub_graphs) {
    sub_graphs_.push_back({number, {}});
    for (const Step& step : sub_graph.steps) {
      sub_graphs_.back().requests.emplace_back();
      for (const Plan::FrequencyRequest& request : plan.requests(step.first_layer)) {
        const size_t domain = board.domain_of(request.processor);
        if (governor_ && domain != npos)
          sub_graphs_.back().requests.back().push_back(
              {domain, request.index, &board.processors()[request.processor], number});
      }
      ++number;
    }
  }
  find_stays(frames_overlap);
}

void FrequencyChanges::find_stays(bool frames_overlap) {
  std::vector<const std::vector<Request>*> steps;
  std::map<size_t, std::set<const SubGraphSteps*>> askers;  // by domain
  for (const SubGraphSteps& sub_graph : sub_graphs_)
    for (const std::vector<Request>& requests : sub_graph.requests) {
      steps.push_back(&requests);
      for (const Request& request : requests) askers[request.domain].insert(&sub_graph);
    }
  for (SubGraphSteps& sub_graph : sub_graphs_) {
    sub_graph.round_first = frames_overlap ? sub_graph.first : 0;
    sub_graph.round_count = frames_overlap ? sub_graph.requests.size() : steps.size();
    for (std::vector<Request>& requests : sub_graph.requests)
      for (Request& request : requests) {
        if (frames_overlap && askers[request.domain].size() > 1) continue;
        for (size_t i = 1; i < sub_graph.round_count && request.stay == npos; ++i)
          for (const Request& other : *steps[sub_graph.behind(request.step, i)])
            if (other.domain == request.domain && other.index != request.index) request.stay = i;
      }
  }
}

void FrequencyChanges::ask(size_t sub_graph, size_t step) {
  SubGraphSteps& steps = sub_graphs_[sub_graph];
  for (Request& request : steps.requests[step])
    if (pays(request, steps)) governor_->request(request.domain, request.index);
}

void FrequencyChanges::took(size_t sub_graph, size_t step, int64_t time_ns) {
  SubGraphSteps& steps = sub_graphs_[sub_graph];
  std::atomic<int64_t>& average_ns = averages_ns_[steps.first + step];
  const int64_t before_ns = average_ns;
  // What is far off counts as twice the average: one frame that was disturbed says little.
  average_ns = steps.frames < 2 ? time_ns : before_ns + (std::min(time_ns, 2 * before_ns) - before_ns) / 4;
  latest_ns_[steps.first + step] = time_ns;
  if (step + 1 == steps.requests.size()) ++steps.frames;
}

int64_t FrequencyChanges::stay_ns(const Request& request, const SubGraphSteps& steps,
                                  const std::vector<std::atomic<int64_t>>& times_ns) const {
  int64_t total_ns = 0;
  for (size_t i = 0; i < request.stay; ++i) {
    const int64_t step_ns = times_ns[steps.behind(request.step, i)];
    if (step_ns == 0) return 0;  // its sub-graph has not finished a frame yet
    total_ns += step_ns;
  }
  return total_ns;
}

// How long the stay would take without the change is known where the change was skipped. Where it was made,
// its steps show it only as far as the delay is right: they take longer than the delay if, and only if, they
// would at the frequency in force. So these count until the others are known; else a change whose delay is
// shorter than measured would be made and skipped in turn.
bool FrequencyChanges::pays(Request& request, const SubGraphSteps& steps) {
  const std::vector<uint64_t>& delays_us = request.processor->delays_us;
  if (delays_us.empty() || request.stay == npos) return true;
  auto& [latest_ns, earlier_ns] = request.unchanged_ns;
  if (std::exchange(request.skipped, false)) {
    earlier_ns = latest_ns;
    latest_ns = stay_ns(request, steps, latest_ns_);
  }
  const size_t found = governor_->in_force(request.domain);
  if (steps.frames < learning_frames || found == Governor::unknown || found == request.index) return true;
  const uint64_t delay_us = delays_us[found * request.processor->freqs_khz.size() + request.index];
  if (delay_us == 0) return true;
  if (steps.frames % remembered_frames == 0) latest_ns = earlier_ns = 0;
  // The shorter of two: a frame that something else held up says nothing.
  const int64_t unchanged_ns = std::min(latest_ns, earlier_ns);
  const int64_t stay = unchanged_ns != 0 ? unchanged_ns : stay_ns(request, steps, averages_ns_);
  request.skipped = stay != 0 && static_cast<int64_t>(delay_us) * 1000 >= stay;
  return !request.skipped;
}

}  // namespace piqi
