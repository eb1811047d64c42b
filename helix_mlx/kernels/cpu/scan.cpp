#include "scan.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "operands.h"
#include "primitive.h"
#include "scan_job.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace helix {
namespace {

// Inputs: state, k, v, g, beta where there is one, then q or the steps that are kept. Outputs: y and the state, or the
// state alone.
class Scan : public mx::Primitive {
 public:
  Scan(mx::Stream stream, bool has_beta, bool has_outputs)
      : mx::Primitive(stream), has_beta_(has_beta), has_outputs_(has_outputs) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const mx::array& input : inputs) encoder.set_input_array(input);
    const mx::array &state = inputs[0], &k = inputs[1], &v = inputs[2], &g = inputs[3];
    const float* before = state.data<float>();
    if (has_outputs_) allocate_dense(outputs[0]);
    // A row is read before it is written, so the state may take the place of the one before.
    if (state.is_donatable())
      outputs.back().copy_shared_buffer(state);
    else
      allocate_dense(outputs.back());
    for (mx::array& output : outputs) encoder.set_output_array(output);
    ScanJob job{};
    job.state = before;
    job.k = k.data<float>();
    job.v = v.data<float>();
    job.g = g.data<float>();
    job.beta = has_beta_ ? inputs[4].data<float>() : nullptr;
    if (has_outputs_) {
      job.q = inputs.back().data<float>();
      job.y = outputs[0].data<float>();
    } else {
      job.kept = inputs.back().data<int32_t>();
    }
    job.out = outputs.back().data<float>();
    job.batch = state.shape(0), job.heads = state.shape(1), job.rows = state.shape(2), job.keys = state.shape(3);
    job.steps = k.shape(1), job.key_heads = k.shape(2);
    job.gate_a_key = g.ndim() == 4;
    encoder.dispatch([job] { scan(job); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("Helix's CPU kernels run on the CPU only");
  }

  const char* name() const override { return "HelixScan"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Scan&>(other);
    return has_beta_ == same.has_beta_ && has_outputs_ == same.has_outputs_;
  }

 private:
  bool has_beta_, has_outputs_;
};

// The dense float32 operands that both operations share, checked.
std::vector<mx::array> operands(const mx::array& k, const mx::array& v, const mx::array& g,
                                const std::optional<mx::array>& beta, const mx::array& state, mx::Stream stream) {
  check(state.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4, "state, k and v have to have four axes");
  const auto batch = state.shape(0), heads = state.shape(1), rows = state.shape(2), keys = state.shape(3);
  const auto steps = k.shape(1), key_heads = k.shape(2);
  check(steps > 0 && state.size() > 0 && keys <= kMostKeys, "there has to be a step, and at most 4096 keys");
  check(k.shape(0) == batch && k.shape(3) == keys && heads % key_heads == 0, "k does not fit the state");
  check(v.shape() == mx::Shape{batch, steps, heads, rows}, "v does not fit the state");
  const mx::Shape gates{batch, steps, heads}, wide{batch, steps, heads, keys};
  check(g.shape() == gates || g.shape() == wide, "g does not fit the state");
  std::vector<mx::array> all{state, k, v, g};
  if (beta) {
    check(beta->shape() == gates, "beta does not fit the state");
    all.push_back(*beta);
  }
  for (mx::array& each : all) {
    check(each.dtype() == mx::float32, "a scan is in float32");
    each = dense(each, stream);
  }
  return all;
}

std::pair<mx::array, mx::array> scanned(const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& g,
                                        const std::optional<mx::array>& beta, const mx::array& state) {
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  auto inputs = operands(k, v, g, beta, state, stream);
  check(q.shape() == k.shape() && q.dtype() == mx::float32, "q has to be as k is");
  inputs.push_back(dense(q, stream));
  auto made = mx::array::make_arrays(
      {v.shape(), state.shape()}, {mx::float32, mx::float32},
      std::make_shared<Scan>(stream, beta.has_value(), true), inputs);
  return {made[0], made[1]};
}

mx::array advanced(const mx::array& k, const mx::array& v, const mx::array& g, const std::optional<mx::array>& beta,
                   const mx::array& state, const mx::array& kept) {
  const mx::Stream stream = mx::to_stream({}, mx::Device::cpu);
  auto inputs = operands(k, v, g, beta, state, stream);
  check(kept.shape() == mx::Shape{state.shape(0)}, "there has to be a number of steps a sequence");
  inputs.push_back(dense(mx::astype(kept, mx::int32, stream), stream));
  return mx::array::make_arrays(
      {state.shape()}, {mx::float32}, std::make_shared<Scan>(stream, beta.has_value(), false), inputs)[0];
}

}  // namespace

void bind_scan(nb::module_& module) {
  module.def("scan", &scanned, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a.none(), "state"_a);
  module.def("scan_state", &advanced, "k"_a, "v"_a, "g"_a, "beta"_a.none(), "state"_a, "kept"_a);
}

}  // namespace helix
