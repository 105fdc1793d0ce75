package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clientTimeout bounds the run of the client, so that it ends with an error instead of a hang.
const clientTimeout = 60 * time.Second

const (
	inputTopic       = "in"
	outputTopic      = "out"
	inputPartitions  = 4
	recordsPerCodec  = 20
	recordsForTwoMembers = 100
)

// runClient uses franz-go's producer, group consumer and transactions against the brokers of
// another process. It prints how many records each step got.
func runClient(servers []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	sent, err := produceWithCodecs(ctx, servers)
	if err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	fmt.Println("sent", sent)
	if err := consumeAndCommit(ctx, servers, sent); err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	first, second, err := shareGroup(ctx, servers)
	if err != nil {
		return fmt.Errorf("share: %w", err)
	}
	fmt.Println("shared", first, second)
	if err := copyInTransactions(ctx, servers, sent+recordsForTwoMembers); err != nil {
		return fmt.Errorf("transactions: %w", err)
	}
	return nil
}

// produce sends numbered values. franz-go's producer is idempotent.
func produce(ctx context.Context, client *kgo.Client, prefix string, count int) error {
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: inputTopic,
			Key:   fmt.Appendf(nil, "k%d", i),
			Value: fmt.Appendf(nil, "%s%d", prefix, i),
		}
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func produceWithCodecs(ctx context.Context, servers []string) (int, error) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		client, err := kgo.NewClient(kgo.SeedBrokers(servers...), kgo.ProducerBatchCompression(codec))
		if err != nil {
			return 0, err
		}
		err = produce(ctx, client, name, recordsPerCodec)
		client.Close()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return len(codecs) * recordsPerCodec, nil
}

// member is a consumer in the group "g", with the number of partitions that it has.
type member struct {
	client   *kgo.Client
	assigned chan int
	count    int
}

func joinGroup(servers []string) (*member, error) {
	m := &member{assigned: make(chan int, 100)}
	change := func(sign int) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			m.assigned <- sign * len(topics[inputTopic])
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(servers...),
		kgo.ConsumerGroup("g"),
		kgo.ConsumeTopics(inputTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(change(1)),
		kgo.OnPartitionsRevoked(change(-1)),
		kgo.HeartbeatInterval(100*time.Millisecond),
	)
	m.client = client
	return m, err
}

// poll returns how many records arrived within a short time.
func (m *member) poll(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	fetches := m.client.PollFetches(ctx)
	for _, e := range fetches.Errors() {
		if ctx.Err() == nil {
			return 0, e.Err
		}
	}
	for {
		select {
		case change := <-m.assigned:
			m.count += change
		default:
			return fetches.NumRecords(), nil
		}
	}
}

// consumeAndCommit reads all records in a group. The close commits and leaves the group.
func consumeAndCommit(ctx context.Context, servers []string, count int) error {
	m, err := joinGroup(servers)
	if err != nil {
		return err
	}
	defer m.client.Close()
	for read := 0; read < count; {
		n, err := m.poll(ctx)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d records: %w", read, count, ctx.Err())
		}
		read += n
	}
	return m.client.CommitUncommittedOffsets(ctx)
}

// shareGroup reads new records with two members, and returns how many each of them got. The records
// that consumeAndCommit has read must not come again.
func shareGroup(ctx context.Context, servers []string) (int, int, error) {
	members := make([]*member, 2)
	for i := range members {
		m, err := joinGroup(servers)
		if err != nil {
			return 0, 0, err
		}
		defer m.client.Close()
		members[i] = m
	}
	counts := make([]int, len(members))
	pollAll := func() error {
		for i, m := range members {
			n, err := m.poll(ctx)
			if err != nil {
				return err
			}
			counts[i] += n
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("partitions %d and %d, records %v: %w",
				members[0].count, members[1].count, counts, err)
		}
		return nil
	}
	half := inputPartitions / 2
	for members[0].count != half || members[1].count != half {
		if err := pollAll(); err != nil {
			return 0, 0, err
		}
	}
	if err := produce(ctx, members[0].client, "shared", recordsForTwoMembers); err != nil {
		return 0, 0, err
	}
	for counts[0]+counts[1] < recordsForTwoMembers {
		if err := pollAll(); err != nil {
			return 0, 0, err
		}
	}
	return counts[0], counts[1], nil
}

// copyInTransactions copies the input to the output, exactly once. It aborts the first transaction,
// so the records of this one are read again.
func copyInTransactions(ctx context.Context, servers []string, count int) error {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(servers...),
		kgo.TransactionalID("franz-go"),
		kgo.ConsumerGroup("copy"),
		kgo.ConsumeTopics(inputTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	end := kgo.TryAbort
	for copied := 0; copied < count; {
		fetches := session.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d records: %w", copied, count, ctx.Err())
		}
		if err := session.Begin(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			session.Produce(ctx, &kgo.Record{Topic: outputTopic, Value: r.Value}, nil)
		})
		// An abort drops what is not sent yet, so the first transaction waits for the brokers.
		if err := session.Client().Flush(ctx); err != nil {
			return err
		}
		committed, err := session.End(ctx, end)
		if err != nil {
			return err
		}
		if committed {
			copied += fetches.NumRecords()
		}
		end = kgo.TryCommit
	}
	return nil
}
