// Threads that share the chunks of one job. They sleep when idle, and a forked child makes its own.
#pragma once

#include <algorithm>
#include <cstdint>

namespace helix {

using ChunkFunction = void (*)(void* context, int chunk);

// Calls function(context, c) once for each c in [0, chunks), spread over the threads, and returns when all are done.
// The function must not throw. A caller that finds the threads busy, or is one of them, runs its chunks by itself.
void run_chunks(int chunks, ChunkFunction function, void* context);

// How many threads share a job, the caller's among them.
int threads();

// Sets that number; 0 means the cores that this process may use.
void set_threads(int count);

// Calls f(c) once for each c in [0, chunks).
template <typename F>
void parallel_for(int chunks, F f) {
  run_chunks(chunks, [](void* context, int chunk) { (*static_cast<F*>(context))(chunk); }, &f);
}

// Calls f(first, last) for runs of [0, count), each worth a thread of its own: a few microseconds, for items of so many
// elements.
template <typename F>
void parallel_runs(int64_t count, int64_t elements, F f) {
  constexpr int64_t kRunElements = 32 * 1024;
  const int64_t each = std::max<int64_t>(kRunElements / elements, 1), runs = (count + each - 1) / each;
  if (runs == 1) return f(int64_t{0}, count);
  parallel_for(static_cast<int>(runs), [&](int run) { f(run * each, std::min((run + 1) * each, count)); });
}

}  // namespace helix
