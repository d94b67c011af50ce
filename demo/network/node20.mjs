// What the packages take from Node 22 and Node 20 does not have.  No effect on newer ones.

import 'core-js/actual/index.js'
import worker from 'node:worker_threads'
import zlib from 'node:zlib'

worker.markAsUncloneable ??= () => {}
zlib.createZstdDecompress ??= () => {
  throw new Error('zstd needs Node 22')
}
