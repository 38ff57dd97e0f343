// The memory that a simulated board shares with the processes that run on it: the numpy types of memory.py.
// Who writes holds the file's lock (flock), which the kernel opens for processes that are killed; the board
// only reads the ring.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pacer {

constexpr size_t max_processors = 8, max_opps = 32, max_layers = 256, max_processes = 32, ring_size = 1 << 14;
constexpr int64_t none = -1;

struct Processor {
  int64_t letter, opps;  // no opps: no frequency of its own
  int64_t stride;        // of its index in Network's tables
  int64_t in_force, asked;
  int64_t pending, pending_at_ns;  // takes effect then; or none
  int64_t freqs[max_opps];         // as its file says them
  double delay_ns[max_opps][max_opps];
  char governor[512], speed[512];  // files
};

/// Of the first all graphs that no other one has the name of.
struct Network {
  char name[32];
  int64_t layers;
  int64_t tables;  // where they begin: [5 + processors][processors][layers][frequencies] of ns and mW
};

/// Rows of a network's tables: these, then transfers from each processor to the one of the next dimension.
enum Table { Input, Output, Load, Unload, Run, Transfers };

/// By layer: which processor ran the sub-graph that ends with it, when it was last done.
struct Process {
  int64_t pid, used_ns;
  int64_t source[max_layers], ended_ns[max_layers];
};

enum RecordKind : int64_t { Stretch, Began, Ended };

/// Stretch: constant power from begin to end; Began: a step did; Ended: the activity did, at end_ns.
struct Record {
  int64_t kind, activity, pid, begin_ns, end_ns;
  double power_mw;
};

struct BoardMemory {
  int64_t size_bytes;  // of this, as the board knows it
  int64_t board_pid, npu_hangs;
  int64_t processor_count, npu, frequencies;  // npu: its place, or none
  double npu_run_shrink;
  int64_t activities, head;  // head: records that were ever written
  Processor processors[max_processors];
  Network networks[2];
  Process processes[max_processes];
  Record ring[ring_size];

  const double* table(const Network& network, size_t row, size_t processor, size_t layer) const {
    const auto* bytes = reinterpret_cast<const char*>(this) + network.tables;
    const size_t entry =
        (row * static_cast<size_t>(processor_count) + processor) * static_cast<size_t>(network.layers) +
        layer;
    return reinterpret_cast<const double*>(bytes) + 2 * entry * static_cast<size_t>(frequencies);
  }
};

}  // namespace pacer
