// Prints every committed record of a topic with @platformatic/kafka; see tests/support/clients/__init__.py.
import { createHash } from 'node:crypto'
import { Consumer, FetchIsolationLevels } from '@platformatic/kafka'

const [broker, topic, partitions] = process.argv.slice(2)
const consumer = new Consumer({
  groupId: `${topic}-platformatic`,
  clientId: 'reader',
  bootstrapBrokers: [broker],
  isolationLevel: FetchIsolationLevels.READ_COMMITTED, // as by default
})
const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: false })
const ended = new Set()

for await (const { partition, offset, key, value, headers } of stream) {
  // The value of a tombstone is undefined.
  const digest = value == null ? '-' : createHash('sha256').update(value).digest('hex')
  const named = [...headers].map(([name, text]) => `${name}=${text}`)
  console.log([partition, offset, key, digest, ...named].join(' '))
  if (key.toString() === 'end') ended.add(partition)
  if (ended.size === Number(partitions)) break
}
await consumer.close(true)
