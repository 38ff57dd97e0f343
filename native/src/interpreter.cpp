#include "piqi/interpreter.hpp"

#include <cstring>

namespace piqi {

Interpreter::Interpreter(std::shared_ptr<const Graph> graph, size_t threads, bool keep_all)
    : graph_(std::move(graph)), pool_(threads) {
  if (!graph_->finished()) throw GraphError(graph_->name() + ": finish() was not called");
  sequence_ = std::make_unique<OperatorSequence>(graph_, all_operators(*graph_), graph_->inputs(),
                                                 graph_->outputs(), cache_, keep_all);
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  for (TensorId id : graph_->inputs())
    inputs.push_back(inputs_.emplace_back(graph_->tensor(id).size_bytes()).data());
  for (TensorId id : graph_->outputs())
    outputs.push_back(outputs_.emplace_back(graph_->tensor(id).size_bytes()).data());
  sequence_->bind(inputs.data(), outputs.data());
}

void Interpreter::run(const void* const* inputs, void* const* outputs) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < inputs_.size(); ++i)
    std::memcpy(inputs_[i].data(), inputs[i], inputs_[i].size_bytes());
  sequence_->run(0, sequence_->size(), pool_.get());
  for (size_t i = 0; i < outputs_.size(); ++i)
    std::memcpy(outputs[i], outputs_[i].data(), outputs_[i].size_bytes());
}

}  // namespace piqi
