import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deliveries, type Message } from './events.js'

const URI = 'at://did:plc:abc/pub.chive.eprint.submission/3l4k2h7zqmc2a'
const EVENT = {
  v: 1, type: 'record', id: '0123456789abcdef0123456789abcdef', seq: 7, time: '2026-07-04T14:39:14.500Z',
  did: 'did:plc:abc', repo: 'did:plc:abc', rev: '3l4k2h7zqmc2b', uri: URI, collection: 'pub.chive.eprint.submission',
  rkey: '3l4k2h7zqmc2a', action: 'create', cid: 'bafyreia', prev: null,
  record: { file: { $link: 'bafkreia' }, digest: { $bytes: 'AAEC' } }, live: true, source: 'firehose',
  operationId: null, pds: 'https://pds.example', relay: 'wss://relay.example', later: 'ignored',
}

let offset = 40
function message(value: object | null, key = URI, headers: Message['headers'] = {}): Message {
  const bytes = value === null ? null : Buffer.from(JSON.stringify(value))
  return { key: Buffer.from(key), value: bytes, timestamp: '1783175954500', offset: `${++offset}`, headers }
}

const gone = (key = URI) => message(null, key, { rev: Buffer.from('3l4k2h7zqmc2c') })

test('a create has what the indexer takes, and its record as atproto JSON', () => {
  const created = message(EVENT)
  assert.deepEqual(deliveries(3, [created]), [{
    id: EVENT.id,
    event: {
      $type: 'commit', seq: 7, repo: 'did:plc:abc', time: EVENT.time, action: 'create',
      collection: EVENT.collection, rkey: EVENT.rkey, cid: 'bafyreia', record: EVENT.record,
      pdsUrl: 'https://pds.example', rev: EVENT.rev, live: true, offset: Number(created.offset),
    },
  }])
})

test('what is null in the event is absent', () => {
  const [created] = deliveries(0, [message({ ...EVENT, record: null, recordCbor: 'oA==', pds: null })])
  assert.equal(created!.event.recordCbor, 'oA==')
  assert.ok(!('record' in created!.event) && !('pdsUrl' in created!.event))
  const [deleted] = deliveries(0, [message({ ...EVENT, action: 'delete', cid: null, record: null })])
  assert.equal(deleted!.event.action, 'delete')
  assert.ok(!('record' in deleted!.event) && !('cid' in deleted!.event))
})

test('a tombstone after its delete says nothing new, and one without it is a delete', () => {
  const deleted = { ...EVENT, id: 'd', action: 'delete', cid: null, record: null }
  const actions = (...messages: Message[]) => deliveries(0, messages).map(({ event }) => event.action)
  assert.deepEqual(actions(message(deleted), gone()), ['delete'])
  assert.deepEqual(actions(message(deleted), gone(), message(EVENT), gone()), ['delete', 'create', 'delete'])
  assert.deepEqual(actions(message(deleted), gone(`${URI}b`)), ['delete', 'delete'])
  const alone = gone()
  assert.deepEqual(deliveries(3, [alone]), [{
    id: `3-${alone.offset}-1783175954500`,
    event: {
      $type: 'commit', seq: 0, repo: 'did:plc:abc', time: EVENT.time, action: 'delete',
      collection: EVENT.collection, rkey: EVENT.rkey, rev: '3l4k2h7zqmc2c', offset: Number(alone.offset),
    },
  }])
})

test('a message that is read again has the same id', () => {
  const messages = [message(EVENT), gone()]
  assert.deepEqual(deliveries(0, messages), deliveries(0, messages))
})

test('what the indexer has no event for is left out', () => {
  const types = ['account', 'identity', 'sync', 'progress', 'snapshot_complete', 'later']
  const others = types.map((type) => message({ v: 1, type, id: type }, `did:plc:abc#${type}`))
  assert.deepEqual(deliveries(0, [...others, gone('did:plc:abc#later'), gone('lane/1'), message(EVENT)]).length, 1)
})
