// franz-go: each goroutine calls ProduceSync. Writes a line of JSON.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(1)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	check(err)
	return n
}

// send sends the records from that many goroutines. It returns each latency and the errors.
func send(client *kgo.Client, topic string, tasks, records int, value []byte) ([]time.Duration, int) {
	var lock sync.Mutex
	var wait sync.WaitGroup
	var all []time.Duration
	errors := 0
	for t := range tasks {
		count := records / tasks
		if t < records%tasks {
			count++
		}
		wait.Add(1)
		go func() {
			defer wait.Done()
			latencies := make([]time.Duration, 0, count)
			failed := 0
			for range count {
				start := time.Now()
				record := &kgo.Record{Topic: topic, Value: value}
				if client.ProduceSync(context.Background(), record).FirstErr() != nil {
					failed++
				}
				latencies = append(latencies, time.Since(start))
			}
			lock.Lock()
			defer lock.Unlock()
			all = append(all, latencies...)
			errors += failed
		}()
	}
	wait.Wait()
	return all, errors
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func maxRssKb() int64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Maxrss
}

func main() {
	if len(os.Args) != 8 {
		fmt.Fprintln(os.Stderr, "usage: BOOTSTRAP TOPIC TASKS LINGER_MS RECORDS WARMUP SIZE")
		os.Exit(2)
	}
	topic, tasks, linger := os.Args[2], number(os.Args[3]), number(os.Args[4])
	records, warmup, size := number(os.Args[5]), number(os.Args[6]), number(os.Args[7])
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[1]),
		kgo.ProducerLinger(time.Duration(linger)*time.Millisecond),
	)
	check(err)
	defer client.Close()
	value := []byte(strings.Repeat("x", size))
	_, warmupErrors := send(client, topic, tasks, warmup, value)
	cpu, start := cpuSeconds(), time.Now()
	latencies, errors := send(client, topic, tasks, records, value)
	wall := time.Since(start).Seconds()
	cpuUs := (cpuSeconds() - cpu) * 1e6 / float64(records)
	slices.Sort(latencies)
	ms := func(quantile float64) float64 {
		return latencies[int(float64(len(latencies)-1)*quantile)].Seconds() * 1e3
	}
	fmt.Printf("{\"client\":\"franz-go\",\"version\":\"1.22.3\",\"tasks\":%d,\"linger_ms\":%d,"+
		"\"records\":%d,\"wall_s\":%.6f,\"rec_per_s\":%.1f,\"cpu_us_per_rec\":%.3f,"+
		"\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f,"+
		"\"max_rss_kb\":%d,\"errors\":%d}\n",
		tasks, linger, records, wall, float64(records)/wall, cpuUs,
		ms(0.5), ms(0.99), ms(0.999), ms(1), maxRssKb(), warmupErrors+errors)
}
