// A validated run configuration: which processor runs each layer, at which frequencies.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "piqi/board.hpp"
#include "piqi/error.hpp"

namespace piqi {

class Plan {
 public:
  struct FrequencyRequest {
    size_t processor;  // whose frequency
    size_t index;      // into its OPP table
  };

  /// `order`: one letter a layer ("GLN"). `freqs`: one token a layer, separated by blanks ("4-7 5 7"): the
  /// index into the processor's own OPP table; `own-host` for a GPU with a host; the host's for an NPU.
  /// Empty: the highest everywhere. Throws PlanError naming the layer and the value.
  Plan(const Board& board, size_t layer_count, std::string order, const std::string& freqs = "");

  const std::string& order() const { return order_; }
  /// In the form the constructor takes, complete.
  std::string freqs() const;
  size_t layer_count() const { return processors_.size(); }
  size_t processor(size_t layer) const { return processors_.at(layer); }
  const std::vector<FrequencyRequest>& requests(size_t layer) const { return requests_.at(layer); }
  /// First and last layer of each maximal run of layers on an NPU.
  const std::vector<std::pair<size_t, size_t>>& npu_ranges() const { return npu_ranges_; }

 private:
  std::string order_;
  std::vector<size_t> processors_;
  std::vector<std::vector<FrequencyRequest>> requests_;
  std::vector<std::pair<size_t, size_t>> npu_ranges_;
};

}  // namespace piqi
