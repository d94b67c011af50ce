// The reference implementation of repositories, for comparison: node peer.mjs PACKAGES < questions
//
// One JSON object a line, answered in order by one each; byte strings are in base64.
//   {edit: "add" | "update" | "delete", key, cid}   one change of a tree that was empty at first
//       -> {root, blocks: [...]}                     its root, and the nodes that cover the change
//   {car, did, key, claim: {collection, rkey, cid}}  a record proof; cid null: absent
//       -> {verified}

import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const load = (name) =>
  import(pathToFileURL(`${process.argv[2]}/node_modules/@atproto/${name}/dist/index.js`).href)
const { MST, MemoryBlockstore, verifyProofs } = await load('repo')
const { parseCid } = await load('lex-data')

let tree = await MST.create(new MemoryBlockstore())

const base64 = (bytes) => Buffer.from(bytes).toString('base64')

async function edited({ edit, key, cid }) {
  tree = edit === 'delete' ? await tree.delete(key) : await tree[edit](key, parseCid(cid))
  const root = await tree.getPointer()
  const proof = await tree.getCoveringProof(key)
  return { root: root.toString(), blocks: proof.entries().map(({ bytes }) => base64(bytes)) }
}

async function proven({ car, did, key, claim }) {
  const wanted = { ...claim, cid: claim.cid && parseCid(claim.cid) }
  try {
    const { verified } = await verifyProofs(Buffer.from(car, 'base64'), [wanted], did, key)
    return { verified: verified.length === 1 }
  } catch {
    return { verified: false }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line)
  const answer = await (question.edit ? edited(question) : proven(question))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
