// Follow chive.events into PostgreSQL, each event exactly once.
//
//     node follow.js localhost:9092 chive.events postgresql://localhost/index
//
// The offsets lie in the database and are written by the transaction that takes the events in: after a
// crash at any point both are there, or neither. Kafka's own offsets are not used, and nothing has to be
// done to stop: end the process in any way, and start it again.

import { randomUUID } from 'node:crypto'
import { Kafka, logLevel, type KafkaMessage } from 'kafkajs'
import pg from 'pg'

const BATCH = 500 // events in a transaction, at most
// The topic forgets what was deleted 14 days ago or earlier (min.compaction.lag.ms and
// delete.retention.ms). An index that was away for longer could keep deleted records for ever.
const LONGEST_AWAY = 7 * 86_400 // seconds

const SCHEMA = `
CREATE TABLE IF NOT EXISTS offsets (  -- the next to read, and when it was written (Unix time)
    partition int PRIMARY KEY, next bigint NOT NULL,
    at double precision NOT NULL DEFAULT extract(epoch FROM now()));
CREATE TABLE IF NOT EXISTS records (  -- event: the newest event of the record
    uri text PRIMARY KEY, did text NOT NULL, collection text NOT NULL, rev text COLLATE "C" NOT NULL,
    cid text NOT NULL, event jsonb NOT NULL);
CREATE INDEX IF NOT EXISTS records_did ON records (did);
CREATE TABLE IF NOT EXISTS accounts (  -- stale: records may be missing or out of date for now
    did text PRIMARY KEY, active boolean NOT NULL DEFAULT true,
    status text NOT NULL DEFAULT 'active', stale boolean NOT NULL DEFAULT false);
CREATE TABLE IF NOT EXISTS lanes (  -- of a partition: complete up to when, and which snapshot
    lane int PRIMARY KEY, as_of timestamptz, snapshot text);
CREATE OR REPLACE VIEW shown AS  -- what people may see
    SELECT uri, did, collection, cid, event -> 'record' AS record, coalesce(stale, false) AS stale
    FROM records LEFT JOIN accounts USING (did) WHERE coalesce(active, true);
`

// The members that are needed here, of all types of events; the others are ignored.
interface Event {
  type: string
  did: string
  rev: string
  uri: string
  collection: string
  action: string
  cid: string
  active: boolean
  status: string
  state: string
  lane: number
  asOf: string
  snapshot: string
}

type Offsets = Map<number, bigint> // the next to read, by partition

// Takes `topic` on `server` into the database, for ever.
async function follow(server: string, topic: string, address: string): Promise<void> {
  const database = new pg.Client(address)
  await database.connect()
  const kafka = new Kafka({
    brokers: [server],
    logLevel: logLevel.WARN,
    retry: { retries: Infinity, maxRetryTime: 5_000 }, // a Kafka that is away is waited for
  })
  const admin = kafka.admin()
  await admin.connect()
  const partitions = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()
  const offsets = await stored(database, partitions.map(({ partition }) => partition))
  for (const { partition, low, high } of partitions) {
    // The client would begin somewhere else without a word.
    const next = offsets.get(partition)!
    if (next < BigInt(low) || next > BigInt(high)) {
      throw new Error(`offset ${next} is out of range: begin again with an empty database`)
    }
  }

  // The client wants a group. One without other members has all partitions, and a new one at each
  // start does not wait until the last one has timed out. Its offsets are never written.
  const consumer = kafka.consumer({ groupId: `follow-${randomUUID()}`, allowAutoTopicCreation: false })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  consumer.on(consumer.events.GROUP_JOIN, () => {
    for (const [partition, next] of offsets) consumer.seek({ topic, partition, offset: `${next}` })
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) stop(payload.error) // else it begins again by itself: Kafka was away
  })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat }) => {
      const next = offsets.get(batch.partition)!
      const fresh = batch.messages.filter(({ offset }) => BigInt(offset) >= next)
      for (let start = 0; start < fresh.length; start += BATCH) {
        const messages = fresh.slice(start, start + BATCH)
        await take(database, batch.partition, messages, offsets).catch(stop)
        resolveOffset(messages.at(-1)!.offset)
        await heartbeat()
      }
      resolveOffset(batch.lastOffset())
    },
  })
}

// Returns the next offset of each partition: 0 in a new database.
async function stored(database: pg.Client, partitions: number[]): Promise<Offsets> {
  await transaction(database, async () => {
    await database.query(`SELECT pg_advisory_xact_lock(hashtext('follow'))`)
    await database.query(SCHEMA)
  })
  // Not in the same transaction: CREATE INDEX locks the table, also where the index is there, and another
  // process that writes to it may hold rows of offsets.
  return await transaction(database, async () => {
    const away = await database.query(
      `SELECT max(at) < extract(epoch FROM now()) - $1::int AS long FROM offsets`, [LONGEST_AWAY])
    if (away.rows[0].long) {
      throw new Error('the index was away for too long: begin again with an empty database')
    }
    await database.query(
      `INSERT INTO offsets SELECT unnest($1::int[]), 0 ON CONFLICT DO NOTHING`, [partitions])
    const { rows } = await database.query(`SELECT partition, next FROM offsets`)
    return new Map(rows.map(({ partition, next }) => [partition, BigInt(next)]))
  })
}

// Takes messages of one partition in, and moves its offset, in the database and here.
async function take(
  database: pg.Client, partition: number, messages: KafkaMessage[], offsets: Offsets,
): Promise<void> {
  const after = BigInt(messages.at(-1)!.offset) + 1n
  await transaction(database, async () => {
    const moved = await database.query(
      `UPDATE offsets SET next = $1, at = DEFAULT WHERE partition = $2 AND next = $3`,
      [after, partition, offsets.get(partition)])
    if (moved.rowCount !== 1) throw new Error('another process writes to this database')
    for (const { key, value } of messages) await apply(database, key, value)
  })
  offsets.set(partition, after)
}

// Does to the tables what one record of the topic says.
//
// Within a partition, and so for an account, the order of the topic is the order of the changes.
async function apply(database: pg.Client, key: Buffer | null, value: Buffer | null): Promise<void> {
  if (value === null) {
    // A tombstone follows each delete; compaction removes the delete and leaves the tombstone.
    await database.query(`DELETE FROM records WHERE uri = $1`, [key?.toString()])
    return
  }
  const text = value.toString()
  const event: Event = JSON.parse(text)
  if (event.type === 'record' && event.action === 'delete') {
    await database.query(`DELETE FROM records WHERE uri = $1`, [event.uri])
  } else if (event.type === 'record') {
    // Creates and updates alike: an update may be the first that is heard of a record, and a sync with
    // "emit": "all" publishes what did not change once more. A rev that is older than the row's only
    // comes if one reads the topic again into a full database.
    await database.query(
      `INSERT INTO records VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (uri) DO UPDATE
       SET rev = excluded.rev, cid = excluded.cid, event = excluded.event
       WHERE excluded.rev >= records.rev`,
      [event.uri, event.did, event.collection, event.rev, event.cid, storable(text)])
  } else if (event.type === 'account') {
    // Hide, do not delete: an account may come back, and its records are not sent again. If it was
    // deleted, a delete comes for each record.
    await database.query(
      `INSERT INTO accounts (did, active, status) VALUES ($1, $2, $3) ON CONFLICT (did)
       DO UPDATE SET active = excluded.active, status = excluded.status`,
      [event.did, event.active, event.status])
  } else if (event.type === 'sync') {
    await database.query(
      `INSERT INTO accounts (did, stale) VALUES ($1, $2) ON CONFLICT (did)
       DO UPDATE SET stale = excluded.stale`,
      [event.did, event.state !== 'active'])
  } else if (event.type === 'progress') {
    await database.query(
      `INSERT INTO lanes (lane, as_of) VALUES ($1, $2) ON CONFLICT (lane)
       DO UPDATE SET as_of = excluded.as_of`,
      [event.lane, event.asOf])
  } else if (event.type === 'snapshot_complete') {
    await database.query(
      `INSERT INTO lanes (lane, snapshot) VALUES ($1, $2) ON CONFLICT (lane)
       DO UPDATE SET snapshot = excluded.snapshot`,
      [event.lane, event.snapshot])
  }
  // identity: nothing here depends on handles; others are for newer programs
}

// Returns an event as PostgreSQL takes it: without the character 0, which a record may hold. It is not
// written anew by JSON.stringify, which would round large numbers.
function storable(text: string): string {
  return text.replace(/(?<!\\)((?:\\\\)*)\\u0000/g, '$1\\ufffd')
}

// Commits what `work` does, or nothing of it.
async function transaction<T>(database: pg.Client, work: () => Promise<T>): Promise<T> {
  await database.query('BEGIN')
  try {
    const result = await work()
    await database.query('COMMIT')
    return result
  } catch (error) {
    await database.query('ROLLBACK')
    throw error
  }
}

function stop(error: Error): never {
  console.error(error.message)
  process.exit(1)
}

const [server, topic, address] = process.argv.slice(2)
if (!server || !topic || !address) stop(new Error('usage: follow SERVER TOPIC DATABASE'))
follow(server, topic, address).catch(stop)
