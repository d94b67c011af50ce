// A consumer as the documentation of npm @atproto/sync shows it; events are counted and dropped.
//
//   node sync.mjs PACKAGES RELAY PLC KAFKA TOPIC SEQ...     prints "passed SEQ" once it is at each SEQ

import { pathToFileURL } from 'node:url'

const [packages, service, plcUrl, , , ...seqs] = process.argv.slice(2)
const load = (path) => import(pathToFileURL(`${packages}/${path}`).href)

await load('node20.mjs')
const { IdResolver, MemoryCache } = await load('node_modules/@atproto/identity/dist/index.js')
const { Firehose } = await load('node_modules/@atproto/sync/dist/index.js')

// fetch: the default one refuses loopback.
const marks = seqs.map(Number)
let seen = -1

const firehose = new Firehose({
  service,
  idResolver: new IdResolver({ plcUrl, didCache: new MemoryCache(), fetch }),
  getCursor: () => (seen < 0 ? 0 : seen),
  handleEvent: ({ seq }) => {
    seen = seq
    while (seen >= marks[0]) console.log(`passed ${marks.shift()}`)
  },
  onError: (error) => {
    console.error(error)
    process.exit(1)
  },
})
await firehose.start()
