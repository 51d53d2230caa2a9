package recipe_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"kvbus/bus/recipe"
	"kvbus/kv"
)

// BenchmarkMirrorGet reads a mirror of 10,000 keys, still or written to as fast as
// its source can, by one reader and by all processors.
func BenchmarkMirrorGet(b *testing.B) {
	for _, written := range []bool{false, true} {
		for _, life := range []time.Duration{0, time.Hour} {
			s := newSource(b)
			keys := make([]string, 10_000)
			var opts []kv.WriteOption
			if life > 0 {
				opts = append(opts, kv.WithTTL(life))
			}
			for i := range keys {
				keys[i] = "service.config." + strconv.Itoa(i)
				set(b, s, keys[i], "value", opts...)
			}
			m := newMirror(b, s, recipe.MirrorOptions{})
			<-m.Ready()
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; written && ctx.Err() == nil; i++ {
					if _, err := kv.Of(s).Set(ctx, keys[i%len(keys)], "value", opts...); err != nil && ctx.Err() == nil {
						b.Error(err)
					}
					time.Sleep(10 * time.Microsecond)
				}
			}()
			name := fmt.Sprintf("written=%v/deadlines=%v", written, life > 0)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if _, err := m.Get(keys[i%len(keys)]); err != nil {
						b.Fatal(err)
					}
					i += 7
				}
			})
			b.Run(name+"/parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i += 7 {
						if _, err := m.Get(keys[i%len(keys)]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
			cancel()
			<-done
		}
	}
}
