// When a simulated board is done with what it does, while frequencies change.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "board_memory.hpp"

namespace pacer {

/// Part of an activity. `table`: ns and mW by frequencies; `factor`: of the time.
struct Phase {
  const double* table;
  double factor;
};

/// A stretch of constant power.
struct Piece {
  int64_t begin_ns, end_ns;
  double power_mw;
};

/// Notes the indices that the files ask for, [processors], at a time.
inline void ask(BoardMemory& board, int64_t now_ns, const int64_t* asked) {
  for (int64_t i = 0; i < board.processor_count; ++i) {
    Processor& processor = board.processors[i];
    if (processor.opps == 0) continue;
    if (processor.pending != none && processor.pending_at_ns <= now_ns)
      processor.in_force = std::exchange(processor.pending, none);
    if (asked[i] == processor.asked) continue;
    processor.asked = processor.pending = asked[i];
    // What was not measured (NaN) is at once.
    const double delay_ns = processor.delay_ns[processor.in_force][asked[i]];
    processor.pending_at_ns = now_ns + (delay_ns > 0 ? static_cast<int64_t>(delay_ns) : 0);
  }
}

/// The phases one after the other from `begin_ns` on, through changes that are on their way.
inline std::vector<Piece> timeline(const BoardMemory& board, const std::vector<Phase>& phases,
                                   int64_t begin_ns) {
  size_t frequencies = 0;
  std::vector<std::pair<int64_t, int64_t>> changes;  // when, by how much `frequencies` grows
  for (int64_t i = 0; i < board.processor_count; ++i) {
    const Processor& processor = board.processors[i];
    frequencies += static_cast<size_t>(processor.in_force * processor.stride);
    if (processor.pending != none)
      changes.emplace_back(processor.pending_at_ns,
                           (processor.pending - processor.in_force) * processor.stride);
  }
  std::sort(changes.begin(), changes.end());
  auto next = changes.begin();
  std::vector<Piece> pieces;
  auto at_ns = static_cast<double>(begin_ns);
  for (const Phase& phase : phases)
    for (double left = 1; left > 0;) {
      for (; next != changes.end() && static_cast<double>(next->first) <= at_ns; ++next)
        frequencies += static_cast<size_t>(next->second);  // modulo, where it shrinks
      const double whole_ns = phase.factor * phase.table[2 * frequencies];
      double end_ns = at_ns + left * whole_ns, left_then = 0;
      if (next != changes.end() && static_cast<double>(next->first) < end_ns) {
        end_ns = static_cast<double>(next->first);
        left_then = left - (end_ns - at_ns) / whole_ns;
      }
      pieces.push_back(
          {static_cast<int64_t>(at_ns), static_cast<int64_t>(end_ns), phase.table[2 * frequencies + 1]});
      at_ns = end_ns;
      left = left_then;
    }
  return pieces;
}

}  // namespace pacer
