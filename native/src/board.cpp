#include "piqi/board.hpp"

#include <utility>

#include "piqi/graph.hpp"

namespace piqi {
namespace {

// pthreadpool does not look whether its threads could be made.
constexpr size_t max_threads = 256;

}  // namespace

Board::Board(std::string name, std::vector<Processor> processors)
    : name_(std::move(name)), processors_(std::move(processors)) {
  if (processors_.empty()) throw PlanError("board " + name_ + ": has no processors");
  for (size_t i = 0; i < processors_.size(); ++i) {
    const Processor& processor = processors_[i];
    if (processor.threads == 0 || processor.threads > max_threads)
      throw PlanError("board " + name_ + ": processor " + processor.letter + " has " +
                      std::to_string(processor.threads) + " threads, expected 1 to " +
                      std::to_string(max_threads));
    if (find(processor.letter) != i)
      throw PlanError("board " + name_ + ": two processors have the letter " + processor.letter);
    if (processor.host != '\0' && find(processor.host) == i)
      throw PlanError("board " + name_ + ": processor " + processor.letter + " is its own host");
    const size_t opps = processor.freqs_khz.size();
    if (!processor.delays_us.empty() && processor.delays_us.size() != opps * opps)
      throw PlanError("board " + name_ + ": processor " + processor.letter + " has " +
                      std::to_string(processor.delays_us.size()) + " delays_us, expected " +
                      std::to_string(opps * opps) + " for its " + std::to_string(opps) + " frequencies");
    const bool settable = !processor.sysfs_path.empty() && !processor.freqs_khz.empty();
    domain_of_.push_back(settable ? domains_.size() : npos);
    if (settable)
      domains_.push_back({std::string(1, processor.letter), processor.sysfs_path, processor.freqs_khz});
  }
}

size_t Board::find(char letter) const {
  std::string letters;
  for (size_t i = 0; i < processors_.size(); ++i) {
    if (processors_[i].letter == letter) return i;
    letters += processors_[i].letter;
  }
  throw PlanError("board " + name_ + " has no processor '" + std::string(1, letter) + "', only " + letters);
}

}  // namespace piqi
