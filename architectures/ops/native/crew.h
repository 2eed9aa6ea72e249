// Threads that share blocks of work: PyTorch's own, where they are those of GNU OpenMP.
//
// They wait for the next loop on the processor for some milliseconds, where new ones would have to share it with them.
// Who is free takes the next block, so that a thread that is held up holds up nobody. What a block computes does
// not depend on who does it.
#pragma once

#include "teams.h"

// `GOMP_parallel` of the OpenMP that PyTorch brings: begin(run, data, threads, 0) runs `run(data)` on so many threads.
typedef void (*Begin)(void (*run)(void*), void* data, unsigned threads, unsigned flags);

struct Crew {
    void* begin;  // null: threads that live as long as the call
    Int threads;
};

// work(block) for each of `count` blocks.
template <typename Work> void share(Crew crew, Int count, Work work) {
    struct Shared {
        std::atomic<Int> next;
        Int count;
        Work& work;
        void take() {
            for (Int block; (block = next.fetch_add(1)) < count;) work(block);
        }
        static void run(void* shared) { static_cast<Shared*>(shared)->take(); }
    } shared{{0}, count, work};
    const Int threads = std::min(crew.threads, count);
    if (threads > 1 && crew.begin) {
        reinterpret_cast<Begin>(crew.begin)(Shared::run, &shared, unsigned(threads), 0);
        return;
    }
    if (threads > 1 && in_teams(Shares(threads, threads, 1), threads, [&](const Member&, Int) { shared.take(); })) return;
    shared.take();
}
