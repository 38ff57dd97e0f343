#include "piqi/plan.hpp"

#include <charconv>
#include <sstream>

namespace piqi {
namespace {

std::string at_layer(size_t layer) {
  return "layer " + std::to_string(layer) + ": ";
}

// The processors whose frequency a layer on `processor` names, in the order they are written.
std::vector<size_t> named_processors(const Board& board, size_t processor) {
  const Processor& p = board.processors()[processor];
  if (p.host == '\0') return {processor};
  const size_t host = board.find(p.host);
  if (p.kind == ProcessorKind::Npu) return {host};
  return {processor, host};
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(separator, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

size_t parse_index(const std::string& token, const std::string& part, const Processor& processor,
                   size_t layer) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  if (part.empty() || error != std::errc() || end != part.data() + part.size())
    throw PlanError(at_layer(layer) + "frequency '" + token + "': '" + part + "' is not a number");
  if (index >= processor.opp_count())
    throw PlanError(at_layer(layer) + "frequency '" + token + "': " + processor.letter +
                    " has indices 0 to " + std::to_string(processor.opp_count() - 1));
  return index;
}

}  // namespace

Plan::Plan(const Board& board, size_t layer_count, std::string order, const std::string& freqs)
    : order_(std::move(order)) {
  if (order_.size() != layer_count)
    throw PlanError("order '" + order_ + "' has " + std::to_string(order_.size()) +
                    " letters, the model has " + std::to_string(layer_count) + " layers");
  std::vector<std::string> tokens;
  std::istringstream stream(freqs);
  for (std::string token; stream >> token;) tokens.push_back(token);
  if (!tokens.empty() && tokens.size() != layer_count)
    throw PlanError("freqs '" + freqs + "' has " + std::to_string(tokens.size()) +
                    " entries, the model has " + std::to_string(layer_count) + " layers");
  for (size_t layer = 0; layer < layer_count; ++layer) {
    size_t processor = 0;
    try {
      processor = board.find(order_[layer]);
    } catch (const PlanError& error) {
      throw PlanError(at_layer(layer) + error.what());
    }
    processors_.push_back(processor);
    const std::vector<size_t> named = named_processors(board, processor);
    std::vector<FrequencyRequest> requests;
    if (tokens.empty()) {
      for (size_t p : named) requests.push_back({p, board.processors()[p].opp_count() - 1});
    } else {
      const std::vector<std::string> parts = split(tokens[layer], '-');
      if (parts.size() != named.size())
        throw PlanError(at_layer(layer) + "frequency '" + tokens[layer] + "': processor " + order_[layer] +
                        (named.size() == 2 ? " needs own-host, two numbers" : " needs one number"));
      for (size_t i = 0; i < parts.size(); ++i)
        requests.push_back(
            {named[i], parse_index(tokens[layer], parts[i], board.processors()[named[i]], layer)});
    }
    requests_.push_back(std::move(requests));
    if (board.processors()[processor].kind == ProcessorKind::Npu) {
      if (layer > 0 && processors_[layer - 1] == processor)
        npu_ranges_.back().second = layer;
      else
        npu_ranges_.emplace_back(layer, layer);
    }
  }
}

std::string Plan::freqs() const {
  std::string text;
  for (const auto& requests : requests_) {
    if (!text.empty()) text += ' ';
    for (size_t i = 0; i < requests.size(); ++i) text += (i ? "-" : "") + std::to_string(requests[i].index);
  }
  return text;
}

}  // namespace piqi
