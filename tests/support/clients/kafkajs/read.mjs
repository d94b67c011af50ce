// Prints every committed record of a topic with KafkaJS; see tests/support/clients/__init__.py.
import { createHash } from 'node:crypto'
import { Kafka, logLevel } from 'kafkajs'

const [broker, topic, partitions] = process.argv.slice(2)
const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR })
// read_committed is what KafkaJS does unless readUncommitted is set.
const consumer = kafka.consumer({ groupId: `${topic}-kafkajs` })
const ended = new Set()
let done
const finished = new Promise((resolve) => (done = resolve))

await consumer.connect()
await consumer.subscribe({ topic, fromBeginning: true })
await consumer.run({
  autoCommit: false,
  eachMessage: async ({ partition, message }) => {
    const { offset, key, value, headers } = message
    const digest = value === null ? '-' : createHash('sha256').update(value).digest('hex')
    const named = Object.entries(headers ?? {}).map(([name, text]) => `${name}=${text}`)
    console.log([partition, offset, key, digest, ...named].join(' '))
    if (key.toString() === 'end') ended.add(partition)
    if (ended.size === Number(partitions)) done()
  },
})
await finished
await consumer.disconnect()
