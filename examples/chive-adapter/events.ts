// What Chive's indexer takes of what chive.events says.  Pure.

// As Chive's indexer has it. It does not look at the members after `record`; its handler may.
export interface ProcessedEvent {
  $type: 'commit'
  seq: number
  repo: string
  time: string
  action: 'create' | 'update' | 'delete'
  collection: string
  rkey: string
  cid?: string
  record?: unknown
  recordCbor?: string // in place of record: base64, of bytes that are no valid atproto data or too large
  pdsUrl?: string
  rev?: string
  live?: boolean
  offset: number // of two events of a record, the one with the higher offset counts
}

// A record of the topic, as KafkaJS gives it.
export interface Message {
  key: Buffer | null
  value: Buffer | null
  timestamp: string
  offset: string
  headers?: Record<string, Buffer | string | (Buffer | string)[] | undefined>
}

// `id` is the same whenever the message is read again.
export interface Delivery {
  id: string
  event: ProcessedEvent
}

// The members that are needed here, of all types of events; the others are ignored.
interface Event {
  type: string
  id: string
  seq: number
  time: string
  did: string
  rev: string
  collection: string
  rkey: string
  action: 'create' | 'update' | 'delete'
  cid: string | null
  record: unknown
  recordCbor?: string
  pds: string | null
  live: boolean
}

// Returns what messages of one partition, in their order, say of records.
//
// Other events say nothing that the indexer takes. A tombstone that follows its delete says nothing
// new; one whose delete compaction has removed is a delete.
export function deliveries(partition: number, messages: Message[]): Delivery[] {
  const found: Delivery[] = []
  const deleted = new Set<string>() // keys whose last event here is a delete
  for (const message of messages) {
    const key = message.key?.toString() ?? ''
    if (message.value === null && deleted.has(key)) continue
    const delivery = message.value === null
      ? ofTombstone(partition, key, message)
      : ofEvent(JSON.parse(message.value.toString()), message)
    if (delivery === undefined) continue
    if (delivery.event.action === 'delete') deleted.add(key)
    else deleted.delete(key)
    found.push(delivery)
  }
  return found
}

function ofEvent(event: Event, { offset }: Message): Delivery | undefined {
  if (event.type !== 'record') return undefined
  const { seq, time, rev, action, collection, rkey, live } = event
  const processed: ProcessedEvent = {
    $type: 'commit', seq, repo: event.did, time, action, collection, rkey, rev, live, offset: Number(offset),
  }
  if (event.cid !== null) processed.cid = event.cid
  if (event.record !== null) processed.record = event.record
  if (event.recordCbor !== undefined) processed.recordCbor = event.recordCbor
  if (event.pds !== null) processed.pdsUrl = event.pds
  return { id: event.id, event: processed }
}

// A tombstone has no seq, and one of an earlier version no rev: 0, and none.
function ofTombstone(partition: number, key: string, message: Message): Delivery | undefined {
  const [, repo, collection, rkey] = /^at:\/\/([^/]+)\/([^/]+)\/([^/]+)$/.exec(key) ?? []
  if (repo === undefined || collection === undefined || rkey === undefined) return undefined
  const event: ProcessedEvent = {
    $type: 'commit', seq: 0, repo, time: new Date(Number(message.timestamp)).toISOString(),
    action: 'delete', collection, rkey, offset: Number(message.offset),
  }
  const rev = message.headers?.rev
  if (rev !== undefined) event.rev = rev.toString()
  return { id: `${partition}-${message.offset}-${message.timestamp}`, event }
}
