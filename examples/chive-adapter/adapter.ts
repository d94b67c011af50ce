// Bring the records of chive.events to Chive's indexer, each at least once.
//
//     node adapter.js localhost:9092 chive.events redis://localhost:6379    into its queue
//     node adapter.js localhost:9092 chive.events ./handler.js              into a handler, without a queue
//
// The offsets are those of a consumer group in Kafka, and are written when the queue has the jobs, or the
// handler is done. After a crash at any point what is not written comes again, in the same order.

import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue, type JobsOptions } from 'bullmq'
import { Kafka, logLevel, type EachBatchPayload } from 'kafkajs'
import { deliveries, type Delivery, type ProcessedEvent } from './events.js'

const GROUP = process.env.GROUP ?? 'chive-indexer' // another one begins with the whole topic
const DEPTH = Number(process.env.DEPTH ?? 900) // jobs in the queue; Chive's indexer refuses more from 1,000 on
const BATCH = 50 // messages between two writings of the offset
const SESSION = 10_000 // ms until Kafka gives the partitions of a process that died to another
const GRACE = 10_000 // ms for what is being delivered when it is told to stop
const PATIENCE = 1_000 // ms between two tries, or two looks at the queue

// As Chive's indexer sets up its own queue.
const QUEUE = 'firehose-events'
const OPTIONS: JobsOptions = {
  attempts: 4,
  backoff: { type: 'exponential', delay: 1_000 },
  removeOnComplete: { age: 3_600, count: 1_000 },
  removeOnFail: { age: 86_400 },
}

export type Handler = (event: ProcessedEvent) => Promise<void>

// Where events go: `deliver` is done when they are there for good, and may be called again with some of them.
interface Target {
  ready: () => Promise<boolean>
  deliver: (deliveries: Delivery[]) => Promise<void>
}

function intoQueue(address: string): Target {
  // A command that finds no Redis fails, and is tried again below.
  const connection = { url: address, maxRetriesPerRequest: 1, retryStrategy: () => PATIENCE }
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: OPTIONS })
  queue.on('error', (error) => console.error(`redis: ${error.message || error}`))
  return {
    ready: async () => {
      const { waiting, active, delayed } = await queue.getJobCounts('waiting', 'active', 'delayed')
      return waiting! + active! + delayed! < DEPTH
    },
    deliver: async (some) => {
      // A job whose id the queue has is not added again.
      await queue.addBulk(some.map(({ id, event }) => (
        { name: 'process', data: { event, attempt: 0 }, opts: { jobId: `${GROUP}-${id}` } }
      )))
    },
  }
}

async function intoHandler(path: string): Promise<Target> {
  const { default: handle }: { default: Handler } = await import(pathToFileURL(resolve(path)).href)
  return {
    ready: async () => true,
    deliver: async (some) => {
      for (const { event } of some) await handle(event)
    },
  }
}

// Takes `topic` on `server` into `target`, until it is told to stop.
async function follow(server: string, topic: string, target: Target): Promise<void> {
  const kafka = new Kafka({
    brokers: [server],
    logLevel: logLevel.WARN,
    retry: { retries: Infinity, maxRetryTime: 5_000 }, // a Kafka that is away is waited for
  })
  // Records of aborted transactions are left out: readUncommitted is false by default.
  const consumer = kafka.consumer({
    groupId: GROUP,
    sessionTimeout: SESSION,
    allowAutoTopicCreation: false,
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) stop(payload.error) // else it begins again by itself: Kafka was away
  })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async (batch) => {
      for (let start = 0; start < batch.batch.messages.length; start += BATCH) {
        const messages = batch.batch.messages.slice(start, start + BATCH)
        if (!(await delivered(target, deliveries(batch.batch.partition, messages), batch))) return
        await written(messages.at(-1)!.offset, batch)
      }
      await written(batch.batch.lastOffset(), batch)
    },
  })
  // What is being delivered is brought to its end, and its offset written; what takes too long comes again.
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.once(signal, () => {
      consumer.disconnect().then(() => process.exit(0)).catch(stop)
    })
  }

  async function written(offset: string, { batch, resolveOffset, heartbeat }: EachBatchPayload): Promise<void> {
    const next = `${BigInt(offset) + 1n}`
    await consumer.commitOffsets([{ topic, partition: batch.partition, offset: next }])
    resolveOffset(offset)
    await heartbeat()
  }
}

// Returns true when the target has them, however long that takes; false if they are not ours any more.
//
// Kafka hears of us meanwhile: it would give the partition to another process.
async function delivered(target: Target, some: Delivery[], batch: EachBatchPayload): Promise<boolean> {
  while (batch.isRunning() && !batch.isStale()) {
    try {
      if (some.length === 0) return true
      if (await alive(target.ready(), batch)) {
        await alive(target.deliver(some), batch)
        return true
      }
    } catch (error) {
      if (!(error instanceof Failure)) throw error // of Kafka
      console.error(`not delivered yet: ${error.message}`)
    }
    await alive(sleep(PATIENCE), batch)
  }
  return false
}

class Failure extends Error {}

async function alive<T>(work: Promise<T>, { heartbeat, isRunning }: EachBatchPayload): Promise<T> {
  const outcome = work.then((value) => () => value, (error) => () => { throw new Failure(error.message) })
  for (let left = GRACE; left > 0; left -= isRunning() ? 0 : PATIENCE) {
    const done = await Promise.race([outcome, sleep(PATIENCE)])
    if (done) return done()
    await heartbeat()
  }
  throw new Failure('stopped before that')
}

function stop(error: Error): never {
  console.error(error.message)
  process.exit(1)
}

const [server, topic, place] = process.argv.slice(2)
if (!server || !topic || !place) stop(new Error('usage: adapter SERVER TOPIC REDIS_OR_HANDLER'))
const target = /^rediss?:/.test(place) ? intoQueue(place) : await intoHandler(place)
follow(server, topic, target).catch(stop)
