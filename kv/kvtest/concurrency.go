package kvtest

import (
	"errors"
	"fmt"
	"sync"

	"kvbus/kv"
)

func concurrencyChecks() []check {
	return []check{
		{"increments add up", checkConcurrentIncrements},
		{"one of many swaps holds", checkConcurrentSwaps},
		{"one of many creates", checkConcurrentCreates},
		{"each goroutine's commands keep their order", checkGoroutineOrder},
		{"a read sees what was answered", checkReadYourWrites},
		{"revisions are given out once", checkRevisionsUnique},
		{"quota", checkConcurrentQuota},
		{"linearizable", checkLinearizable},
	}
}

// together runs f in n goroutines and waits for them.
func (s *subject) together(n int, f func(i int) error) {
	s.e.Helper()
	var group sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		group.Go(func() { errs[i] = f(i) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		s.e.Fatal(err)
	}
}

func checkConcurrentIncrements(e *env) {
	s := e.open()
	const workers, each = 8, 50
	s.together(workers, func(int) error {
		for range each {
			if _, err := s.Increment(s.ctx, "hot", 3); err != nil {
				return err
			}
		}
		return nil
	})
	s.holds("hot", fmt.Sprint(workers*each*3))
	e.equal("revision", s.revision(), uint64(workers*each))
}

// checkConcurrentSwaps increments by compare-and-swap: each number is swapped
// in once.
func checkConcurrentSwaps(e *env) {
	s := e.open()
	const workers, each = 6, 20
	s.set("hot", "0")
	s.together(workers, func(int) error {
		for done := 0; done < each; {
			entry, err := s.Get(s.ctx, "hot")
			if err != nil {
				return err
			}
			expect := kv.IfValue(entry.Value)
			if done%2 == 1 {
				expect = kv.IfRevision(entry.Revision)
			}
			var number int
			if _, err := fmt.Sscan(entry.Value, &number); err != nil {
				return err
			}
			swapped, _, err := s.CompareAndSwap(s.ctx, "hot", expect, fmt.Sprint(number+1))
			if err != nil {
				return err
			}
			if swapped {
				done++
			}
		}
		return nil
	})
	s.holds("hot", fmt.Sprint(workers*each))
}

func checkConcurrentCreates(e *env) {
	s := e.open()
	const workers, rounds = 8, 20
	var mu sync.Mutex
	winners := map[string]int{}
	s.together(workers, func(worker int) error {
		for round := range rounds {
			key := fmt.Sprint("key", round)
			swapped, _, err := s.CompareAndSwap(s.ctx, key, kv.IfAbsent(), fmt.Sprint(worker))
			if err != nil {
				return err
			}
			if swapped {
				mu.Lock()
				winners[key]++
				mu.Unlock()
			}
		}
		return nil
	})
	for round := range rounds {
		e.equal("goroutines that created a key", winners[fmt.Sprint("key", round)], 1)
	}
}

func checkGoroutineOrder(e *env) {
	s := e.open()
	const workers, each = 6, 40
	s.together(workers, func(worker int) error {
		for i := range each {
			if _, err := s.Set(s.ctx, fmt.Sprintf("worker%d.%d", worker, i%3), fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	next := make([]int, workers)
	for _, event := range s.replay(kv.ReplayQuery{}).Events {
		var worker, key int
		if _, err := fmt.Sscanf(event.Key, "worker%d.%d", &worker, &key); err != nil {
			e.Fatal(err)
		}
		if event.Value != fmt.Sprint(next[worker]) {
			e.Fatalf("goroutine %d: the set of %s took effect where that of %d was due", worker, event.Value, next[worker])
		}
		next[worker]++
	}
	for worker, n := range next {
		e.equal(fmt.Sprint("events of goroutine ", worker), n, each)
	}
}

// checkReadYourWrites reads in each way what was just written.
func checkReadYourWrites(e *env) {
	s := e.open()
	s.together(4, func(worker int) error {
		key := fmt.Sprint("key", worker)
		for i := range 30 {
			revision, err := s.Set(s.ctx, key, fmt.Sprint(i))
			if err != nil {
				return err
			}
			entry, err := s.Get(s.ctx, key)
			if err != nil || entry.Revision != revision || entry.Value != fmt.Sprint(i) {
				return fmt.Errorf("get after the set of %d: %+v, %w", i, entry, err)
			}
			page, err := s.Store().Scan(s.ctx, kv.Query{Prefix: key})
			if err != nil || page.Revision < revision || len(page.Entries) != 1 || page.Entries[0] != entry {
				return fmt.Errorf("scan after the set of %d: %+v, %w", i, page, err)
			}
			info, err := s.Store().Info(s.ctx)
			if err != nil || info.Revision < revision {
				return fmt.Errorf("info after the set of %d: %+v, %w", i, info, err)
			}
			replay, err := s.Store().Replay(s.ctx, kv.ReplayQuery{After: revision - 1, Prefix: key})
			if err != nil || len(replay.Events) != 1 || replay.Events[0].Value != fmt.Sprint(i) {
				return fmt.Errorf("replay after the set of %d: %+v, %w", i, replay, err)
			}
		}
		return nil
	})
}

func checkRevisionsUnique(e *env) {
	s := e.open()
	const workers, each = 6, 40
	var mu sync.Mutex
	given := map[uint64]string{}
	s.together(workers, func(worker int) error {
		for i := range each {
			value := fmt.Sprint(worker, " ", i)
			revision, err := s.Set(s.ctx, fmt.Sprint("key", i%5), value)
			if err != nil {
				return err
			}
			mu.Lock()
			if other, ok := given[revision]; ok {
				mu.Unlock()
				return fmt.Errorf("revision %d is of %q and of %q", revision, other, value)
			}
			given[revision] = value
			mu.Unlock()
		}
		return nil
	})
	events := s.replay(kv.ReplayQuery{}).Events
	e.equal("events", len(events), workers*each)
	for _, event := range events {
		e.equal(fmt.Sprint("value of revision ", event.Revision), event.Value, given[event.Revision])
	}
}

func checkConcurrentQuota(e *env) {
	s := e.openWith(Options{Limits: kv.Limits{MaxKeys: 10}})
	s.together(6, func(worker int) error {
		for i := range 20 {
			_, err := s.Set(s.ctx, fmt.Sprintf("key%d.%d", worker, i), "")
			if err != nil && !errors.Is(err, kv.ErrQuotaExceeded) {
				return err
			}
		}
		return nil
	})
	e.equal("keys held", s.info().Keys, int64(10))
	e.equal("entries", len(s.scan(kv.Query{}).Entries), 10)
}
