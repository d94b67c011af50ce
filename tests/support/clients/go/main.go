// Prints every committed record of a topic with franz-go; see tests/support/clients/__init__.py.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	topic := os.Args[2]
	partitions, err := strconv.Atoi(os.Args[3])
	check(err)
	starts := map[int32]kgo.Offset{}
	for n := range partitions {
		starts[int32(n)] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[1]),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	check(err)
	defer client.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	ended := map[int32]bool{}
	for len(ended) < partitions {
		fetches := client.PollFetches(context.Background())
		check(fetches.Err())
		fetches.EachRecord(func(record *kgo.Record) {
			digest := "-"
			if record.Value != nil {
				digest = fmt.Sprintf("%x", sha256.Sum256(record.Value))
			}
			fmt.Fprintf(out, "%d %d %s %s", record.Partition, record.Offset, record.Key, digest)
			for _, header := range record.Headers {
				fmt.Fprintf(out, " %s=%s", header.Key, header.Value)
			}
			fmt.Fprintln(out)
			if string(record.Key) == "end" {
				ended[record.Partition] = true
			}
		})
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
