// Follow chive.events into SQLite, each event exactly once.
//
//	go run . localhost:9092 chive.events index.sqlite
//
// The offsets lie in the database and are written by the transaction that takes the events in: after
// a crash at any point both are there, or neither.  Kafka's own offsets are not used, and nothing has
// to be done to stop: end the process in any way, and start it again.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	_ "modernc.org/sqlite"
)

const batch = 500 // events in a transaction, at most

// The topic forgets what was deleted 14 days ago or earlier (min.compaction.lag.ms and
// delete.retention.ms).  An index that was away for longer could keep deleted records for ever.
const longestAway = 7 * 24 * time.Hour

const schema = `
CREATE TABLE IF NOT EXISTS offsets (  -- the next to read, and when it was written (Unix time)
    partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (  -- event: the newest event of the record, as it came
    uri TEXT PRIMARY KEY, did TEXT NOT NULL, collection TEXT NOT NULL, rev TEXT NOT NULL,
    cid TEXT NOT NULL, event TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_did ON records (did);
CREATE TABLE IF NOT EXISTS accounts (  -- stale: records may be missing or out of date for now
    did TEXT PRIMARY KEY, active INTEGER NOT NULL DEFAULT TRUE,
    status TEXT NOT NULL DEFAULT 'active', stale INTEGER NOT NULL DEFAULT FALSE);
CREATE TABLE IF NOT EXISTS lanes (  -- of a partition: complete up to when, and which snapshot
    lane INTEGER PRIMARY KEY, as_of TEXT, snapshot TEXT);
CREATE VIEW IF NOT EXISTS shown AS  -- what people may see
    SELECT uri, did, collection, cid, event -> '$.record' AS record, coalesce(stale, FALSE) AS stale
    FROM records LEFT JOIN accounts USING (did) WHERE coalesce(active, TRUE);
`

// Offsets are the next to read, by partition.
type Offsets map[int32]int64

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: follow SERVERS TOPIC FILE")
	}
	log.Fatal(follow(context.Background(), os.Args[1], os.Args[2], os.Args[3]))
}

// follow takes topic on servers into the database at path, for ever.
func follow(ctx context.Context, servers, topic, path string) error {
	// A power cut may take the last transactions from a WAL, but then their offsets too.
	pragmas := "_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&"+pragmas)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(servers),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Another topic of that name: begin with another file.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	partitions, err := partitionsOf(ctx, client, topic)
	if err != nil {
		return err
	}
	offsets, err := stored(ctx, db, partitions)
	if err != nil {
		return err
	}
	// All partitions by name, without a group: none is taken away.  To share the work, give each
	// process some of them, and a database of its own: an account lies in one partition.
	starts := map[int32]kgo.Offset{}
	for _, number := range partitions {
		starts[number] = kgo.NewOffset().At(offsets[number])
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts})
	for {
		fetches := client.PollRecords(ctx, batch)
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := take(ctx, db, fetches.Records(), offsets); err != nil {
			return err
		}
	}
}

// partitionsOf returns the numbers of the partitions of topic.
func partitionsOf(ctx context.Context, client *kgo.Client, topic string) ([]int32, error) {
	request := kmsg.NewPtrMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = kmsg.StringPtr(topic)
	request.Topics = append(request.Topics, asked)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	var numbers []int32
	for _, partition := range response.Topics[0].Partitions {
		numbers = append(numbers, partition.Partition)
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("there is no topic %s", topic)
	}
	return numbers, nil
}

// stored returns the next offset of each partition: 0 in a new database.
func stored(ctx context.Context, db *sql.DB, partitions []int32) (Offsets, error) {
	offsets, now := Offsets{}, time.Now()
	err := transaction(ctx, db, func(tx *sql.Tx) error {
		var newest sql.NullInt64
		if err := tx.QueryRowContext(ctx, "SELECT max(at) FROM offsets").Scan(&newest); err != nil {
			return err
		}
		if newest.Valid && now.Sub(time.Unix(newest.Int64, 0)) > longestAway {
			return errors.New("the index was away for too long: begin again with an empty database")
		}
		for _, number := range partitions {
			insert := "INSERT OR IGNORE INTO offsets VALUES (?, 0, ?)"
			if _, err := tx.ExecContext(ctx, insert, number, now.Unix()); err != nil {
				return err
			}
			var next int64
			read := "SELECT next FROM offsets WHERE partition = ?"
			if err := tx.QueryRowContext(ctx, read, number).Scan(&next); err != nil {
				return err
			}
			offsets[number] = next
		}
		return nil
	})
	return offsets, err
}

// take takes records in, and moves offsets, in the database and here.
func take(ctx context.Context, db *sql.DB, records []*kgo.Record, offsets Offsets) error {
	after := Offsets{}
	for _, record := range records {
		after[record.Partition] = record.Offset + 1
	}
	err := transaction(ctx, db, func(tx *sql.Tx) error {
		for number, offset := range after {
			move := "UPDATE offsets SET next = ?, at = ? WHERE partition = ? AND next = ?"
			moved, err := tx.ExecContext(ctx, move, offset, time.Now().Unix(), number, offsets[number])
			if err != nil {
				return err
			}
			if rows, err := moved.RowsAffected(); err != nil || rows != 1 {
				return errors.Join(errors.New("another process writes to this database"), err)
			}
		}
		for _, record := range records {
			if err := apply(ctx, tx, record.Key, record.Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		maps.Copy(offsets, after)
	}
	return err
}

// Event has the members of all types of events that are needed here; the others are ignored.
type Event struct {
	Type       string `json:"type"`
	DID        string `json:"did"`
	Rev        string `json:"rev"`
	URI        string `json:"uri"`
	Collection string `json:"collection"`
	Action     string `json:"action"`
	CID        string `json:"cid"`
	Active     bool   `json:"active"`
	Status     string `json:"status"`
	State      string `json:"state"`
	Lane       int32  `json:"lane"`
	AsOf       string `json:"asOf"`
	Snapshot   string `json:"snapshot"`
}

// apply does to the tables what one record of the topic says.
//
// Within a partition, and so for an account, the order of the topic is the order of the changes.
func apply(ctx context.Context, tx *sql.Tx, key, value []byte) error {
	if value == nil {
		// A tombstone follows each delete; compaction removes the delete and leaves the tombstone.
		_, err := tx.ExecContext(ctx, "DELETE FROM records WHERE uri = ?", string(key))
		return err
	}
	var event Event
	if err := json.Unmarshal(value, &event); err != nil {
		return err
	}
	var err error
	switch {
	case event.Type == "record" && event.Action == "delete":
		_, err = tx.ExecContext(ctx, "DELETE FROM records WHERE uri = ?", event.URI)
	case event.Type == "record":
		// Creates and updates alike: an update may be the first that is heard of a record, and a sync
		// with "emit": "all" publishes what did not change once more.  A rev that is older than the
		// row's only comes if one reads the topic again into a full database.
		_, err = tx.ExecContext(ctx, `
			INSERT INTO records VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (uri) DO UPDATE
			SET rev = excluded.rev, cid = excluded.cid, event = excluded.event
			WHERE excluded.rev >= records.rev`,
			event.URI, event.DID, event.Collection, event.Rev, event.CID,
			string(value)) // not written anew: numbers keep their digits
	case event.Type == "account":
		// Hide, do not delete: an account may come back, and its records are not sent again.  If it
		// was deleted, a delete comes for each record.
		_, err = tx.ExecContext(ctx, `
			INSERT INTO accounts (did, active, status) VALUES (?, ?, ?) ON CONFLICT (did)
			DO UPDATE SET active = excluded.active, status = excluded.status`,
			event.DID, event.Active, event.Status)
	case event.Type == "sync":
		_, err = tx.ExecContext(ctx, `
			INSERT INTO accounts (did, stale) VALUES (?, ?) ON CONFLICT (did)
			DO UPDATE SET stale = excluded.stale`,
			event.DID, event.State != "active")
	case event.Type == "progress":
		_, err = tx.ExecContext(ctx, `
			INSERT INTO lanes (lane, as_of) VALUES (?, ?) ON CONFLICT (lane)
			DO UPDATE SET as_of = excluded.as_of`,
			event.Lane, event.AsOf)
	case event.Type == "snapshot_complete":
		_, err = tx.ExecContext(ctx, `
			INSERT INTO lanes (lane, snapshot) VALUES (?, ?) ON CONFLICT (lane)
			DO UPDATE SET snapshot = excluded.snapshot`,
			event.Lane, event.Snapshot)
	default:
		// identity: nothing here depends on handles; others are for newer programs
	}
	return err
}

// transaction commits what do does, or nothing of it.
func transaction(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}
