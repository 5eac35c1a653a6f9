// Lets this thread allocate and free device memory while another thread captures a graph.
#pragma once
#include <cuda_runtime_api.h>

namespace patch {

// While another thread captures a graph in the global mode, this thread may not make such calls, and its
// attempt would end the capture, unless its own mode is relaxed.
class RelaxedCapture {
 public:
  RelaxedCapture() noexcept { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;
  RelaxedCapture(RelaxedCapture&&) = delete;
  RelaxedCapture& operator=(RelaxedCapture&&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace patch
