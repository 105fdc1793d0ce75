// franz-go: Produce with one promise for all records, which come from a pool. Writes a line of
// JSON.
//
// MaxBufferedBytes blocks Produce as buffer.memory does in other clients; the default limit of
// 10,000 records is lifted. With idempotence at most 5 requests are in flight.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	bootstrap    = flag.String("bootstrap", "", "host:port")
	topic        = flag.String("topic", "bench", "topic")
	records      = flag.Int64("records", 0, "records to measure")
	warmup       = flag.Int64("warmup", 0, "records before the measurement")
	valuesFile   = flag.String("values", "", "file of values without separators")
	size         = flag.Int64("size", 0, "bytes of a value")
	keyed        = flag.String("keyed", "false", "whether each record has its own key")
	threads      = flag.Int64("threads", 1, "goroutines that send")
	producers    = flag.Int64("producers", 1, "producers, among which the records alternate")
	rate         = flag.Int64("rate", 0, "records a second; 0 for no limit")
	idleMs       = flag.Int64("idle-ms", 0, "milliseconds between warm-up and measurement")
	compression  = flag.String("compression", "none", "none, gzip, snappy, lz4 or zstd")
	batchSize    = flag.Int("batch-size", 16384, "largest batch in bytes")
	bufferMemory = flag.Int("buffer-memory", 32<<20, "bytes that each producer buffers")
	tlsCA        = flag.String("tls-ca", "", "use TLS, and trust this certificate authority")
)

var (
	clients []*kgo.Client
	values  []byte
	errors  atomic.Int64
	pool    = sync.Pool{New: func() any { return new(kgo.Record) }}
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(1)
	}
}

func promise(record *kgo.Record, err error) {
	if err != nil && errors.Add(1) == 1 {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
	}
	// The next record reuses the bytes of the key.
	*record = kgo.Record{Key: record.Key[:0]}
	pool.Put(record)
}

func newClient() *kgo.Client {
	codec, known := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(),
		"zstd": kgo.ZstdCompression(),
	}[*compression]
	if !known {
		check(fmt.Errorf("--compression %s is unknown", *compression))
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(*bootstrap),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(int32(*batchSize)),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.MaxBufferedBytes(*bufferMemory),
		kgo.MaxBufferedRecords(1 << 30),
		kgo.ProducerBatchCompression(codec),
	}
	if *tlsCA != "" {
		pem, err := os.ReadFile(*tlsCA)
		check(err)
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			check(fmt.Errorf("%s has no certificate", *tlsCA))
		}
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: roots}))
	}
	client, err := kgo.NewClient(options...)
	check(err)
	return client
}

func sendFromThread(first, count, rate int64, start time.Time) {
	ctx, valueCount := context.Background(), int64(len(values)) / *size
	withKey := *keyed == "true"
	for i := first; i < count; i += *threads {
		if rate > 0 {
			// All records of a millisecond are due at its start.
			time.Sleep(time.Until(start.Add(time.Duration(i*1000/rate) * time.Millisecond)))
		}
		record := pool.Get().(*kgo.Record)
		at := i % valueCount * *size
		record.Topic, record.Value = *topic, values[at:at+*size]
		if withKey {
			record.Key = binary.BigEndian.AppendUint64(record.Key, uint64(i)*0x9E3779B97F4A7C15)
		} else {
			record.Key = nil
		}
		clients[i%int64(len(clients))].Produce(ctx, record, promise)
	}
}

// send sends the records from all threads, and waits until they are acknowledged.
func send(count, rate int64) {
	start := time.Now()
	var wait sync.WaitGroup
	for t := int64(0); t < *threads; t++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			sendFromThread(t, count, rate, start)
		}()
	}
	wait.Wait()
	for _, client := range clients {
		check(client.Flush(context.Background()))
	}
}

func statusNumber(name string) int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, name) {
			number, _ := strconv.ParseInt(strings.Fields(line)[1], 10, 64)
			return number
		}
	}
	return 0
}

// usage returns the CPU time of the process in seconds, and its voluntary context switches.
func usage() (float64, int64) {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(usage.Utime) + seconds(usage.Stime), usage.Nvcsw
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/twmb/franz-go" {
			return strings.TrimPrefix(module.Version, "v")
		}
	}
	return ""
}

func main() {
	flag.Parse()
	var err error
	values, err = os.ReadFile(*valuesFile)
	check(err)
	for range *producers {
		clients = append(clients, newClient())
	}
	send(*warmup, 0)
	idle := ""
	if *idleMs > 0 {
		cpu, switches := usage()
		time.Sleep(time.Duration(*idleMs) * time.Millisecond)
		cpuEnd, switchesEnd := usage()
		idle = fmt.Sprintf(",\"idle_switches_per_s\":%.1f,\"idle_cpu_ms_per_s\":%.2f",
			float64(switchesEnd-switches)*1e3/float64(*idleMs), (cpuEnd-cpu)*1e6/float64(*idleMs))
	}
	cpu, switches := usage()
	start := time.Now()
	send(*records, *rate)
	wall := time.Since(start).Seconds()
	cpuEnd, switchesEnd := usage()
	count := float64(*records)
	fmt.Printf("{\"client\":\"franz-go\",\"version\":%q,\"records\":%d,\"size\":%d,\"keyed\":%s,"+
		"\"threads\":%d,\"producers\":%d,\"compression\":%q,\"tls\":%t,\"rate\":%d,"+
		"\"wall_s\":%.6f,\"rec_per_s\":%.1f,\"cpu_us_per_rec\":%.4f,\"switches_per_s\":%.1f%s,"+
		"\"process_threads\":%d,\"max_rss_kb\":%d,\"errors\":%d}\n",
		version(), *records, *size, *keyed, *threads, *producers, *compression, *tlsCA != "",
		*rate, wall, count/wall, (cpuEnd-cpu)*1e6/count, float64(switchesEnd-switches)/wall, idle,
		statusNumber("Threads:"), statusNumber("VmHWM:"), errors.Load())
	for _, client := range clients {
		client.Close()
	}
}
