// Threads that share the chunks of one job. They sleep when idle, and a forked child makes its own.
#pragma once

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

}  // namespace helix
