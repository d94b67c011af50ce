// The reference PDS and PLC directory on loopback, for the demo and the tests.
//
// Prints one JSON line when both answer: {"pds": URL, "plc": URL, "adminPassword": …}.
// Each line on standard input is answered with {"seq": N}: the firehose's newest seq.
// Stops when its standard input closes (its parent is gone), or on SIGTERM.

import './node20.mjs'
import { randomBytes } from 'node:crypto'
import net from 'node:net'
import { createInterface } from 'node:readline'

// Both servers listen on every interface unless told otherwise.
const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...rest) {
  const only = typeof port === 'number' ? { port, host: '127.0.0.1' } : port
  return listen.call(this, only, ...rest)
}

const { TestNetworkNoAppView } = await import('@atproto/dev-env')

const adminPassword = randomBytes(16).toString('hex')
const network = await TestNetworkNoAppView.create({ pds: { adminPassword } })

let stopping = false
async function stop() {
  if (stopping) return
  stopping = true
  setTimeout(() => process.exit(1), 5000).unref()
  await network.close()
  process.exit(0)
}

process.on('SIGTERM', stop)
process.on('SIGINT', stop)

function say(value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

createInterface({ input: process.stdin })
  .on('line', async () => say({ seq: (await network.pds.ctx.sequencer.curr()) ?? 0 }))
  .on('close', stop)

say({ pds: network.pds.url, plc: network.plc.url, adminPassword })
