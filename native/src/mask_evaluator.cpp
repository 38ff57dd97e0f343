#include "piqi/mask_evaluator.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "conversion.hpp"

namespace piqi {
namespace {

void check_alike(const Graph& exact, const Graph& quantised) {
  const auto& a = exact.operators();
  const auto& b = quantised.operators();
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i)
    if (i >= a.size() || i >= b.size() || a[i].name != b[i].name || a[i].layer != b[i].layer)
      throw GraphError(exact.name() + ": operator " + std::to_string(i) + " is '" +
                       (i < a.size() ? a[i].name : "") + "', that of the quantised network '" +
                       (i < b.size() ? b[i].name : "") + "'");
}

}  // namespace

MaskEvaluator::MaskEvaluator(std::shared_ptr<const Graph> exact, std::shared_ptr<const Graph> quantised,
                             size_t threads)
    : graphs_{std::move(exact), std::move(quantised)}, pool_(threads) {
  for (const auto& graph : graphs_)
    if (!graph->finished()) throw GraphError(graph->name() + ": finish() was not called");
  check_alike(*graphs_[0], *graphs_[1]);
  prepare_crossings();
  prepare_layers();
}

void MaskEvaluator::prepare_crossings() {
  const Graph& graph = *graphs_[exact];
  crossing_of_.assign(graph.tensors().size(), npos);
  for (TensorId id = 0; id < graph.tensors().size(); ++id) {
    const Tensor& tensor = graph.tensor(id);
    if (tensor.is_constant()) continue;
    const size_t made_in =
        tensor.producer == npos ? npos : graph.operators()[tensor.producer].layer;  // npos: by the caller
    bool crosses = std::count(graph.outputs().begin(), graph.outputs().end(), id) > 0;
    for (OperatorId consumer : tensor.consumers)
      crosses = crosses || graph.operators()[consumer].layer != made_in;
    if (!crosses) continue;
    crossing_of_[id] = crossings_.size();
    Crossing& crossing = crossings_.emplace_back();
    crossing.ids[exact] = id;
    crossing.ids[quantised] = graphs_[quantised]->find_tensor(tensor.name);
    const Tensor& stored = graphs_[quantised]->tensor(crossing.ids[quantised]);
    if (stored.shape != tensor.shape)
      throw GraphError("'" + tensor.name + "' has shape " + to_string(tensor.shape) +
                       ", in the quantised network " + to_string(stored.shape));
    crossing.buffers[exact] = AlignedBuffer(tensor.size_bytes());
    crossing.buffers[quantised] = AlignedBuffer(stored.size_bytes());
    const Format formats[2] = {format_of(tensor), format_of(stored)};
    for (Form form : {exact, quantised})
      crossing.to[form] = make_conversion(tensor.name, tensor.shape, formats[1 - form], formats[form]);
  }
}

void MaskEvaluator::prepare_layers() {
  layers_.resize(graph().layer_count());
  for (size_t number = 0; number < layers_.size(); ++number) {
    Layer& layer = layers_[number];
    std::vector<OperatorId> operators;
    std::vector<bool> read(crossings_.size());
    for (OperatorId id = 0; id < graph().operators().size(); ++id) {
      const Operator& op = graph().operators()[id];
      if (op.layer != number) continue;
      operators.push_back(id);
      for (TensorId input : op.inputs) {
        const size_t crossing = crossing_of_[input];
        const OperatorId producer = graph().tensor(input).producer;
        if (crossing == npos || read[crossing]) continue;
        if (producer != npos && graph().operators()[producer].layer == number) continue;
        read[crossing] = true;
        layer.inputs.push_back(crossing);
      }
      for (TensorId output : op.outputs)
        if (crossing_of_[output] != npos) layer.outputs.push_back(crossing_of_[output]);
    }
    if (operators.empty())
      throw GraphError(graph().name() + ": layer " + std::to_string(number) + " has no operator");
    for (Form form : {exact, quantised}) {
      std::vector<TensorId> ends[2];
      std::vector<const void*> inputs;
      std::vector<void*> outputs;
      for (size_t i : layer.inputs) {
        ends[0].push_back(crossings_[i].ids[form]);
        inputs.push_back(crossings_[i].buffers[form].data());
      }
      for (size_t i : layer.outputs) {
        ends[1].push_back(crossings_[i].ids[form]);
        outputs.push_back(crossings_[i].buffers[form].data());
      }
      layer.sequences[form] =
          std::make_unique<OperatorSequence>(graphs_[form], operators, ends[0], ends[1], cache_);
      layer.sequences[form]->bind(inputs.data(), outputs.data());
    }
  }
}

const void* MaskEvaluator::need(Crossing& crossing, Form form) {
  if (!crossing.valid[form]) {
    Kernel& kernel = *crossing.to[form];
    if (!crossing.bound[form]) {
      const void* from = crossing.buffers[1 - form].data();
      void* to = crossing.buffers[form].data();
      kernel.setup(&from, &to, pool_.get());
      crossing.bound[form] = true;
    }
    kernel.run(pool_.get());
    crossing.valid[form] = true;
  }
  return crossing.buffers[form].data();
}

void MaskEvaluator::run_layer(size_t number, Form form) {
  Layer& layer = layers_[number];
  for (size_t input : layer.inputs) need(crossings_[input], form);
  OperatorSequence& sequence = *layer.sequences[form];
  sequence.run(0, sequence.size(), pool_.get());
  for (size_t output : layer.outputs) {
    crossings_[output].valid[form] = true;
    crossings_[output].valid[1 - form] = false;
  }
}

void MaskEvaluator::walk(size_t number, size_t begin, size_t end, const Leaf& leaf) {
  const size_t count = layers_.size();
  if (number == count) {
    std::vector<const void*> outputs;
    for (TensorId id : graph().outputs()) outputs.push_back(need(crossings_[crossing_of_[id]], exact));
    for (size_t i = begin; i < end; ++i) leaf(order_[i], outputs.data());
    return;
  }
  const auto bit = [&](size_t mask) { return masks_[mask * count + number] != 0; };
  const auto middle =
      std::partition_point(order_.begin() + static_cast<ptrdiff_t>(begin),
                           order_.begin() + static_cast<ptrdiff_t>(end), [&](size_t m) { return !bit(m); });
  const size_t split = static_cast<size_t>(middle - order_.begin());
  for (Form form : {exact, quantised}) {
    const size_t first = form == exact ? begin : split, last = form == exact ? split : end;
    if (first == last) continue;
    run_layer(number, form);
    walk(number + 1, first, last, leaf);
  }
}

void MaskEvaluator::run(const void* const* inputs, const uint8_t* masks, size_t count, const Leaf& leaf) {
  for (Crossing& crossing : crossings_) crossing.valid[exact] = crossing.valid[quantised] = false;
  for (size_t i = 0; i < graph().inputs().size(); ++i) {
    const TensorId id = graph().inputs()[i];
    if (crossing_of_[id] == npos) continue;  // nobody reads it
    Crossing& crossing = crossings_[crossing_of_[id]];
    std::memcpy(crossing.buffers[exact].data(), inputs[i], graph().tensor(id).size_bytes());
    crossing.valid[exact] = true;
  }
  masks_ = masks;
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), size_t{0});
  const size_t width = layers_.size();
  std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
    for (size_t i = 0; i < width; ++i) {
      const bool left = masks[a * width + i] != 0, right = masks[b * width + i] != 0;
      if (left != right) return right;
    }
    return false;
  });
  if (count > 0) walk(0, 0, count, leaf);
}

size_t MaskEvaluator::memory_bytes() const {
  size_t total = cache_.memory_bytes();
  for (const Crossing& crossing : crossings_)
    total += crossing.buffers[exact].size_bytes() + crossing.buffers[quantised].size_bytes();
  return total;
}

}  // namespace piqi
