// Command kfake serves a cluster of three brokers of franz-go's kfake, an implementation of Kafka
// that shares no code with Ottla.
//
// It prints the bootstrap servers. Then it reads a command from each line of its input, and responds
// with lines of which the last one is "ok" or begins with "error". It ends with its input.
//
//	create TOPIC PARTITIONS       creates a topic
//	leader TOPIC PARTITION        prints the node that leads a partition
//	move TOPIC PARTITION NODE     makes a node the leader of a partition
//	shuffle                       elects a random leader for each partition
//	remove NODE                   removes a node
//	fail API CODE COUNT           fails the next requests of an API with an error code
//	disconnect API COUNT          closes the connection instead of responding, COUNT times
//	count                         prints how many requests got an error or no response so far
//	read TOPIC COUNT              prints partition, offset and value of the records of a topic
//	committed TOPIC COUNT         the same without those of open and aborted transactions
//
// With an argument, the addresses of brokers, it serves nothing. Then it is a client of these brokers:
// see runClient.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readTimeout ends a read that gets fewer records than it expects.
const readTimeout = 20 * time.Second

// quietTime is how long a read waits for records beyond those that it expects.
const quietTime = 300 * time.Millisecond

// server is the cluster, and the faults that were added to it.
type server struct {
	cluster      *kfake.Cluster
	faults       []*kfake.FaultHandle
	disconnected atomic.Int64
}

func main() {
	if len(os.Args) > 1 {
		if err := runClient(strings.Split(os.Args[1], ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer cluster.Close()
	fmt.Println(strings.Join(cluster.ListenAddrs(), ","))
	s := &server{cluster: cluster}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		if err := s.run(strings.Fields(input.Text())); err != nil {
			fmt.Println("error", err)
			continue
		}
		fmt.Println("ok")
	}
}

// run executes a command and prints its results.
func (s *server) run(words []string) error {
	if len(words) == 0 {
		return errors.New("no command")
	}
	name, args := words[0], words[1:]
	counts := map[string]int{
		"create": 2, "leader": 2, "move": 3, "shuffle": 0, "remove": 1, "fail": 3, "disconnect": 2,
		"count": 0, "read": 2, "committed": 2,
	}
	if count, known := counts[name]; !known || len(args) != count {
		return fmt.Errorf("unknown command or wrong number of arguments: %v", words)
	}
	// Every argument but the topic is a number.
	var topic string
	switch name {
	case "create", "leader", "move", "read", "committed":
		topic, args = args[0], args[1:]
	}
	numbers := make([]int32, len(args))
	for i, arg := range args {
		n, err := strconv.ParseInt(arg, 10, 32)
		if err != nil {
			return err
		}
		numbers[i] = int32(n)
	}
	switch name {
	case "create":
		return s.cluster.CreateTopic(topic, numbers[0], nil)
	case "leader":
		fmt.Println(s.cluster.LeaderFor(topic, numbers[0]))
	case "move":
		return s.cluster.MoveTopicPartition(topic, numbers[0], numbers[1])
	case "shuffle":
		s.cluster.ShufflePartitionLeaders()
	case "remove":
		return s.cluster.RemoveNode(numbers[0])
	case "fail":
		return s.fail(int16(numbers[0]), int16(numbers[1]), int(numbers[2]))
	case "disconnect":
		s.disconnect(int16(numbers[0]), numbers[1])
	case "count":
		fmt.Println(s.count())
	case "read":
		return s.read(topic, int(numbers[0]), kgo.ReadUncommitted())
	case "committed":
		return s.read(topic, int(numbers[0]), kgo.ReadCommitted())
	}
	return nil
}

func (s *server) fail(api, code int16, count int) error {
	kafkaError, isKnown := kerr.ErrorForCode(code).(*kerr.Error)
	if !isKnown || kafkaError.Code != code {
		return fmt.Errorf("unknown error code %d", code)
	}
	keys := []kmsg.Key{kmsg.Key(api)}
	s.faults = append(s.faults, s.cluster.Fault(kfake.Fault{Keys: keys, Err: kafkaError, Count: count}))
	return nil
}

func (s *server) disconnect(api int16, count int32) {
	for range count {
		s.cluster.ControlKey(api, func(kmsg.Request) (kmsg.Response, error, bool) {
			s.disconnected.Add(1)
			return nil, errors.New("the test closes the connection"), true
		})
	}
}

func (s *server) count() int64 {
	count := s.disconnected.Load()
	for _, fault := range s.faults {
		count += int64(fault.Hits())
	}
	return count
}

// read prints the records of a topic as franz-go's consumer returns them.
func (s *server) read(topic string, count int, level kgo.IsolationLevel) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.cluster.ListenAddrs()...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(level),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	deadline := time.Now().Add(readTimeout)
	for read := 0; ; {
		timeout := time.Until(deadline)
		if read >= count {
			timeout = quietTime
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		fetches := client.PollFetches(ctx)
		isOver := ctx.Err() != nil
		cancel()
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return e.Err
			}
		}
		fetches.EachRecord(func(r *kgo.Record) {
			read++
			fmt.Println(r.Partition, r.Offset, string(r.Value))
		})
		if isOver {
			return nil
		}
	}
}
