// Exports of attnbench/emulation.h, in every emulated kernel library.
#pragma once

#include <attnbench/emulation/scheduler.h>

#define ATTNBENCH_EMULATION_EXPORT extern "C" __attribute__((visibility("default"), used)) inline

ATTNBENCH_EMULATION_EXPORT int32_t attnbench_emulation_configure(const AttnbenchEmulationConfig* config) {
  if (config == nullptr || config->struct_size != sizeof(AttnbenchEmulationConfig)) return 1;
  if (config->delivery < 0 || config->delivery > ATTNBENCH_DELIVERY_RANDOM || config->multiprocessors < 1 ||
      config->resident_ctas < 1 || config->accumulator < 0 || config->accumulator > 1 || config->checks < 0 ||
      config->checks > ATTNBENCH_CHECKS_FAST) {
    return 1;
  }
  attnbench::emulation::launch.config = *config;
  return 0;
}

ATTNBENCH_EMULATION_EXPORT int32_t attnbench_emulation_site(int32_t index, AttnbenchEmulationSite* out) {
  using namespace attnbench::emulation;
  if (index < 0 || static_cast<size_t>(index) >= launch.sites.size()) return 0;
  const Sites::Site& site = launch.sites[static_cast<SiteId>(index)];
  *out = {name_of(site.primitive), site.where.file, site.where.line, site.calls};
  return 1;
}

ATTNBENCH_EMULATION_EXPORT size_t attnbench_emulation_report(char* text, size_t bytes) {
  const std::string all = attnbench::emulation::launch.report.text();
  if (bytes > 0) std::snprintf(text, bytes, "%s", all.c_str());
  return all.size();
}

ATTNBENCH_EMULATION_EXPORT void attnbench_emulation_statistics(AttnbenchEmulationStatistics* out) {
  *out = attnbench::emulation::launch.statistics;
}

ATTNBENCH_EMULATION_EXPORT void attnbench_emulation_counts(AttnbenchEmulationCounts* out) {
  *out = attnbench::emulation::launch.counted.counts;
}

ATTNBENCH_EMULATION_EXPORT int32_t attnbench_emulation_tensor(int32_t index, AttnbenchEmulationTensor* out) {
  const auto& tensors = attnbench::emulation::launch.counted.tensors;
  if (index < 0 || static_cast<size_t>(index) >= tensors.size()) return 0;
  *out = tensors[static_cast<size_t>(index)];
  return 1;
}
