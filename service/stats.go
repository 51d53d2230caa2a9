package service

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"

	"kvbus/bus"
)

// stats counts what an endpoint did.
type stats struct {
	requests   atomic.Int64 // answered, or carried out where nobody asked for an answer
	errors     atomic.Int64 // answered with an error
	overloaded atomic.Int64 // of these, refused because the queue was full
	processing atomic.Int64 // nanoseconds from the queue to the answer

	mu        sync.Mutex
	lastError string
}

// answered counts a request that was answered with err, nil for none.
func (s *stats) answered(processing time.Duration, err error) {
	s.requests.Add(1)
	s.processing.Add(int64(processing))
	if err != nil {
		s.failed(err)
	}
}

// failed counts the error of a request that was counted already.
func (s *stats) failed(err error) {
	failure := bus.FailureOf(err)
	s.errors.Add(1)
	s.mu.Lock()
	s.lastError = failure.Code + ":" + failure.Description
	s.mu.Unlock()
}

func (s *stats) snapshot() micro.EndpointStats {
	s.mu.Lock()
	lastError := s.lastError
	s.mu.Unlock()
	requests, processing := s.requests.Load(), time.Duration(s.processing.Load())
	data, _ := json.Marshal(map[string]int64{"num_overloaded": s.overloaded.Load()}) // numbers always marshal
	snapshot := micro.EndpointStats{
		NumRequests:    int(requests),
		NumErrors:      int(s.errors.Load()),
		LastError:      lastError,
		ProcessingTime: processing,
		Data:           data,
	}
	if requests > 0 {
		snapshot.AverageProcessingTime = processing / time.Duration(requests)
	}
	return snapshot
}
