// Threads that share the rows of a batch: a team for each row at a time, whose members share its heads.
//
// They live as long as a call: nothing waits in the background, and nothing is lost when the process forks. What a
// member computes does not depend on how many there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "vectors.h"

class Team {
  public:
    Int size = 1;

    // Goes on when every member has come here.
    void meet() {
        if (size == 1) return;
        const Int round = rounds.load();
        if (arrived.fetch_add(1) + 1 == size) {
            arrived.store(0);
            rounds.store(round + 1);
            return;
        }
        for (Int looked = 0; rounds.load() == round; ++looked)
            if (looked > 1000) std::this_thread::yield();
    }

  private:
    std::atomic<Int> arrived{0}, rounds{0};
};

struct Member {
    Team* team;
    Int number, rank;  // among all threads, in its team

    // Its share of `count` things, one after another.
    template <typename Work> void share(Int count, Work work) const {
        for (Int n = rank; n < count; n += team->size) work(n);
    }
};

struct Shares {
    Int teams, size;
    Shares(Int threads, Int rows, Int heads) {
        teams = std::max<Int>(1, std::min(threads, rows));
        size = std::max<Int>(1, std::min(threads / teams, heads));
    }
    Int threads() const { return teams * size; }
};

// work(member, row) for every row; false where the system gives no threads, and then nothing was done.
template <typename Work> bool in_teams(Shares shares, Int rows, Work work) {
    std::vector<Team> teams(shares.teams);
    for (Team& team : teams) team.size = shares.size;
    std::atomic<int> begun{0};  // 1: go, -1: go home
    auto run = [&](Int number) {
        while (begun.load() == 0) std::this_thread::yield();
        if (begun.load() < 0) return;
        const Member member = {&teams[number / shares.size], number, number % shares.size};
        for (Int row = number / shares.size; row < rows; row += shares.teams) work(member, row);
    };
    std::vector<std::thread> others;
    others.reserve(shares.threads());
    bool all = true;
    try {
        for (Int number = 1; number < shares.threads(); ++number) others.emplace_back(run, number);
    } catch (const std::system_error&) {
        all = false;
    }
    begun.store(all ? 1 : -1);
    run(0);
    for (std::thread& other : others) other.join();
    return all;
}
